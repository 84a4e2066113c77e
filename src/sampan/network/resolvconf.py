"""resolv.conf(5): what a container gets of the host's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

FALLBACK = ("8.8.8.8", "8.8.4.4")  # Docker's, when the host has no resolver that a container could reach
FALLBACK6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")  # and where the container has IPv6
SYSTEMD_STUB = "127.0.0.53"  # the real resolvers are then in /run/systemd/resolve/resolv.conf
EMBEDDED = "127.0.0.11"  # sampan's name server in containers on user-defined networks


@dataclass(frozen=True, slots=True)
class ResolvConf:
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    """The last `search` or `domain` line wins, as in the C library; what is malformed is ignored."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _is_address(words[1]):
            nameservers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(word for word in words[1:] if word != ".")
        elif words[0] == "options":
            options.extend(words[1:])
    return ResolvConf(tuple(nameservers), search, tuple(options))


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_local(server: str) -> bool:
    return ip_address(server.partition("%")[0]).is_loopback


def wants_systemd(host: ResolvConf) -> bool:
    """The host's only resolver is systemd's stub: read /run/systemd/resolve/resolv.conf instead."""
    return host.nameservers == (SYSTEMD_STUB,)


def for_container(host: ResolvConf, systemd: ResolvConf | None = None, *, ipv6: bool = False) -> ResolvConf:
    """For a container that asks resolvers directly (default bridge).

    `systemd` is the parsed /run/systemd/resolve/resolv.conf, when there is one.
    """
    source = systemd if systemd is not None and wants_systemd(host) else host
    fallback = (*FALLBACK, *FALLBACK6) if ipv6 else FALLBACK
    return replace(source, nameservers=reachable(host, systemd, ipv6=ipv6) or fallback)


def reachable(host: ResolvConf, systemd: ResolvConf | None = None, *, ipv6: bool = False) -> tuple[str, ...]:
    """The host's resolvers that a container can ask itself: not those on the host's loopback, IPv6 ones if `ipv6`."""
    source = systemd if systemd is not None and wants_systemd(host) else host
    return tuple(
        server for server in source.nameservers if not _is_local(server) and (ipv6 or ":" not in server)
    )


def upstream(host: ResolvConf, systemd: ResolvConf | None = None) -> tuple[str, ...]:
    """For the name server, which asks from the host's own namespace, where loopback resolvers are fine.

    None where the host has none: the names of private networks are not for a public resolver that nobody chose.
    """
    source = systemd if systemd is not None and wants_systemd(host) else host
    return source.nameservers


def for_embedded(base: ResolvConf) -> ResolvConf:
    """For a container that asks sampan's name server; `ndots:0` as Docker writes it, also for one that is no number."""
    options = tuple(option for option in base.options if not option.startswith("ndots") or _is_ndots(option))
    if not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")
    return replace(base, nameservers=(EMBEDDED,), options=options)


def _is_ndots(option: str) -> bool:
    name, _, value = option.partition(":")
    return name != "ndots" or value.isdecimal()


def override(
    base: ResolvConf,
    nameservers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
) -> ResolvConf:
    """With what `--dns`, `--dns-search` (a single "." means none) and `--dns-option` say, where they do."""
    chosen = tuple(word for word in search if word != ".") if search else base.search
    return ResolvConf(tuple(nameservers) or base.nameservers, chosen, tuple(options) or base.options)


def render(conf: ResolvConf) -> str:
    lines = [f"nameserver {server}" for server in conf.nameservers]
    if conf.search:
        lines.append("search " + " ".join(conf.search))
    if conf.options:
        lines.append("options " + " ".join(conf.options))
    return "".join(line + "\n" for line in lines)
