"""Whom the name server asks of what the host has."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.network.host_resolvers import HostResolvers


@pytest.mark.parametrize(
    ("own", "systemd", "asked"),
    [
        ("nameserver 192.0.2.1\n", None, ("192.0.2.1",)),
        # dnsmasq, unbound, ... on the host: reachable for the name server, unlike for a container.
        ("nameserver 127.0.0.1\nnameserver ::1\n", None, ("127.0.0.1", "::1")),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.7\n", ("192.0.2.7",)),
        ("nameserver 127.0.0.53\n", None, ("127.0.0.53",)),
        ("", None, ()),
    ],
)
def test_the_name_server_asks_whom_the_host_asks(
    tmp_path: Path, own: str, systemd: str | None, asked: tuple[str, ...]
) -> None:
    (tmp_path / "own").write_text(own)
    if systemd is not None:
        (tmp_path / "systemd").write_text(systemd)
    assert HostResolvers(tmp_path / "own", tmp_path / "systemd").current() == asked


def test_a_changed_resolv_conf_is_read_again_and_a_removed_one_names_nobody(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("nameserver 192.0.2.1\n")
    resolvers = HostResolvers(own, tmp_path / "systemd")
    assert resolvers.current() == ("192.0.2.1",)
    (tmp_path / "new").write_text("nameserver 192.0.2.2\n")
    (tmp_path / "new").rename(own)
    assert resolvers.current() == ("192.0.2.2",)
    own.unlink()
    assert resolvers.current() == ()
