"""Which nftables rules an engine's networks need: a pure translation into a batch of changes.

One table of family inet has the rules for IPv4 and IPv6 (its NAT chains need Linux 5.2), so that both change in one
transaction and what is about interfaces is said once. Published ports are elements of maps, two for each family,
looked up once per new connection; nothing grows with their number. Rules per network are few and, but for the first
one of `forward`, only new connections meet them.

What our table accepts, other tables may still drop: a base chain can not overrule another one's drop. For
the one that is common beside us, the FORWARD policy DROP of Docker, see `passage.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from sampan.linux import nftables_expressions as ex
from sampan.linux.nftables import BaseHook, Batch, Family, Field, Hook, pack_fields
from sampan.network.model import ANY_IPV4, ANY_IPV6, HostPolicy, NetworkSpec, PortBinding

FAMILY = Family.INET

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}

_RAW, _DSTNAT, _TRANSLATED, _FILTER, _SRCNAT = -300, -100, -90, 0, 100
_BRIDGES = "bridges"  # names of our bridges
_FOREIGN = "foreign"  # of other engines'
_LOOPBACK_ONLY = "loopback-only"  # protocol . port that the relay serves at 127.0.0.0/8 alone
_FROM_OURS = ex.meta(ex.Meta.IIFNAME) + ex.lookup(_BRIDGES)
_LINK_LOCAL = "fe80::/10"
_MULTICAST6 = "ff00::/8"
_BASE_CHAINS = {
    "guard": BaseHook("filter", Hook.PREROUTING, _RAW),
    "prerouting": BaseHook("nat", Hook.PREROUTING, _DSTNAT),
    "output": BaseHook("nat", Hook.OUTPUT, _DSTNAT),
    "arrival": BaseHook("filter", Hook.PREROUTING, _TRANSLATED),
    "forward": BaseHook("filter", Hook.FORWARD, _FILTER),
    "postrouting": BaseHook("nat", Hook.POSTROUTING, _SRCNAT),
}


@dataclass(frozen=True, slots=True)
class _Version:
    """What is different between the two families of addresses: names in our table, and the layout of a packet.

    `family` as nf_tables has it, which is as sockets have it (AF_INET, AF_INET6).
    """

    family: Family
    field: Field
    loopback: str
    address_bytes: int
    destination: int  # its offset in the header, in bytes
    icmp: str
    ports_any: str  # protocol . port -> container address . port
    ports_address: str  # host address . protocol . port -> container address . port
    open: str  # container address . protocol . port that is open without translation: a set
    relayed: str  # protocol . port of the host that a relay serves at all its addresses: a set
    publish: str  # the chain of the look-ups

    @property
    def registers(self) -> int:
        """How many an address takes."""
        return self.address_bytes // 4


_IPV4 = _Version(
    family=Family.IPV4,
    field=Field.IPV4_ADDRESS,
    loopback="127.0.0.0/8",
    address_bytes=4,
    destination=16,
    icmp="icmp",
    ports_any="ports-any",
    ports_address="ports-address",
    open="open",
    relayed="relayed",
    publish="publish",
)
_IPV6 = _Version(
    family=Family.IPV6,
    field=Field.IPV6_ADDRESS,
    loopback="::1",
    address_bytes=16,
    destination=24,
    icmp="icmpv6",
    ports_any="ports-any6",
    ports_address="ports-address6",
    open="open6",
    relayed="relayed6",
    publish="publish6",
)
_VERSIONS = (_IPV4, _IPV6)


@dataclass(frozen=True, slots=True)
class Element:
    """One published port, as an element of one of the maps or sets. `value` None: of a set."""

    map: str
    key: bytes
    value: bytes | None


def table_name(instance: str) -> str:
    return f"sampan-{instance}"


def _version(address: str) -> _Version:
    return _IPV6 if ":" in address else _IPV4


def port_element(address: str, binding: PortBinding) -> Element:
    """The map element that publishes a binding, on a host address of the same family as the container's `address`."""
    version = _version(address)
    protocol = bytes([PROTOCOL_NUMBERS[binding.protocol]])
    port = binding.host_port.to_bytes(2, "big")
    value = pack_fields(ip_address(address).packed, binding.container_port.to_bytes(2, "big"))
    if binding.host_address in ("", ANY_IPV4, ANY_IPV6):
        return Element(version.ports_any, pack_fields(protocol, port), value)
    host = ip_address(binding.host_address).packed
    return Element(version.ports_address, pack_fields(host, protocol, port), value)


def open_element(address: str, binding: PortBinding) -> Element:
    """The set element that opens a port of a container in a network that is routed to, without translation."""
    protocol = bytes([PROTOCOL_NUMBERS[binding.protocol]])
    key = pack_fields(ip_address(address).packed, protocol, binding.container_port.to_bytes(2, "big"))
    return Element(_version(address).open, key, None)


def relayed_element(binding: PortBinding) -> Element | None:
    """The set element of a port that the relay serves; None where nobody has to be kept from it."""
    protocol = bytes([PROTOCOL_NUMBERS[binding.protocol]])
    key = pack_fields(protocol, binding.host_port.to_bytes(2, "big"))
    if binding.host_address.startswith("127."):
        return Element(_LOOPBACK_ONLY, key, None)
    if binding.host_address not in (ANY_IPV4, ANY_IPV6):
        return None
    return Element(_version(binding.host_address).relayed, key, None)


def delete_table(batch: Batch, table: str) -> None:
    """Also where it is not there."""
    batch.add_table(table)
    batch.delete_table(table)


def write_table(
    batch: Batch,
    table: str,
    networks: Iterable[NetworkSpec],
    elements: Sequence[Element],
    *,
    loopback6: bool = True,
    foreign: Iterable[str] = (),
    policy: HostPolicy = HostPolicy(),  # noqa: B008 (frozen)
) -> None:
    """The whole table from nothing, in the same transaction that removes what was there.

    `loopback6`: ports are published on ::1 by NAT too (see `publishing.Facts`). `foreign`: bridges of other engines.
    """
    delete_table(batch, table)
    batch.add_table(table)
    bridged = [network for network in networks if network.bridge]
    ordered = sorted(bridged, key=lambda network: network.bridge)
    batch.add_set(table, _BRIDGES, (Field.INTERFACE_NAME,))
    if ordered:
        names = [(ex.interface_value(network.bridge), None) for network in ordered]
        batch.add_elements(table, _BRIDGES, names)
    batch.add_set(table, _FOREIGN, (Field.INTERFACE_NAME,))
    change_foreign(batch, table, foreign, ())
    batch.add_set(table, _LOOPBACK_ONLY, (Field.INET_PROTOCOL, Field.INET_SERVICE))
    for version in _VERSIONS:
        _add_maps(batch, table, version)
        batch.add_chain(table, version.publish)
    for name, base in _BASE_CHAINS.items():
        batch.add_chain(table, name, base)
        if not policy.rules6:
            batch.add_rule(table, name, ex.family_is(_IPV6.family), ex.verdict(ex.Verdict.ACCEPT))
    _guard_rules(batch, table)
    _seclusion_rules(batch, table, ordered)
    for version in _VERSIONS:
        _publish_rules(batch, table, version)
    _entrance_rules(batch, table, loopback6)
    _forward_rules(batch, table, ordered, direct=policy.direct)
    for network in ordered:
        for version in _VERSIONS:
            _postrouting_rules(batch, table, network, version)
    add_ports(batch, table, elements)


def _add_maps(batch: Batch, table: str, version: _Version) -> None:
    value = (version.field, Field.INET_SERVICE)
    whole = (version.field, Field.INET_PROTOCOL, Field.INET_SERVICE)
    batch.add_map(table, version.ports_any, (Field.INET_PROTOCOL, Field.INET_SERVICE), value)
    batch.add_map(table, version.ports_address, whole, value)
    batch.add_set(table, version.open, whole)
    batch.add_set(table, version.relayed, (Field.INET_PROTOCOL, Field.INET_SERVICE))


def change_foreign(batch: Batch, table: str, coming: Iterable[str], leaving: Iterable[str]) -> None:
    """Bridges of other engines that have come and gone."""
    if keys := [ex.interface_value(name) for name in sorted(leaving)]:
        batch.delete_elements(table, _FOREIGN, keys)
    if keys := [ex.interface_value(name) for name in sorted(coming)]:
        batch.add_elements(table, _FOREIGN, [(key, None) for key in keys])


def add_ports(batch: Batch, table: str, elements: Sequence[Element]) -> None:
    for name in dict.fromkeys(element.map for element in elements):
        chosen = [(element.key, element.value) for element in elements if element.map == name]
        batch.add_elements(table, name, chosen)


def delete_ports(batch: Batch, table: str, elements: Sequence[Element]) -> None:
    for name in dict.fromkeys(element.map for element in elements):
        batch.delete_elements(table, name, [element.key for element in elements if element.map == name])


def _address_and_port(version: _Version) -> bytes:
    """Load destination address . protocol . port into a run of registers."""
    first = ex.FIRST_REGISTER
    after = first + version.registers
    return (
        ex.payload(ex.Base.NETWORK, version.destination, version.address_bytes, first)
        + ex.meta(ex.Meta.L4PROTO, after)
        + ex.payload(ex.Base.TRANSPORT, 2, 2, after + 1)
    )


def _publish_rules(batch: Batch, table: str, version: _Version) -> None:
    """The look-ups: first for the host address that the packet came to, then for all of them."""
    first = ex.FIRST_REGISTER
    translate = ex.destination_nat(version.family, first, first + version.registers)
    exact = ex.lookup(version.ports_address, first, first)
    # The family again: without it, what `nft list` prints could not be read back by `nft -f`.
    whole = ex.family_is(version.family) + _address_and_port(version)
    batch.add_rule(table, version.publish, whole, exact, translate)
    protocol, port = ex.meta(ex.Meta.L4PROTO, first), ex.payload(ex.Base.TRANSPORT, 2, 2, first + 1)
    anywhere = ex.lookup(version.ports_any, first, first)
    batch.add_rule(table, version.publish, protocol, port, anywhere, translate)


def _entrance_rules(batch: Batch, table: str, loopback6: bool) -> None:
    """Where packets to published ports come in.

    Nothing aimed at 127.0.0.0/8 is translated when it comes from outside: a port published on 127.0.0.1 must not be
    open to neighbours on the same link that send us such packets (the kernel itself drops those to ::1). Nothing
    with a link-local source is translated: the kernel does not forward it.
    """
    leave = ex.verdict(ex.Verdict.RETURN)
    loopback = ex.family_is(_IPV4.family) + ex.destination_in(_IPV4.loopback)
    batch.add_rule(table, "prerouting", loopback, leave)
    batch.add_rule(table, "prerouting", ex.family_is(_IPV6.family), ex.source_in(_LINK_LOCAL), leave)
    if not loopback6:
        batch.add_rule(table, "output", ex.family_is(_IPV6.family), ex.destination_in(_IPV6.loopback), leave)
    for chain in ("prerouting", "output"):
        for version in _VERSIONS:
            here = ex.family_is(version.family) + ex.destination_is_local()
            batch.add_rule(table, chain, here, ex.verdict(ex.Verdict.JUMP, version.publish))


def _guard_rules(batch: Batch, table: str) -> None:
    """route_localnet is on at the bridges; without these rules containers could reach the host's 127.0.0.1.

    Where somebody has switched it on for other interfaces too, neighbours on the link reach the host's 127.0.0.1, but
    not what is published there.
    """
    drop = ex.verdict(ex.Verdict.DROP)
    ipv4 = ex.family_is(_IPV4.family)
    batch.add_rule(table, "guard", ipv4, ex.destination_in(_IPV4.loopback), _FROM_OURS, drop)
    batch.add_rule(table, "guard", ipv4, ex.source_in(_IPV4.loopback), _FROM_OURS, drop)
    port = ex.payload(ex.Base.TRANSPORT, 2, 2, ex.FIRST_REGISTER + 1)
    published = ex.meta(ex.Meta.L4PROTO) + port + ex.lookup(_LOOPBACK_ONLY)
    elsewhere = ex.destination_in(_IPV4.loopback) + ex.input_is_not("lo")
    batch.add_rule(table, "guard", ipv4, elsewhere, published, drop)


def _seclusion_rules(batch: Batch, table: str, networks: Sequence[NetworkSpec]) -> None:
    """What containers may not even send to the host itself.

    From an internal network nothing but to its own subnet: a container may make itself a route to the host's other
    addresses; and nothing to the relay, which would pass it on to another network. From a network without access to
    the host no connection to any service of the host; what a published port has led elsewhere by then is none. This is
    no chain of the input hook, as such a one would count as a filter
    that published ports have to obey.
    """
    drop = ex.verdict(ex.Verdict.DROP)
    # A service of the host's may trust other hosts by their address: as in `_forward_rules`, a source that no way
    # leads back to is forged.
    new = ex.state_has(ex.CT_NEW)
    batch.add_rule(table, "arrival", new, _FROM_OURS, ex.destination_is_local(), ex.no_way_back(), drop)
    for network in networks:
        inwards = ex.input_is(network.bridge)
        if network.internal:
            for version, subnet in ((_IPV4, network.subnet), (_IPV6, network.subnet6)):
                outside = ex.family_is(version.family)
                if subnet:
                    outside += ex.destination_not_in(str(ip_network(subnet)))
                if version is _IPV6:
                    outside += ex.destination_not_in(_LINK_LOCAL) + ex.destination_not_in(_MULTICAST6)
                batch.add_rule(table, "guard", inwards, outside, drop)
                # A port that NAT publishes leads to the forward chain, which drops it; the relay's are the host's.
                here = ex.family_is(version.family) + ex.destination_is_local()
                port = ex.payload(ex.Base.TRANSPORT, 2, 2, ex.FIRST_REGISTER + 1)
                relayed = ex.meta(ex.Meta.L4PROTO) + port + ex.lookup(version.relayed)
                batch.add_rule(table, "arrival", inwards, new, here, relayed, drop)
        if not network.host_access:
            batch.add_rule(table, "arrival", inwards, new, ex.destination_is_not_unicast(), drop)


def _forward_rules(batch: Batch, table: str, networks: Sequence[NetworkSpec], *, direct: bool) -> None:
    """Who may open connections: a container outwards; into a network only through a published port."""
    strangers = b""
    for ours in (_BRIDGES, _FOREIGN):
        strangers += ex.meta(ex.Meta.IIFNAME) + ex.lookup(ours, inverted=True)
    accept, drop = ex.verdict(ex.Verdict.ACCEPT), ex.verdict(ex.Verdict.DROP)
    batch.add_rule(table, "forward", ex.state_has(ex.CT_ESTABLISHED | ex.CT_RELATED), accept)
    for network in networks:
        within = ex.input_is(network.bridge) + ex.output_is(network.bridge)
        if not network.icc:  # a published port is open to everybody, also to those beside the container
            translated = within + ex.status_has(ex.IPS_DST_NAT)
            batch.add_rule(table, "forward", translated, accept)
        batch.add_rule(
            table, "forward", within, accept if network.icc else drop, comment=_comment(network.name)
        )
        if network.internal:
            batch.add_rule(table, "forward", ex.input_is(network.bridge), drop)
            batch.add_rule(table, "forward", ex.output_is(network.bridge), drop)
    # A source that no way leads back to is forged: no answer could arrive. Only here, where br_netfilter's bridged
    # packets are through: those may come from addresses that the host has no route to.
    batch.add_rule(table, "forward", _FROM_OURS, ex.no_way_back(), drop)
    # What another engine has published it has translated before.
    elsewhere = ex.meta(ex.Meta.OIFNAME) + ex.lookup(_FOREIGN)
    for network in networks:
        for name in network.trusted:
            batch.add_rule(
                table, "forward", ex.input_is(network.bridge), ex.output_is(name), elsewhere, accept
            )
    batch.add_rule(table, "forward", _FROM_OURS, elsewhere, ex.status_has_not(ex.IPS_DST_NAT), drop)
    for network in networks:
        if not network.internal:
            translated = ex.output_is(network.bridge) + ex.status_has(ex.IPS_DST_NAT)
            batch.add_rule(table, "forward", translated, accept)
            for source in [*map(ex.input_is, network.trusted), *([strangers] if direct else ())]:
                for version in _VERSIONS:
                    here = source + ex.output_is(network.bridge) + ex.family_is(version.family)
                    published = _address_and_port(version) + ex.lookup(version.open)
                    batch.add_rule(table, "forward", here, published, accept)
            _direct_rules(batch, table, network.bridge, _IPV4, network.gateway_mode)
            _direct_rules(batch, table, network.bridge, _IPV6, network.gateway_mode6)
            batch.add_rule(table, "forward", ex.output_is(network.bridge), drop)


def _direct_rules(batch: Batch, table: str, bridge: str, version: _Version, mode: str) -> None:
    """What may be opened at a container's own address from elsewhere, by the network's gateway mode."""
    inwards, accept = ex.output_is(bridge) + ex.family_is(version.family), ex.verdict(ex.Verdict.ACCEPT)
    if mode == "nat-unprotected":
        from_outside = ex.meta(ex.Meta.IIFNAME) + ex.lookup(_BRIDGES, inverted=True)
        batch.add_rule(table, "forward", inwards, from_outside, accept)
    elif mode == "routed":
        published = _address_and_port(version) + ex.lookup(version.open)
        batch.add_rule(table, "forward", inwards, published, accept)
        icmp = ex.meta(ex.Meta.L4PROTO) + ex.compare(bytes([PROTOCOL_NUMBERS[version.icmp]]))
        batch.add_rule(table, "forward", inwards, icmp, accept)


def _comment(name: str) -> str:
    """At most 100 bytes of a name: the kernel keeps 128 for a comment. What `nft list` prints must be read back by
    `nft -f` as what it is: no quote ends the comment, no backslash or line break is in it."""
    plain = "".join(one if one.isprintable() and one not in '"\\' else "?" for one in name)
    return plain.encode()[:100].decode("utf-8", "ignore")


def _postrouting_rules(batch: Batch, table: str, network: NetworkSpec, version: _Version) -> None:
    """Sources that must become the host's, so that the answers come back through us."""
    if version is _IPV4:
        subnet, mode, own = network.subnet, network.gateway_mode, network.host_ipv4
    else:
        subnet, mode, own = network.subnet6, network.gateway_mode6, network.host_ipv6
    if not subnet:
        return
    outwards = ex.output_is(network.bridge) + ex.family_is(version.family)
    source = ex.source_in(str(ip_network(subnet)))
    # From the host's loopback address to a published port; from a container to one of its own network.
    batch.add_rule(table, "postrouting", outwards, ex.source_in(version.loopback), ex.masquerade())
    batch.add_rule(table, "postrouting", outwards, source, ex.status_has(ex.IPS_DST_NAT), ex.masquerade())
    if network.masquerade and not network.internal and mode != "routed":
        leaving = ex.output_is_not(network.bridge) + ex.family_is(version.family)
        become = ex.source_nat(version.family, ip_address(own).packed) if own else ex.masquerade()
        batch.add_rule(table, "postrouting", leaving, source, become)
