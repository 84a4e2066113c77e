"""Networks of the driver "overlay": what all hosts share of one, and this engine's record of it.

Pure but for `check_encryption`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from sampan.engine.model import IpamPool, NetworkRecord
from sampan.errors import Invalid, Unsupported
from sampan.network.model import NetworkSpec
from sampan.network.overlay import encryption
from sampan.network.overlay.driver import bridge_name
from sampan.network.overlay.schema import Network
from sampan.network.pools import AnyNetwork, overlap

ENCRYPTED = "encrypted"
MTU = "com.docker.network.driver.mtu"
VNI = "com.docker.network.driver.overlay.vxlanid_list"
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
        network.subnet,
        network.gateway,
        ip_range=network.ip_range or None,
        aux=tuple(network.aux.values()),
        internal=network.internal,
        mtu=network.mtu,
        driver="overlay",
        vni=network.vni,
        secure=network.secure,
        subnet6=network.subnet6,
        gateway6=network.address6(network.gateway),
    )
    pool = IpamPool(network.subnet, network.ip_range, network.gateway, network.aux or None)
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
        ipam_config=(pool, IpamPool(spec.subnet6, gateway=spec.gateway6)) if spec.subnet6 else (pool,),
        enable_ipv6=bool(spec.subnet6),
        fixed_subnet=network.fixed_subnet,
        asked_pools=int(network.fixed_subnet),
    )


def network_of(record: NetworkRecord) -> Network:
    """What all hosts have to know of it; the reverse of `record_of`."""
    spec = record.spec
    if spec is None or not record.ipam_config:
        raise Invalid(f"{record.name} is no overlay network")
    return Network(
        record.id,
        record.name,
        record.created,
        spec.vni,
        spec.subnet,
        spec.gateway,
        ip_range=spec.ip_range or "",
        aux=record.ipam_config[0].auxiliary_addresses or {},
        internal=record.internal,
        attachable=record.attachable,
        secure=spec.secure,
        mtu=spec.mtu,
        options={name: value for name, value in record.options.items() if name != VNI},
        labels=dict(record.labels),
        fixed_subnet=record.fixed_subnet,
        subnet6=spec.subnet6,
    )


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
