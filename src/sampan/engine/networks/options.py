"""What the options of a network mean to its driver. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from msgspec.structs import replace

from sampan.engine.networks.requests import GivenFamilies, NetworkCreate
from sampan.engine.settings import Settings
from sampan.errors import Conflict, Invalid
from sampan.linux.netlink_route import check_link_name
from sampan.network.model import NetworkSpec, dummy_parent

BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"
ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
MTU = "com.docker.network.driver.mtu"
HOST_ACCESS = "sampan.host_access"
"""Beyond Docker: false closes the host's services to the network's containers."""
PARENT = "parent"
MACVLAN_MODE = "macvlan_mode"
IPVLAN_MODE = "ipvlan_mode"
IPVLAN_FLAG = "ipvlan_flag"

_HOST_ADDRESS = "com.docker.network.host_ipv"
_GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv"
_GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_INTERFACE = re.compile(r"[^\s/]{1,15}")
_BRIDGE = re.compile(r"(?!-)[^\s\x00-\x1f\x7f/:%+*!;#,\"'\\]+")
"""What is one interface's name to everybody: the kernel puts a number in place of %d, to iptables a + and to nft a * is
any ending; a first - or ! means something to them too."""
_NOT_NAMES = (".", "..", "all", "default")  # they mean something else in /proc/sys/net
_PREFIX = re.compile(r"[A-Za-z0-9_.@-]{1,11}")
_GO_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")
_IPVLAN_MODES = ("l2", "l3", "l3s")
_IPVLAN_FLAGS = ("bridge", "private", "vepa")


def specific(spec: NetworkSpec, body: NetworkCreate, settings: Settings) -> NetworkSpec:
    """The network with what its driver makes of its options. Raises `Invalid` in Docker's words."""
    return _SPECIFIC[spec.driver](spec, body, settings)


def _bridge(spec: NetworkSpec, body: NetworkCreate, settings: Settings) -> NetworkSpec:
    bridge = body.options.get(BRIDGE_NAME) or f"br-{spec.id[:12]}"
    if len(bridge.encode()) > 15 or not _BRIDGE.fullmatch(bridge) or bridge in _NOT_NAMES:
        raise Invalid(
            f"invalid bridge name {bridge}: at most 15 bytes, no slash",
            hint="Nor a colon, a space, a quote, a backslash, a + or a %.",
        )
    return replace(
        spec,
        bridge=bridge,
        mtu=_mtu(body.options.get(MTU), settings.mtu),
        masquerade=_flag(body.options, MASQUERADE),
        icc=_flag(body.options, ICC),
        host_access=_flag(body.options, HOST_ACCESS),
        trusted=_interfaces(body.options.get(TRUSTED, "")),
        inhibit_ipv4=_flag(body.options, INHIBIT_IPV4, default=False),
        interface_prefix=_prefix(body.options.get(INTERFACE_PREFIX, "")),
        host_binding=_binding(body.options.get(HOST_BINDING)),
        gateway_mode=gateway_mode(body, 4),
        gateway_mode6=gateway_mode(body, 6),
        host_ipv4=_host_address(body, 4),
        host_ipv6=_host_address(body, 6),
    )


def gateway_mode(body: NetworkCreate, version: int) -> str:
    """Of a bridge. Raises `Invalid`."""
    name = f"{_GATEWAY_MODE}{version}"
    mode = body.options.get(name) or "nat"
    if mode not in _GATEWAY_MODES:
        raise Invalid(f"failed to parse {name} value: {mode} (unknown gateway mode {mode})")
    if mode == "isolated" and not body.internal:
        raise Invalid("gateway mode 'isolated' can only be used for an internal network")
    return mode


def _macvlan(spec: NetworkSpec, body: NetworkCreate, settings: Settings) -> NetworkSpec:
    mode = body.options.get(MACVLAN_MODE) or "bridge"
    if mode not in _MACVLAN_MODES:
        raise Invalid(
            f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default",
            hint="Modes are " + ", ".join(_MACVLAN_MODES) + ".",
        )
    return replace(_on_parent(spec, body), mode=mode)


def _ipvlan(spec: NetworkSpec, body: NetworkCreate, settings: Settings) -> NetworkSpec:
    mode = body.options.get(IPVLAN_MODE) or "l2"
    if mode not in _IPVLAN_MODES:
        raise Invalid(
            f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default",
            hint="Modes are " + ", ".join(_IPVLAN_MODES) + ".",
        )
    flag = body.options.get(IPVLAN_FLAG) or "bridge"
    if flag not in _IPVLAN_FLAGS:
        raise Invalid(
            f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default",
            hint="Flags are " + ", ".join(_IPVLAN_FLAGS) + ".",
        )
    return replace(_on_parent(spec, body), mode=mode if flag == "bridge" else f"{mode}_{flag}")


def _on_parent(spec: NetworkSpec, body: NetworkCreate) -> NetworkSpec:
    """`mtu` 0 is the parent's. A network without a parent leads nowhere, whether it is asked to be internal or not."""
    parent = body.options.get(PARENT, "")
    if parent == "lo":
        raise Invalid(f"loopback interface is not a valid {spec.driver} parent link")
    if parent:
        check_link_name(parent)
    return replace(
        spec,
        parent=parent or dummy_parent(spec.id),
        internal=spec.internal or not parent,
        mtu=_mtu(body.options.get(MTU), 0),
    )


_SPECIFIC: Mapping[str, Callable[[NetworkSpec, NetworkCreate, Settings], NetworkSpec]] = {
    "bridge": _bridge,
    "macvlan": _macvlan,
    "ipvlan": _ipvlan,
}
DRIVERS = (*_SPECIFIC, "overlay")


def families(body: NetworkCreate, given: GivenFamilies) -> NetworkCreate:
    """The network with the families that it is to have: what is asked for, else what the options say.

    Raises `Invalid` in Docker's words.
    """
    changes = {}
    options = dict(body.options)
    for field, name in (("enable_ipv4", ENABLE_IPV4), ("enable_ipv6", ENABLE_IPV6)):
        if getattr(given, field) is not None:
            options.pop(name, None)
        elif name in options:
            found = _GO_BOOLEANS.get(options[name])
            if found is None:
                raise Invalid(f'driver-opt "{name}" is not a valid bool')
            changes[field] = found
    return replace(body, options=options, **changes)


def is_without_gateway(body: NetworkCreate) -> bool:
    """Nobody has the gateway's address in a network that leads nowhere, unless it is a bridge's own."""
    return body.driver in ("macvlan", "ipvlan") and (body.internal or not body.options.get(PARENT))


def check_parent(body: NetworkCreate, others: Iterable[NetworkSpec]) -> None:
    """Whether the new network's parent can be shared with those that stand on it. Raises `Conflict` as Docker does."""
    parent = body.options.get(PARENT)
    if not parent or body.driver not in ("macvlan", "ipvlan"):
        return
    for other in others:
        if other.parent != parent:
            continue
        if body.driver == "ipvlan" and other.driver == "ipvlan":
            raise Conflict(f"network {dummy_parent(other.id)} is already using parent interface {parent}")
        if body.driver == other.driver and body.options.get(MACVLAN_MODE) == "passthru":
            raise Conflict(
                f"cannot use mode passthru, macvlan network {other.id} is already using parent interface {parent}"
            )
        if body.driver == other.driver and other.mode == "passthru":
            raise Conflict(
                f"macvlan network {other.id} is already using parent interface {parent} in mode passthru"
            )


def _mtu(text: str | None, default: int) -> int:
    if not text:
        return default
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise Invalid(f'failed to parse {MTU} value: {text} (strconv.Atoi: parsing "{text}": invalid syntax)')
    if not 68 <= int(text) <= 65535:
        raise Invalid(f"invalid MTU number: {int(text)}", hint="It is from 68 to 65535.")
    return int(text)


def _binding(text: str | None) -> str:
    """ "" for all addresses."""
    if text is None:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        raise Invalid(f"failed to parse {HOST_BINDING} value: {text} (nil ip)") from None
    return "" if address.is_unspecified else str(address)


def _host_address(body: NetworkCreate, version: int) -> str:
    """What connections outwards come from."""
    name = f"{_HOST_ADDRESS}{version}"
    text = body.options.get(name)
    if text is None:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        raise Invalid(f"failed to parse {name} value: {text} (nil ip)") from None
    if address.version != version:
        raise Invalid(f"failed to parse {name} value: {text} (it is not an IPv{version} address)")
    return str(address)


def _interfaces(text: str) -> tuple[str, ...]:
    """Names of interfaces, with colons between them."""
    names = tuple(name for name in text.split(":") if name)
    for name in names:
        if not _INTERFACE.fullmatch(name):
            raise Invalid(f"invalid {TRUSTED} {text!r}: {name!r} is not a name for an interface")
    return names


def _prefix(text: str) -> str:
    """Room is left for a number: an interface's name has 15 bytes."""
    if text and not _PREFIX.fullmatch(text):
        raise Invalid(
            f"invalid {INTERFACE_PREFIX} {text!r}", hint="It has 1 to 11 bytes, no slash, colon or space."
        )
    return text


def _flag(options: Mapping[str, str], name: str, *, default: bool = True) -> bool:
    if name not in options:
        return default
    found = _GO_BOOLEANS.get(options[name])
    if found is None:
        raise Invalid(
            f"failed to parse {name} value: {options[name]} "
            f'(strconv.ParseBool: parsing "{options[name]}": invalid syntax)'
        )
    return found


def boolean(name: str, text: str) -> bool:
    """Of a filter. Raises `Invalid`, naming it."""
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise Invalid(f'invalid value for filter \'{name}\', must be "true" (or "1"), or "false" (or "0")')
