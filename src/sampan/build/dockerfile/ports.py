"""Port specifications of EXPOSE: `port`, `first-last`, `.../protocol`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sampan.errors import Invalid

MAX_PORTS = 3 * 65536
"""Ports that the EXPOSE instructions of one stage may name, repetitions counted: each port of each protocol."""

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port_specs(words: Iterable[str]) -> tuple[str, ...]:
    """Each port as `number/protocol`, in order and as often as it is named. Host parts of `-p` (`host:container`)
    are accepted and dropped, as Docker does. Raises `Invalid`.
    """
    ports: list[str] = []
    count = 0
    for word in words:
        numbers, _, protocol = word.partition("/")
        protocol = protocol.lower() or "tcp"
        if protocol not in _PROTOCOLS:
            raise Invalid(f"invalid proto: {protocol}", hint="tcp, udp or sctp")
        container = numbers.rpartition(":")[2]
        match = _RANGE.fullmatch(container)
        if not match:
            raise Invalid(f"invalid containerPort: {container}", hint="a number or a range such as 8000-8010")
        first, last = int(match[1]), int(match[2] or match[1])
        if last > 65535 or first > last:
            raise Invalid(f"invalid containerPort: {container}", hint="ports go from 0 to 65535")
        count += last + 1 - first
        if count > MAX_PORTS:
            raise Invalid(f"more than {MAX_PORTS} ports", hint="an image needs to name few ports")
        for port in range(first, last + 1):
            ports.append(f"{port}/{protocol}")
    return tuple(ports)
