"""Networks of the driver "overlay": what all hosts share of one, and this engine's record of it.

Pure but for `check_encryption`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from sampan.engine.model import IpamPool, NetworkRecord
from sampan.errors import Conflict, Invalid, Unsupported
from sampan.network.model import NetworkSpec
from sampan.network.overlay import encryption
from sampan.network.overlay.driver import bridge_name
from sampan.network.overlay.places import WITHOUT_IPV4, Places
from sampan.network.overlay.schema import Network
from sampan.network.pools import AnyNetwork, overlap

ENCRYPTED = "encrypted"
MTU = "com.docker.network.driver.mtu"
VNI = "com.docker.network.driver.overlay.vxlanid_list"
_FOR_GOOD = ("vni", "secure", "subnet", "gateway", "subnet6", "gateway6")
"""What nobody changes of a network that is there."""
_UNDERLAY_MTU = 1500
_VXLAN_BYTES = {4: 50, 6: 70}
"""Ethernet, VXLAN, UDP and IP headers around a container's packet, by the version of the hosts' addresses."""
_ESP_BYTES = 34
"""SPI, sequence number, IV, padding's length, next header, and a 16-byte check value: RFC 4303 and 4106."""


def container_mtu(options: Mapping[str, str], underlay: int, version: int, *, secure: bool) -> int:
    """Bytes that a container's packet may have. As with Docker the option says what the hosts' network carries.

    Raises `Invalid`.
    """
    text = options.get(MTU, "")
    if text and not (text.isdecimal() and 68 <= int(text) <= 65535):
        raise Invalid(f"invalid MTU {text}: expected a number from 68 to 65535")
    mtu = (int(text) if text else min(_UNDERLAY_MTU, underlay)) - _VXLAN_BYTES[version]
    if secure:
        mtu -= _ESP_BYTES
        mtu -= mtu % 4  # ESP pads to four bytes
    return max(mtu, 68)


def is_secure(options: Mapping[str, str]) -> bool:
    """Docker takes the option without a value as yes. Raises `Invalid`."""
    if ENCRYPTED not in options:
        return False
    value = options[ENCRYPTED].lower()
    if value in ("", "true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise Invalid(f"invalid value {options[ENCRYPTED]!r} for {ENCRYPTED}: expected true or false")


def record_of(network: Network) -> NetworkRecord:
    """What this engine keeps of a network of the cluster."""
    spec = NetworkSpec(
        network.id,
        network.name,
        bridge_name(network.id),
        network.subnet if network.ipv4 else "",
        network.gateway if network.ipv4 else "",
        ip_range=network.ip_range or None,
        aux=tuple(network.aux.values()),
        internal=network.internal,
        mtu=network.mtu,
        driver="overlay",
        vni=network.vni,
        secure=network.secure,
        subnet6=network.subnet6,
        gateway6=network.places.address6(network.gateway),
    )
    pools = [
        (network.fixed_subnet6, IpamPool(spec.subnet6, gateway=spec.gateway6)),
        (network.fixed_subnet, IpamPool(spec.subnet, network.ip_range, spec.gateway, network.aux or None)),
    ]
    there = [(fixed, pool) for fixed, pool in reversed(pools) if pool.subnet]
    asked = [pool for fixed, pool in there if fixed]
    return NetworkRecord(
        network.id,
        network.name,
        network.created,
        "overlay",
        spec,
        internal=network.internal,
        attachable=network.attachable,
        options={VNI: str(network.vni), **network.options},
        labels=dict(network.labels),
        ipam_config=(*asked, *(pool for fixed, pool in there if not fixed)),
        enable_ipv4=network.ipv4,
        enable_ipv6=bool(spec.subnet6),
        fixed_subnet=bool(asked),
        asked_pools=len(asked),
    )


def network_of(record: NetworkRecord) -> Network:
    """What all hosts have to know of it; the reverse of `record_of`."""
    spec = record.spec
    if spec is None or not record.ipam_config:
        raise Invalid(f"{record.name} is no overlay network")
    aux = [pool.auxiliary_addresses or {} for pool in record.ipam_config if pool.subnet == spec.subnet]
    fixed = {pool.subnet for pool in record.fixed_pools}
    return Network(
        record.id,
        record.name,
        record.created,
        spec.vni,
        spec.subnet or WITHOUT_IPV4,
        spec.gateway or _places(spec).place(spec.gateway6),
        ip_range=spec.ip_range or "",
        aux=aux[0] if aux else {},
        internal=record.internal,
        attachable=record.attachable,
        secure=spec.secure,
        mtu=spec.mtu,
        options={name: value for name, value in record.options.items() if name != VNI},
        labels=dict(record.labels),
        fixed_subnet=bool(spec.subnet) and spec.subnet in fixed,
        subnet6=spec.subnet6,
        ipv4=bool(spec.subnet),
        fixed_subnet6=bool(spec.subnet6) and spec.subnet6 in fixed,
    )


def check_same(record: NetworkRecord, network: Network) -> None:
    """Raises `Conflict` when the store's network is another one than that which containers here are in."""
    known, told = record.spec, record_of(network).spec
    if known is None or told is None:
        return
    if any(getattr(known, name) != getattr(told, name) for name in _FOR_GOOD):
        raise Conflict(
            f"network {record.name} is not what it was: it has been changed in the cluster's store",
            hint="What this host has of it stays as it is; to change a network, remove it and create it again.",
        )


def _places(spec: NetworkSpec) -> Places:
    return Places(spec.subnet or WITHOUT_IPV4, spec.subnet6)


def held_places(spec: NetworkSpec, address: str, address6: str) -> tuple[str, str]:
    """What a container with these addresses ("": none) has of the network: its place, and see `Places.second`."""
    places = _places(spec)
    place = address or places.place(address6)
    return place, places.second(place, address6)


def check_encryption(name: str) -> None:
    """Blocking. Raises `Unsupported`, naming the network, where this host's kernel can not encrypt."""
    try:
        encryption.check_kernel()
    except Unsupported as error:
        raise Unsupported(f"network {name} can not be encrypted: {error.message}", hint=error.hint) from error


def overlapping(subnets: Iterable[str], others: Iterable[AnyNetwork]) -> AnyNetwork | None:
    """The first of these networks that shares addresses with one of the subnets ("": none)."""
    wanted = [ip_network(subnet) for subnet in subnets if subnet]
    for other in others:
        if other.prefixlen and any(overlap(one, other) for one in wanted):
            return other
    return None
