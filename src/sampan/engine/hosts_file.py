"""/etc/hosts of a container. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sampan.errors import Invalid

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
    return "".join(lines + own_lines(addresses, hostname, domainname))


def own_lines(addresses: Iterable[str], hostname: str, domainname: str) -> list[str]:
    own = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    if not domainname and "." in hostname:
        own = f"{hostname} {hostname.partition('.')[0]}"
    return [f"{address}\t{own}\n" for address in addresses]


def follow(text: str, gone: Sequence[str], come: Sequence[str]) -> str:
    """The file of a running container, whoever has changed it, without the first of these lines and with the others."""
    kept = [line for line in text.splitlines(keepends=True) if line not in gone or line in come]
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    return "".join([*kept, *(line for line in come if line not in kept)])


def for_step(hostname: str, extra: Iterable[str], gateways: Sequence[str]) -> str:
    """Of a build's step, as BuildKit has it: always the same, with no address that the step has just now."""
    own = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    return own + entries(extra, gateways)


def entries(extra: Iterable[str], gateways: Sequence[str]) -> str:
    """The lines of --add-host; `host-gateway` is the host's addresses, `gateways`. Raises `Invalid` without any."""
    lines = []
    for entry in extra:
        name, _, address = entry.replace("=", ":", 1).partition(":")
        chosen = gateways if address == HOST_GATEWAY else (address.strip("[]"),)
        if not chosen:
            raise Invalid("unable to derive the IP value for host-gateway")
        lines += [f"{one}\t{name}\n" for one in chosen]
    return "".join(lines)
