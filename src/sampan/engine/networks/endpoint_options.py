"""What the options of an endpoint (`--driver-opt`, `--link-local-ip`, their like in `--network`) mean. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from sampan.engine.config import EndpointSettings
from sampan.errors import Conflict, Invalid
from sampan.network.model import NetworkSpec

INTERFACE = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
_INTERFACE_NAME = re.compile(r"[^\s\x00-\x1f\x7f/:%]{1,15}")
_PART = re.compile(r"[a-z0-9_]+")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}|([0-9a-f]{2}-){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}")
_FAMILIES = ("ipv4", "ipv6", "mpls")


def hardware_address(text: str) -> str:
    """A MAC address in any of the three usual forms as pairs with colons; "" for what no interface can have.

    That is what is of another form, a group's (IEEE 802, the lowest bit of the first byte), and zero.
    """
    found = text.lower()
    if not _MAC.fullmatch(found):
        return ""
    packed = bytes.fromhex(re.sub("[:.-]", "", found))
    return "" if packed[0] & 1 or not any(packed) else packed.hex(":")


def problems(asked: EndpointSettings) -> list[str]:
    """What is wrong with the options, in Docker's words where it has them."""
    options = asked.driver_opts or {}
    found = [
        f"unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
        "'X' must be 'ipv4', 'ipv6' or 'mpls'"
        for text in _sysctl_texts(options)
        if _parse(text) is None
    ]
    name = options.get(INTERFACE, "")
    if name and (not _INTERFACE_NAME.fullmatch(name) or name in (".", "..", "all", "default", "lo")):
        found.append(f"invalid interface name {name}: it has 1 to 15 bytes, no slash, colon or space")
    texts = (asked.ipam_config.link_local_ips if asked.ipam_config else None) or ()
    return found + [f"invalid link-local IP address: {text}" for text in texts if _address(text) is None]


def link_local(asked: EndpointSettings) -> tuple[str, ...]:
    """Further addresses of the interface, with the prefix lengths of link-local ones."""
    texts = (asked.ipam_config.link_local_ips if asked.ipam_config else None) or ()
    found = (_address(text) for text in texts)
    return tuple(f"{one}/{16 if one.version == 4 else 64}" for one in found if one is not None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return None if found.is_unspecified or found.is_loopback or found.is_multicast else found


def chosen_names(asked: Iterable[EndpointSettings]) -> list[str]:
    """The names that are asked for: no other interface of the container gets one of them."""
    return [name for one in asked if (name := (one.driver_opts or {}).get(INTERFACE, ""))]


def interface_name(spec: NetworkSpec, asked: EndpointSettings, used: Collection[str]) -> str:
    """The name asked for, else the first free one of the network's prefix. Raises `Conflict`."""
    wanted = (asked.driver_opts or {}).get(INTERFACE, "")
    if wanted:
        if wanted in used:
            raise Conflict(
                f"the container has an interface {wanted} already", hint=f"Choose another {INTERFACE}."
            )
        return wanted
    prefix = spec.interface_prefix or "eth"
    return next(name for number in range(4096) if (name := f"{prefix}{number}") not in used)


def sysctls(asked: EndpointSettings, interface: str) -> tuple[tuple[str, str], ...]:
    """(path below /proc/sys, value) of what the endpoint's options set of its interface. Raises `Invalid`."""
    found = []
    for text in _sysctl_texts(asked.driver_opts or {}):
        parsed = _parse(text)
        if parsed is None:
            raise Invalid(f"unrecognised network interface sysctl '{text}'")
        family, group, name, value = parsed
        found.append((f"net/{family}/{group}/{interface}/{name}", value))
    return tuple(found)


def _sysctl_texts(options: Mapping[str, str]) -> list[str]:
    text = options.get(SYSCTLS)
    return text.split(",") if text is not None else []


def _parse(text: str) -> tuple[str, str, str, str] | None:
    """(ipv4, conf, log_martians, 1) of net.ipv4.conf.IFNAME.log_martians=1; the name may be in small letters."""
    name, _, value = text.partition("=")
    parts = name.split(".", 4)
    if len(parts) != 5 or parts[0] != "net" or parts[1] not in _FAMILIES or parts[3].lower() != "ifname":
        return None
    if not _PART.fullmatch(parts[2]) or not _PART.fullmatch(parts[4]):
        return None
    return parts[1], parts[2], parts[4], value
