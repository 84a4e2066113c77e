from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from sampan.daemon.listen import open_listener


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
