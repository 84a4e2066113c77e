"""What engines write into the store: keys, values, and what a value must be like to be believed. Pure.

    <root>/identity                        which cluster this is; a store that lost its data has another one
    <root>/secret                          what keys of encrypted networks are derived from
    <root>/hosts/<host>                    a host, while its engine keeps its (short) lease
    <root>/networks/<network>              a network
    <root>/names/<name>, vnis/<number>     who has a name or a number: the network's id
    <root>/addresses/<network>/<address>   whose address it is, and where; with the host's long lease
    <root>/endpoints/<network>/<endpoint>  a container's names; with the host's short lease

Whoever can write into the store may be mistaken or hostile: nothing is used that `decode` has not looked at.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

import msgspec

from sampan.errors import Invalid
from sampan.network.overlay.places import WITHOUT_IPV4, Places

MAX_VALUE = 64 << 10
"""Bytes of one value."""
MAX_HOSTS = 1000
MAX_NETWORKS = 500
MAX_PER_NETWORK = 5000
"""Addresses, and containers, of one network."""
LEAST_MTU6 = 1280
"""RFC 8200, section 5: the kernel switches IPv6 off below."""
FIRST_VNI, LAST_VNI = 4096, (1 << 24) - 1
_MAX_NAMES = 64
_MAX_LABELS = 128
_MAX_TEXT = 4096

_ID = re.compile(r"[0-9a-f]{16,64}")
_NETWORK_ID = re.compile(r"[0-9a-f]{64}")
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,253}[a-zA-Z0-9_])?")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_HOST_NAME = re.compile(r"[\x21-\x7e]{0,255}")


class Host(msgspec.Struct, frozen=True):
    """An engine. `address`: where its VXLAN packets come from and go to. `nonce`: see `encryption`."""

    id: str
    name: str
    address: str
    nonce: str = ""


class Network(msgspec.Struct, frozen=True):
    """A network as all engines have it. `mtu` is of its containers' interfaces, in bytes.

    With `subnet6` every address of `subnet` has one there too: see `places`. Without `ipv4` the subnet only numbers
    places. `fixed_subnet` and `fixed_subnet6`: a person gave it.
    """

    id: str
    name: str
    created: str
    vni: int
    subnet: str
    gateway: str
    ip_range: str = ""
    aux: dict[str, str] = {}
    internal: bool = False
    attachable: bool = False
    secure: bool = False
    mtu: int = 1450
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    fixed_subnet: bool = False
    subnet6: str = ""
    ipv4: bool = True
    fixed_subnet6: bool = False

    @property
    def places(self) -> Places:
        return Places(self.subnet, self.subnet6)


class Claim(msgspec.Struct, frozen=True):
    """An address is this host's. `endpoint` "": it keeps the address for its next container, which will have `mac`;
    with no `mac` either it is nobody's, as a container at another place has its IPv6 address: see `Places.second`.

    `address6`: the container's, where that is not the one of its place.
    """

    host: str
    at: str
    mac: str = ""
    endpoint: str = ""
    address6: str = ""


class Endpoint(msgspec.Struct, frozen=True):
    """A container in a network. `names`: what it is called there (lower case counts)."""

    host: str
    container: str
    name: str
    address: str
    mac: str
    names: tuple[str, ...] = ()


T = TypeVar("T", Host, Network, Claim, Endpoint)


class Keys:
    """Where things are below one root."""

    def __init__(self, root: str) -> None:
        self.root = root.strip("/") + "/"
        self.identity = self.root + "identity"
        self.secret = self.root + "secret"
        self.networks = self.root + "networks/"

    def host(self, host: str) -> str:
        return f"{self.root}hosts/{host}"

    def network(self, network: str) -> str:
        return self.networks + network

    def name(self, name: str) -> str:
        return f"{self.root}names/{name}"

    def vni(self, number: int) -> str:
        return f"{self.root}vnis/{number}"

    def addresses(self, network: str) -> str:
        return f"{self.root}addresses/{network}/"

    def address(self, network: str, address: str) -> str:
        return self.addresses(network) + address

    def endpoints(self, network: str) -> str:
        return f"{self.root}endpoints/{network}/"

    def endpoint(self, network: str, endpoint: str) -> str:
        return self.endpoints(network) + endpoint

    def split(self, key: str) -> tuple[str, ...]:
        """What a key is of: ("hosts", id), ("addresses", network, address) ...; () for a foreign one."""
        if not key.startswith(self.root):
            return ()
        return tuple(key[len(self.root) :].split("/", 2))


def decode_host(parts: tuple[str, ...], value: bytes) -> Host:
    """Raises `Invalid`, as all of these."""
    host = _decode(value, Host)
    _match(_ID, host.id, "host id")
    _same(host.id, parts[1])
    _match(_HOST_NAME, host.name, "host name")
    check_underlay(host.address)
    if host.nonce:
        _match(_ID, host.nonce, "nonce")
    return host


def decode_network(parts: tuple[str, ...], value: bytes) -> Network:
    network = _decode(value, Network)
    _match(_NETWORK_ID, network.id, "network id")
    _same(network.id, parts[1])
    _match(_NETWORK_NAME, network.name, "network name")
    if network.name in ("bridge", "host", "none", "default"):
        raise Invalid(f"{network.name} is a predefined network")
    if not FIRST_VNI <= network.vni <= LAST_VNI:
        raise Invalid(f"{network.vni} is no number for a network")
    if not network.ipv4 and not (network.subnet == WITHOUT_IPV4 and network.subnet6):
        raise Invalid("it has no addresses of any family")
    subnet = check_subnet(network.subnet) if network.ipv4 else IPv4Network(WITHOUT_IPV4)
    _canonical(subnet, network.subnet)
    for address in (network.gateway, *network.aux.values()):
        if _ipv4(address) not in subnet or _ipv4(address) in _special(subnet):
            raise Invalid(f"{address} is no address of a host in {subnet}")
    if network.ip_range and not _network(network.ip_range).subnet_of(subnet):
        raise Invalid(f"{network.ip_range} is not in {subnet}")
    if network.subnet6:
        _canonical(check_subnet6(network.subnet6), network.subnet6)
    if not (LEAST_MTU6 if network.subnet6 else 68) <= network.mtu <= 65535:
        raise Invalid(f"{network.mtu} is no MTU")
    if len(network.created) > 40 or not re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", network.created):
        raise Invalid("its time of creation is no time")
    for pairs in (network.options, network.labels, network.aux):
        if len(pairs) > _MAX_LABELS or any(len(text) > _MAX_TEXT for pair in pairs.items() for text in pair):
            raise Invalid("it has too many options or labels")
    return network


def decode_claim(parts: tuple[str, ...], value: bytes, network: Network | None) -> Claim:
    """`network`: the one that the address is in; None when it is not known (yet)."""
    claim = _decode(value, Claim)
    _match(_ID, claim.host, "host id")
    check_underlay(claim.at)
    if claim.mac:
        check_mac(claim.mac)
    if claim.endpoint:
        _match(_ID, claim.endpoint, "endpoint id")
    if ":" in parts[2]:
        _check_chosen(parts[2], network)
    else:
        _check_inner(parts[2], network)
    if claim.address6 and network is not None:
        _check_chosen(claim.address6, network, place=True)
    return claim


def decode_endpoint(parts: tuple[str, ...], value: bytes, network: Network | None) -> Endpoint:
    endpoint = _decode(value, Endpoint)
    _match(_ID, parts[2], "endpoint id")
    _match(_ID, endpoint.host, "host id")
    _match(_ID, endpoint.container, "container id")
    check_mac(endpoint.mac)
    if len(endpoint.names) > _MAX_NAMES:
        raise Invalid(f"it has more than {_MAX_NAMES} names")
    for name in (endpoint.name, *endpoint.names):
        _match(_NAME, name, "name")
    _check_inner(endpoint.address, network)
    return endpoint


def _check_inner(text: str, network: Network | None) -> None:
    address = _ipv4(text)
    _canonical(address, text)
    if network is None:
        return
    subnet = IPv4Network(network.subnet)
    if (
        address not in subnet
        or address in _special(subnet)
        or text in (network.gateway, *network.aux.values())
    ):
        raise Invalid(f"{text} is no address of a container in {subnet}")


def _special(subnet: IPv4Network) -> tuple[IPv4Address, IPv4Address]:
    """What no host in it can have."""
    return subnet.network_address, subnet.broadcast_address


def _check_chosen(text: str, network: Network | None, *, place: bool = False) -> None:
    """An IPv6 address that a person chose. `place`: it may be the one of a place."""
    try:
        address = IPv6Address(text)
    except ValueError:
        raise Invalid(f"{text!r} is no IPv6 address") from None
    _canonical(address, text)
    if network is None:
        return
    if not network.subnet6 or address not in IPv6Network(network.subnet6):
        raise Invalid(f"{text} is not in the network")
    places = network.places
    if text == places.address6(network.gateway) or (places.place(text) and not place):
        raise Invalid(f"{text} is not an address to choose")


def check_subnet(text: str) -> IPv4Network:
    """A subnet that containers of many hosts may have. Raises `Invalid`."""
    subnet = _network(text)
    special = subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified
    forbidden = any(subnet.overlaps(IPv4Network(one)) for one in ("0.0.0.0/8", "127.0.0.0/8"))
    if special or forbidden or not 8 <= subnet.prefixlen <= 29:
        raise Invalid(f"{subnet} is no subnet for an overlay network", hint="a /8 to /29 is needed")
    return subnet


def check_subnet6(text: str) -> IPv6Network:
    """As `check_subnet`. The places of an IPv4 subnet have to fit into it. Raises `Invalid`."""
    try:
        subnet = IPv6Network(text)
    except ValueError:
        raise Invalid(f"{text!r} is no IPv6 network") from None
    special = subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified
    if special or not 16 <= subnet.prefixlen <= 96 or subnet.overlaps(IPv6Network("::ffff:0:0/96")):
        raise Invalid(f"{subnet} is no subnet for an overlay network", hint="a /16 to /96 is needed")
    return subnet


def check_underlay(text: str) -> IPv4Address | IPv6Address:
    """The address of a host. Raises `Invalid`."""
    try:
        address = ip_address(text)
    except ValueError:
        raise Invalid(f"{text!r} is no address of a host") from None
    _canonical(address, text)  # addresses are compared as text
    broadcast = address == IPv4Address("255.255.255.255")
    within = "%" in text or (
        address.version == 6 and (address.is_link_local or address.ipv4_mapped is not None)
    )
    if address.is_loopback or address.is_multicast or address.is_unspecified or broadcast or within:
        raise Invalid(f"{text!r} is no address of a host that others can reach")
    return address


def is_name(text: str) -> bool:
    """What others will believe to be a container's name."""
    return _NAME.fullmatch(text) is not None


def check_mac(text: str) -> None:
    """One station's Ethernet address, in lower case. Raises `Invalid`."""
    _match(_MAC, text, "MAC address")
    if int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise Invalid(f"{text} is not the address of one station")


def _decode(value: bytes, kind: type[T]) -> T:
    if len(value) > MAX_VALUE:
        raise Invalid(f"it has more than {MAX_VALUE >> 10} KiB")
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"it is malformed: {error}") from error


def _canonical(found: object, text: str) -> None:
    if str(found) != text:
        raise Invalid(f"{text[:80]!r} is not how {found} is written")


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError:
        raise Invalid(f"{text!r} is no IPv4 network") from None


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise Invalid(f"{text!r} is no IPv4 address") from None


def _match(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise Invalid(f"{text[:80]!r} is no {what}")


def _same(found: str, wanted: str) -> None:
    if found != wanted:
        raise Invalid("it is stored under another's name")
