from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from sampan.daemon.listen import open_listener, open_metrics_listener
from sampan.errors import Invalid, Unavailable


def test_listening_on_the_network_without_tls_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with caplog.at_level(logging.WARNING), open_listener(f"tcp://127.0.0.1:{port}"):
        pass
    assert [f"tcp://127.0.0.1:{port} without TLS" in one.getMessage() for one in caplog.records] == [True]


def test_listening_on_a_local_socket_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_listener(f"unix://{tmp_path}/api.sock"):
        pass
    assert caplog.records == []


def test_metrics_are_listened_for_at_ipv6_addresses_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    with open_metrics_listener(f"tcp://[::1]:{port}") as listener:
        assert listener.getsockname()[:2] == ("::1", port)


def test_a_metrics_address_that_is_none_or_somebody_elses_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match=r"tcp://\[::1x\]:1"):
        open_metrics_listener("tcp://[::1x]:1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=address):
            open_metrics_listener(address)
