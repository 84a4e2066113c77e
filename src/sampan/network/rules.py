"""Which nftables rules an engine's networks need: a pure translation into a batch of changes.

The table is of family ip (containers have IPv4 addresses; an ip6 table will stand beside it). Published ports are
elements of two maps, looked up once per new connection; nothing grows with their number. Rules per network are few
and, but for the first one of `forward`, only new connections meet them.

What our table accepts, other tables may still drop: a base chain can not overrule another one's drop. For
the one that is common beside us, the FORWARD policy DROP of Docker, see `passage.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from sampan.linux import nftables_expressions as ex
from sampan.linux.nftables import BaseHook, Batch, Family, Field, Hook, pack_fields
from sampan.network.model import ANY_IPV4, NetworkSpec, PortBinding

FAMILY = Family.IPV4
PORTS_ANY = "ports-any"  # protocol . port -> container address . port
PORTS_ADDRESS = "ports-address"  # host address . protocol . port -> container address . port

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}

_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100
_LOOPBACK = "127.0.0.0/8"
_BASE_CHAINS = {
    "guard": BaseHook("filter", Hook.PREROUTING, _RAW),
    "prerouting": BaseHook("nat", Hook.PREROUTING, _DSTNAT),
    "output": BaseHook("nat", Hook.OUTPUT, _DSTNAT),
    "forward": BaseHook("filter", Hook.FORWARD, _FILTER),
    "postrouting": BaseHook("nat", Hook.POSTROUTING, _SRCNAT),
}


@dataclass(frozen=True, slots=True)
class MapElement:
    """One published port as an element of one of the two maps."""

    map: str
    key: bytes
    value: bytes


def table_name(instance: str) -> str:
    return f"sampan-{instance}"


def port_element(address: str, binding: PortBinding) -> MapElement:
    """The map element that publishes an IPv4 binding of the container with this address."""
    protocol = bytes([PROTOCOL_NUMBERS[binding.protocol]])
    port = binding.host_port.to_bytes(2, "big")
    value = pack_fields(IPv4Address(address).packed, binding.container_port.to_bytes(2, "big"))
    if binding.host_address in ("", ANY_IPV4):
        return MapElement(PORTS_ANY, pack_fields(protocol, port), value)
    host = IPv4Address(binding.host_address).packed
    return MapElement(PORTS_ADDRESS, pack_fields(host, protocol, port), value)


def write_table(
    batch: Batch, table: str, networks: Iterable[NetworkSpec], elements: Sequence[MapElement]
) -> None:
    """The whole table from nothing, in the same transaction that removes what was there."""
    batch.add_table(table)  # so that deleting does not fail when it is not there
    batch.delete_table(table)
    batch.add_table(table)
    value = (Field.IPV4_ADDRESS, Field.INET_SERVICE)
    batch.add_map(table, PORTS_ANY, (Field.INET_PROTOCOL, Field.INET_SERVICE), value)
    key = (Field.IPV4_ADDRESS, Field.INET_PROTOCOL, Field.INET_SERVICE)
    batch.add_map(table, PORTS_ADDRESS, key, value)
    batch.add_chain(table, "publish")
    for name, base in _BASE_CHAINS.items():
        batch.add_chain(table, name, base)
    bridged = [network for network in networks if network.bridge]
    ordered = sorted(bridged, key=lambda network: network.bridge)
    _publish_rules(batch, table)
    _guard_rules(batch, table, ordered)
    _forward_rules(batch, table, ordered)
    _postrouting_rules(batch, table, ordered)
    add_ports(batch, table, elements)


def add_ports(batch: Batch, table: str, elements: Sequence[MapElement]) -> None:
    for name in (PORTS_ANY, PORTS_ADDRESS):
        chosen = [(element.key, element.value) for element in elements if element.map == name]
        if chosen:
            batch.add_elements(table, name, chosen)


def delete_ports(batch: Batch, table: str, elements: Sequence[MapElement]) -> None:
    for name in (PORTS_ANY, PORTS_ADDRESS):
        chosen = [element.key for element in elements if element.map == name]
        if chosen:
            batch.delete_elements(table, name, chosen)


def _publish_rules(batch: Batch, table: str) -> None:
    """The look-ups. Nothing aimed at 127.0.0.0/8 is translated when it comes from outside: a port published on
    127.0.0.1 must not be open to neighbours on the same link that send us such packets."""
    first = ex.FIRST_REGISTER
    host, protocol, port = (
        ex.payload(ex.Base.NETWORK, 16, 4, first),
        ex.meta(ex.Meta.L4PROTO, first + 1),
        ex.payload(ex.Base.TRANSPORT, 2, 2, first + 2),
    )
    translate = ex.destination_nat(FAMILY, first, first + 1)
    batch.add_rule(table, "publish", host, protocol, port, ex.lookup(PORTS_ADDRESS, first, first), translate)
    protocol, port = ex.meta(ex.Meta.L4PROTO, first), ex.payload(ex.Base.TRANSPORT, 2, 2, first + 1)
    batch.add_rule(table, "publish", protocol, port, ex.lookup(PORTS_ANY, first, first), translate)
    jump = ex.verdict(ex.Verdict.JUMP, "publish")
    batch.add_rule(table, "prerouting", ex.destination_in(_LOOPBACK), ex.verdict(ex.Verdict.RETURN))
    batch.add_rule(table, "prerouting", ex.destination_is_local(), jump)
    batch.add_rule(table, "output", ex.destination_is_local(), jump)


def _guard_rules(batch: Batch, table: str, networks: Sequence[NetworkSpec]) -> None:
    """route_localnet is on at the bridges; without these rules containers could reach the host's 127.0.0.1."""
    drop = ex.verdict(ex.Verdict.DROP)
    for network in networks:
        batch.add_rule(table, "guard", ex.input_is(network.bridge), ex.destination_in(_LOOPBACK), drop)
        batch.add_rule(table, "guard", ex.input_is(network.bridge), ex.source_in(_LOOPBACK), drop)


def _forward_rules(batch: Batch, table: str, networks: Sequence[NetworkSpec]) -> None:
    """Who may open connections: a container outwards; into a network only through a published port."""
    accept, drop = ex.verdict(ex.Verdict.ACCEPT), ex.verdict(ex.Verdict.DROP)
    batch.add_rule(table, "forward", ex.state_has(ex.CT_ESTABLISHED | ex.CT_RELATED), accept)
    for network in networks:
        within = ex.input_is(network.bridge) + ex.output_is(network.bridge)
        batch.add_rule(
            table, "forward", within, accept if network.icc else drop, comment=_comment(network.name)
        )
        if network.internal:
            batch.add_rule(table, "forward", ex.input_is(network.bridge), drop)
            batch.add_rule(table, "forward", ex.output_is(network.bridge), drop)
    for network in networks:
        if not network.internal:
            translated = ex.output_is(network.bridge) + ex.status_has(ex.IPS_DST_NAT)
            batch.add_rule(table, "forward", translated, accept)
            batch.add_rule(table, "forward", ex.output_is(network.bridge), drop)


def _comment(name: str) -> str:
    """At most 100 bytes of a name: the kernel keeps 128 for a comment."""
    return name.encode()[:100].decode("utf-8", "ignore")


def _postrouting_rules(batch: Batch, table: str, networks: Sequence[NetworkSpec]) -> None:
    """Sources that must become the host's, so that the answers come back through us."""
    for network in networks:
        subnet = str(ip_network(network.subnet))
        outwards = ex.output_is(network.bridge)
        # From 127.0.0.1 to a published port; from a container to one of its own network.
        batch.add_rule(table, "postrouting", outwards, ex.source_in(_LOOPBACK), ex.masquerade())
        hairpin = ex.source_in(subnet) + ex.status_has(ex.IPS_DST_NAT)
        batch.add_rule(table, "postrouting", outwards, hairpin, ex.masquerade())
        if network.masquerade and not network.internal:
            leaving = ex.source_in(subnet) + ex.output_is_not(network.bridge)
            batch.add_rule(table, "postrouting", leaving, ex.masquerade())
