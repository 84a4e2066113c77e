"""/etc/hosts of a container. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

HOST_GATEWAY = "host-gateway"


def render(
    addresses: Sequence[str],
    hostname: str,
    domainname: str = "",
    extra: Iterable[str] = (),
    links: Iterable[tuple[str, str]] = (),
    *,
    gateways: Sequence[str] = (),
) -> str:
    """`addresses`: the container's own. `extra`: `name:address` of --add-host; `links`: (address, names)."""
    lines = [_HEAD, entries(extra, gateways)]
    lines += [f"{address}\t{names}\n" for address, names in links]
    own = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    if not domainname and "." in hostname:
        own = f"{hostname} {hostname.partition('.')[0]}"
    lines += [f"{address}\t{own}\n" for address in addresses]
    return "".join(lines)


def for_step(hostname: str, extra: Iterable[str], gateways: Sequence[str]) -> str:
    """Of a build's step, as BuildKit has it: always the same, with no address that the step has just now."""
    own = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    return own + entries(extra, gateways)


def entries(extra: Iterable[str], gateways: Sequence[str]) -> str:
    """The lines of --add-host; `host-gateway` is the host's addresses, `gateways`."""
    lines = []
    for entry in extra:
        name, _, address = entry.replace("=", ":", 1).partition(":")
        chosen = gateways if address == HOST_GATEWAY else (address.strip("[]"),)
        lines += [f"{one}\t{name}\n" for one in chosen]
    return "".join(lines)
