"""Whom the host asks for names."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.network import resolvconf
from sampan.network.resolvconf import ResolvConf

OWN = Path("/etc/resolv.conf")
SYSTEMD = Path("/run/systemd/resolve/resolv.conf")
_Stamp = tuple[int, int, int] | None


def read(own: Path = OWN, systemd: Path = SYSTEMD) -> tuple[ResolvConf, ResolvConf | None]:
    """The host's resolv.conf, and systemd's where the host's only names its stub."""
    parsed = resolvconf.parse(_text(own))
    behind = resolvconf.parse(_text(systemd)) if resolvconf.wants_systemd(parsed) else None
    return parsed, behind if behind is not None and behind.nameservers else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not there, or being replaced
        return ""


class HostResolvers:
    """What resolv.conf says, read again when it has changed: a host comes to another network, or a VPN."""

    def __init__(self, own: Path = OWN, systemd: Path = SYSTEMD) -> None:
        self._paths = own, systemd
        self._stamps: tuple[_Stamp, ...] = ()
        self._found: tuple[str, ...] = ()

    def current(self) -> tuple[str, ...]:
        stamps = tuple(_stamp(path) for path in self._paths)
        if stamps != self._stamps:
            self._stamps, self._found = stamps, resolvconf.upstream(*read(*self._paths))
        return self._found


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
