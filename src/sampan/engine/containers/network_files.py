"""/etc/hosts of a running container, when it is connected to networks and disconnected."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from sampan.engine import hosts_file
from sampan.engine.containers.specs import hostname_of, write_file
from sampan.engine.model import ContainerRecord, Endpoint

log = logging.getLogger(__name__)

_MOST = 1 << 20  # bytes of a file that a container may have filled


def follow_networks(directory: Path, record: ContainerRecord, after: Mapping[str, Endpoint]) -> None:
    """Blocking: /etc/hosts of the container whose files are in `directory` names the addresses that it has now."""
    names = hostname_of(record), record.config.domainname
    before = hosts_file.own_lines(_addresses(record.endpoints.values()), *names)
    now = hosts_file.own_lines(_addresses(after.values()), *names)
    if before == now:
        return
    path = directory / "hosts"
    text = _read(path)
    if text is not None:
        write_file(path, hosts_file.follow(text, [line for line in before if line not in now], now))


def _addresses(endpoints: Iterable[Endpoint]) -> list[str]:
    return [address for one in endpoints if one.spec is not None for address in one.spec.bare_addresses]


def _read(path: Path) -> str | None:
    """None for what is not there, or is none of ours any more."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
    except FileNotFoundError:
        return None
    if len(content) > _MOST:
        log.warning("%s is larger than %d bytes; it is left as it is", path, _MOST)
        return None
    return content.decode("utf-8", "surrogateescape")
