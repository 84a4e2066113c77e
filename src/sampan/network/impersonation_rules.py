"""Which frames a container may send: rules that keep it from using its neighbours' addresses. Pure.

A table of family bridge: its chain sees a frame when it comes in at a port of a bridge, before the bridge learns
anything from it. Root in a container, with NET_RAW as it has by default or with NET_ADMIN, can send any bytes. What
matters to others is the sender that a frame claims: the MAC address (bridges learn where it is), the source of an
IPv4 or IPv6 packet, the sender of an ARP message, the target of a neighbour advertisement. It may be the container's
own, or one that nobody has (a container that routes for others or moves a virtual address goes on working), but no
other container's and no gateway's. Only a router may send router advertisements and redirects.

Of a VLAN tag the kernel has taken the outermost before the chain sees the frame, and what is in it is looked at as any
other. A second one hides what follows, while a receiver takes off any number of tags with VLAN id 0: such frames are
dropped.

Addresses are looked up in sets, so the cost is the same for any number of containers: one look-up for each packet
that is as it should be. Only the targets of neighbour discovery are a rule for each address: nft could not read a
set of them again from its own listing, and such a listing may be what a host loads when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from sampan.linux import nftables_expressions as ex
from sampan.linux.nftables import BaseHook, Batch, Family, Field, Hook, pack_fields

FAMILY = Family.BRIDGE

_PRIORITY = -300  # before what others have in the bridge's prerouting
_ARRIVE, _CLAIMS, _DISCOVERY = "arrive", "claims", "discovery"
TARGETS = "targets"

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_VLAN, _SERVICE_VLAN = b"\x81\x00", b"\x88\xa8"  # IEEE 802.1Q, 802.1ad
_ICMPV6 = b"\x3a"
_ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = b"\x86", b"\x87", b"\x88", b"\x89"

_PORTS = "ports"  # interface
_OWN4, _OWN6 = "own", "own6"  # interface . MAC . address: all three of one container
_PORT_MAC, _PORT4, _PORT6 = "port-mac", "port", "port6"  # interface . what is its container's
_TAKEN_MAC = "taken-mac"  # MAC: of a container or of a bridge
_TAKEN4, _TAKEN6 = "taken", "taken6"  # address: of a container or a gateway

_INTERFACE, _MAC = Field.INTERFACE_NAME, Field.ETHER_ADDRESS
_SETS = {
    _PORTS: (_INTERFACE,),
    _OWN4: (_INTERFACE, _MAC, Field.IPV4_ADDRESS),
    _OWN6: (_INTERFACE, _MAC, Field.IPV6_ADDRESS),
    _PORT_MAC: (_INTERFACE, _MAC),
    _PORT4: (_INTERFACE, Field.IPV4_ADDRESS),
    _PORT6: (_INTERFACE, Field.IPV6_ADDRESS),
    _TAKEN_MAC: (_MAC,),
    _TAKEN4: (Field.IPV4_ADDRESS,),
    _TAKEN6: (Field.IPV6_ADDRESS,),
}

Elements = tuple[tuple[str, bytes], ...]
"""(set, key) pairs."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who somebody is: a container behind its port of a bridge (an interface of the host), or a bridge itself
    (`port` ""). Addresses are without prefix length."""

    port: str
    mac: str
    addresses: tuple[str, ...]

    def elements(self) -> Elements:
        mac = bytes.fromhex(self.mac.replace(":", ""))
        port = ex.interface_value(self.port)
        found = [(_TAKEN_MAC, mac)] if mac else []
        if self.port:
            found += [(_PORTS, port), (_PORT_MAC, pack_fields(port, mac))]
        for packed in self._packed():
            six = len(packed) == 16
            found.append((_TAKEN6 if six else _TAKEN4, packed))
            if self.port:
                found.append((_PORT6 if six else _PORT4, pack_fields(port, packed)))
                found.append((_OWN6 if six else _OWN4, pack_fields(port, mac, packed)))
        return tuple(found)

    def _packed(self) -> list[bytes]:
        """Who has an IPv6 address has a link-local one too."""
        found = [ip_address(address).packed for address in self.addresses]
        if self.mac and any(len(packed) == 16 for packed in found):
            found.append(ip_address(link_local(bytes.fromhex(self.mac.replace(":", "")))).packed)
        return found

    @property
    def name(self) -> str:
        """By which its rules are found again."""
        return self.port or self.mac

    @property
    def has_targets(self) -> bool:
        return any(":" in address for address in self.addresses)

    def add_targets(self, batch: Batch, table: str) -> None:
        """The rules of `TARGETS` for this one."""
        others = ex.input_is_not(self.port) if self.port else b""
        for packed in self._packed():
            if len(packed) == 16:
                target = _run(None, _DISCOVERY_TARGET) + ex.compare(packed)
                batch.add_rule(table, TARGETS, others, target, _DROP, comment=self.name)


def link_local(mac: bytes) -> str:
    """The IPv6 address that the kernel derives from a MAC address (RFC 4291, appendix A)."""
    identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def write_table(batch: Batch, table: str, claims: Iterable[Claim]) -> None:
    """The whole table from nothing, in the same transaction that removes what was there."""
    delete_table(batch, table)
    batch.add_table(table)
    for name, key in _SETS.items():
        batch.add_set(table, name, key)
    batch.add_chain(table, TARGETS)
    batch.add_chain(table, _DISCOVERY)
    batch.add_chain(table, _CLAIMS)
    batch.add_chain(table, _ARRIVE, BaseHook("filter", Hook.PREROUTING, _PRIORITY))
    _discovery_rules(batch, table)
    _claim_rules(batch, table)
    _arrival_rules(batch, table)
    known = tuple(claims)
    add(batch, table, [element for claim in known for element in claim.elements()])
    for claim in known:
        claim.add_targets(batch, table)


def delete_table(batch: Batch, table: str) -> None:
    """Also where it is not there."""
    batch.add_table(table)
    batch.delete_table(table)


def add(batch: Batch, table: str, elements: Sequence[tuple[str, bytes]]) -> None:
    for name, keys in _by_set(elements).items():
        batch.add_elements(table, name, [(key, None) for key in keys], exclusive=False)


def delete(batch: Batch, table: str, elements: Sequence[tuple[str, bytes]]) -> None:
    for name, keys in _by_set(elements).items():
        batch.delete_elements(table, name, keys)


def _by_set(elements: Sequence[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for name, key in elements:
        found.setdefault(name, []).append(key)
    return found


# What is loaded from a frame: (base, offset in bytes, length in bytes).
_Place = tuple[ex.Base, int, int]
_SENDER: _Place = (ex.Base.LINK, 6, 6)
_SOURCE4: _Place = (ex.Base.NETWORK, 12, 4)
_SOURCE6: _Place = (ex.Base.NETWORK, 8, 16)
_ARP_SENDER_MAC: _Place = (ex.Base.NETWORK, 8, 6)
_ARP_SENDER: _Place = (ex.Base.NETWORK, 14, 4)
_DISCOVERY_TARGET: _Place = (ex.Base.TRANSPORT, 8, 16)


def _run(first: ex.Meta | None, *places: _Place) -> bytes:
    """Load an interface's name (or not) and parts of the frame into a run of registers: a concatenated key."""
    register, found = ex.FIRST_REGISTER, b""
    if first is not None:
        found = ex.meta(first, register)
        register += 4
    for base, offset, length in places:
        found += ex.payload(base, offset, length, register)
        register += -(-length // 4)
    return found


def _protocol_is(value: bytes) -> bytes:
    return ex.meta(ex.Meta.PROTOCOL) + ex.compare(value)


def _is_others(place: _Place, mine: str, taken: str) -> bytes:
    """What stands at this place of the frame is not the sending container's, but somebody's."""
    not_own = _run(ex.Meta.IIFNAME, place) + ex.lookup(mine, inverted=True)
    return not_own + _run(None, place) + ex.lookup(taken)


_DROP = ex.verdict(ex.Verdict.DROP)


def _arrival_rules(batch: Batch, table: str) -> None:
    """The usual first. What no rule speaks of comes from ports that are not ours."""
    own4 = _run(ex.Meta.IIFNAME, _SENDER, _SOURCE4) + ex.lookup(_OWN4)
    batch.add_rule(table, _ARRIVE, _protocol_is(_IPV4), own4, ex.verdict(ex.Verdict.ACCEPT))
    own6 = _run(ex.Meta.IIFNAME, _SENDER, _SOURCE6) + ex.lookup(_OWN6)
    discovery = ex.verdict(ex.Verdict.GOTO, _DISCOVERY)
    batch.add_rule(table, _ARRIVE, _protocol_is(_IPV6), own6, discovery)
    port = ex.meta(ex.Meta.IIFNAME) + ex.lookup(_PORTS)
    batch.add_rule(table, _ARRIVE, port, ex.verdict(ex.Verdict.GOTO, _CLAIMS))


def _claim_rules(batch: Batch, table: str) -> None:
    """For frames of our containers that are not quite usual: ARP, and addresses that may be somebody's."""

    def refuse(*matches: bytes) -> None:
        batch.add_rule(table, _CLAIMS, *matches, _DROP)

    for tag in (_VLAN, _SERVICE_VLAN):
        refuse(_protocol_is(tag))
    refuse(_is_others(_SENDER, _PORT_MAC, _TAKEN_MAC))
    refuse(_protocol_is(_IPV4), _is_others(_SOURCE4, _PORT4, _TAKEN4))
    refuse(_protocol_is(_ARP), _is_others(_ARP_SENDER, _PORT4, _TAKEN4))
    refuse(_protocol_is(_ARP), _is_others(_ARP_SENDER_MAC, _PORT_MAC, _TAKEN_MAC))
    refuse(_protocol_is(_IPV6), _is_others(_SOURCE6, _PORT6, _TAKEN6))
    # A solicitation without a source claims its target: it asks whether anybody else has it.
    no_source = _run(None, _SOURCE6) + ex.compare(bytes(16))
    claimed = ex.verdict(ex.Verdict.JUMP, TARGETS)
    batch.add_rule(table, _CLAIMS, _protocol_is(_IPV6), no_source, _icmpv6(_SOLICITATION), claimed)
    goto = ex.verdict(ex.Verdict.GOTO, _DISCOVERY)
    batch.add_rule(table, _CLAIMS, _protocol_is(_IPV6), goto)


def _discovery_rules(batch: Batch, table: str) -> None:
    for kind in (_ROUTER_ADVERTISEMENT, _REDIRECT):
        batch.add_rule(table, _DISCOVERY, _icmpv6(kind), _DROP)
    batch.add_rule(table, _DISCOVERY, _icmpv6(_ADVERTISEMENT), ex.verdict(ex.Verdict.JUMP, TARGETS))


def _icmpv6(kind: bytes) -> bytes:
    protocol = ex.meta(ex.Meta.L4PROTO) + ex.compare(_ICMPV6)
    return protocol + ex.payload(ex.Base.TRANSPORT, 0, 1) + ex.compare(kind)
