"""What the composition root reads of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.daemon.wiring import host_resolvers


@pytest.mark.parametrize(
    ("own", "systemd", "asked"),
    [
        ("nameserver 192.0.2.1\n", None, ("192.0.2.1",)),
        # dnsmasq, unbound, ... on the host: reachable for the name server, unlike for a container.
        ("nameserver 127.0.0.1\nnameserver ::1\n", None, ("127.0.0.1", "::1")),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.7\n", ("192.0.2.7",)),
        ("nameserver 127.0.0.53\n", None, ("127.0.0.53",)),
        ("", None, ("8.8.8.8", "8.8.4.4")),
    ],
)
def test_the_name_server_asks_whom_the_host_asks(
    tmp_path: Path, own: str, systemd: str | None, asked: tuple[str, ...]
) -> None:
    (tmp_path / "own").write_text(own)
    if systemd is not None:
        (tmp_path / "systemd").write_text(systemd)
    assert host_resolvers(tmp_path / "own", tmp_path / "systemd") == asked
