"""What this host wants the store to say of it, and what has to be written so that it does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import msgspec

from sampan.network.model import derived_mac
from sampan.network.overlay.schema import Claim, Endpoint, Host, Keys, Network
from sampan.network.overlay.store import Condition, Delete, Entry, Kind, Operation, Put
from sampan.network.overlay.view import View

_ONE_IN = 64
_MOST_KEPT = 4
"""Of a network's addresses a host keeps one in 64, at most 4, so that containers start without asking."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction that brings the store nearer to what we want."""

    conditions: tuple[Condition, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Leases:
    """Of everything that tells who is here (short), and of addresses (long)."""

    short: int
    long: int


class Own:
    """Used from one thread. `claims` and `endpoints` by (network, address) and (network, endpoint)."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.claims: dict[tuple[str, str], Claim] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.held: set[tuple[str, str]] = set()
        """Addresses that a container has or is about to have."""
        self.claiming: set[tuple[str, str]] = set()
        """Addresses that we ask the store for just now: it may be heard that they are ours before the answer comes."""
        self.complete = False
        """All containers of this host are known here: what else is in the store under our name may go."""

    def claim(self, network: str, address: str) -> None:
        """The address is ours now, for nobody yet."""
        self.claims.setdefault((network, address), self.kept_claim(address))

    def kept_claim(self, address: str) -> Claim:
        """Of an address that no container has yet; others know already which station address it will have."""
        return Claim(self.host.id, self.host.address, derived_mac(address))

    def reserve(self, network: str, key: str) -> None:
        """See `Places.second`: ours, and no container's."""
        self.claims[network, key] = self.reserved_claim()
        self.held.add((network, key))

    def reserved_claim(self) -> Claim:
        return Claim(self.host.id, self.host.address)

    def unreserve(self, network: str, key: str) -> None:
        self.claims.pop((network, key), None)
        self.held.discard((network, key))

    def free(self, network: str) -> list[str]:
        """Addresses that are ours and nobody's, lowest first."""
        found = (
            address
            for (of, address), claim in self.claims.items()
            if of == network and claim.mac and (of, address) not in self.held
        )
        return sorted(found, key=IPv4Address)

    def hold(self, network: str, address: str) -> None:
        self.held.add((network, address))

    def announce(self, network: str, endpoint_id: str, endpoint: Endpoint, address6: str = "") -> None:
        """A container has the address; it is claimed with this if it was not. `address6`: see `Claim`."""
        place = (network, endpoint.address)
        self.held.add(place)
        self.claims[place] = Claim(self.host.id, self.host.address, endpoint.mac, endpoint_id, address6)
        self.endpoints[network, endpoint_id] = endpoint

    def release(self, network: Network | None, network_id: str, address: str) -> None:
        """No container has it any more. It is kept for the next one, when there are not enough of these."""
        place = (network_id, address)
        claim = self.claims.pop(place, None)
        self.held.discard(place)
        if claim is not None and claim.endpoint:
            self.endpoints.pop((network_id, claim.endpoint), None)
        if network is not None and claim is not None and len(self.free(network_id)) < kept(network):
            self.claim(network_id, address)

    def drop(self, network_id: str) -> None:
        """The network is gone."""
        for places in (self.claims, self.endpoints):
            for place in [place for place in places if place[0] == network_id]:
                del places[place]
        self.held = {place for place in self.held if place[0] != network_id}

    def active(self, network_id: str) -> bool:
        """A container of this host is in the network."""
        return any(of == network_id for of, _ in self.endpoints)


def kept(network: Network) -> int:
    """How many addresses a host keeps that no container has."""
    size = IPv4Network(network.ip_range or network.subnet).num_addresses
    return min(_MOST_KEPT, size // _ONE_IN)


def candidates(network: Network, view: View) -> Iterator[str]:
    """Addresses of the network that nobody has, lowest first."""
    subnet = IPv4Network(network.subnet)
    claimed = view.claims.get(network.id, {})
    closed = {network.gateway, *network.aux.values(), str(subnet[0]), str(subnet[-1])}
    for address in IPv4Network(network.ip_range or network.subnet):
        text = str(address)
        if text not in claimed and text not in closed:
            yield text


def steps(own: Own, view: View, keys: Keys, leases: Leases, written: Set[str]) -> Iterator[Step]:
    """What to write; not the keys in `written`, of which something is to be heard first.

    Nothing that is another host's is written over: see `conflicts`.
    """
    yield from _put(view, keys.host(own.host.id), msgspec.json.encode(own.host), leases.short, written, ())
    for (network, address), claim in own.claims.items():
        if network in view.networks and not _others(own, view, network, address):
            key, there = keys.address(network, address), (Condition(Kind.PRESENT, keys.network(network)),)
            entry = view.entries.get(key)
            mine = (
                Condition(Kind.ABSENT, key)
                if entry is None
                else Condition(Kind.UNCHANGED, key, entry.modified)
            )
            yield from _put(view, key, msgspec.json.encode(claim), leases.long, written, (*there, mine))
    for (network, endpoint_id), endpoint in own.endpoints.items():
        if network in view.networks:
            there = (Condition(Kind.PRESENT, keys.network(network)),)
            body = msgspec.json.encode(endpoint)
            yield from _put(view, keys.endpoint(network, endpoint_id), body, leases.short, written, there)
    if own.complete:
        yield from _removals(own, view, keys, written)


def conflicts(own: Own, view: View) -> dict[tuple[str, str], str]:
    """Addresses that containers here have, and that another host has in the store: (network, address) -> host."""
    found = {}
    for (network, address), claim in own.claims.items():
        other = _others(own, view, network, address)
        if other and (claim.endpoint or not claim.mac):
            found[network, address] = other
    return found


def _others(own: Own, view: View, network: str, address: str) -> str:
    claim = view.claim_of(network, address)
    return claim.host if claim is not None and claim.host != own.host.id else ""


def _put(
    view: View, key: str, body: bytes, lease: int, written: Set[str], conditions: tuple[Condition, ...]
) -> Iterator[Step]:
    if key in written:
        return  # when it is heard of, we look again
    entry = view.entries.get(key)
    if entry is None or (entry.value, entry.lease) != (body, lease):
        yield Step(conditions, (Put(key, body, lease),))


def _removals(own: Own, view: View, keys: Keys, written: Set[str]) -> Iterator[Step]:
    for network, claims in view.claims.items():
        for address, claim in claims.items():
            place = (network, address)
            if claim.host == own.host.id and place not in own.claims and place not in own.claiming:
                yield from _removal(view.entries, keys.address(network, address), written)
    for network, endpoints in view.endpoints.items():
        for endpoint_id, endpoint in endpoints.items():
            if endpoint.host == own.host.id and (network, endpoint_id) not in own.endpoints:
                yield from _removal(view.entries, keys.endpoint(network, endpoint_id), written)


def _removal(entries: Mapping[str, Entry], key: str, written: Set[str]) -> Iterator[Step]:
    entry = entries.get(key)
    if entry is not None and key not in written:
        yield Step((Condition(Kind.UNCHANGED, key, entry.modified),), (Delete(key),))
