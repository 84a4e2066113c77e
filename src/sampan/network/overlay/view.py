"""What this engine believes of a store's content, kept up to date change by change, and what follows from it. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from sampan.errors import Invalid
from sampan.network.model import Forward, derived_mac
from sampan.network.overlay import schema
from sampan.network.overlay.driver import bridge_name
from sampan.network.overlay.schema import Claim, Endpoint, Host, Keys, Network
from sampan.network.overlay.store import Change, Entry, Snapshot

_log = logging.getLogger(__name__)

_MOST_SAID = 100
"""Entries at one time that the log complains of: whoever writes into the store must not fill a host's disk."""


class View:
    """Used from one thread. Entries that make no sense are as if they were not there, and counted in `rejected`."""

    def __init__(self, keys: Keys, *, quiet: bool = False) -> None:
        """`quiet`: somebody else says in the log what is rejected."""
        self._keys = keys
        self._most_said = 0 if quiet else _MOST_SAID
        self.revision = 0
        self.entries: dict[str, Entry] = {}
        """Everything below the root, as it is in the store."""
        self.size = 0
        """Of `entries`, in bytes."""
        self.identity = ""
        self.secret = b""
        self.hosts: dict[str, Host] = {}
        self.networks: dict[str, Network] = {}
        self.claims: dict[str, dict[str, Claim]] = {}
        """By network, by address."""
        self.endpoints: dict[str, dict[str, Endpoint]] = {}
        """By network, by endpoint."""
        self.rejected: dict[str, str] = {}
        """Key -> reason."""

    def replace(self, snapshot: Snapshot) -> set[str]:
        """All of it anew. Returns the networks that something changed in."""
        before = dict(self.entries)
        changes = [Change(key, None) for key in before.keys() - snapshot.entries.keys()]
        # Networks first: what is said of addresses is checked by them.
        for key, entry in sorted(snapshot.entries.items(), key=lambda item: not self._is_network(item[0])):
            if before.get(key) != entry:
                changes.append(Change(key, entry))
        touched = self.apply(snapshot.revision, changes)
        self.revision = snapshot.revision  # a store that lost its data begins anew
        return touched

    def apply(self, revision: int, changes: Iterable[Change]) -> set[str]:
        """Returns the networks that something changed in; "" among them stands for hosts and the cluster itself."""
        self.revision = max(self.revision, revision)
        touched: set[str] = set()
        for change in changes:
            parts = self._keys.split(change.key)
            readable = change.key.isascii() and change.key.isprintable()
            if len(parts) < 1 or not readable or len(change.key) > 500:
                continue
            if (known := self.entries.pop(change.key, None)) is not None:
                self.size -= known.size(change.key)
            if change.entry is not None:
                self.entries[change.key] = change.entry
                self.size += change.entry.size(change.key)
            touched |= self._take(change.key, parts, change.entry)
        return touched

    def _is_network(self, key: str) -> bool:
        return key.startswith(self._keys.networks)

    def _take(self, key: str, parts: tuple[str, ...], entry: Entry | None) -> set[str]:
        said = self.rejected.pop(key, None)
        self._forget(parts)
        if entry is not None:
            try:
                self._learn(parts, entry.value)
            except Invalid as error:
                self.rejected[key] = error.message
                if said != error.message and len(self.rejected) <= self._most_said:
                    _log.warning("cluster store: %s is not used: %s", key, error)
        return {parts[1] if parts[0] in ("networks", "addresses", "endpoints") and len(parts) > 1 else ""}

    def _forget(self, parts: tuple[str, ...]) -> None:
        match parts:
            case ("hosts", host):
                self.hosts.pop(host, None)
            case ("networks", network):
                self.networks.pop(network, None)
            case ("addresses", network, address):
                _drop(self.claims, network, address)
            case ("endpoints", network, endpoint):
                _drop(self.endpoints, network, endpoint)
            case _:
                return

    def _learn(self, parts: tuple[str, ...], value: bytes) -> None:
        match parts:
            case ("identity",):
                self.identity = _token(value)
            case ("secret",):
                self.secret = bytes.fromhex(_token(value))
            case ("hosts", host):
                _bounded(self.hosts, schema.MAX_HOSTS)
                self.hosts[host] = schema.decode_host(parts, value)
            case ("networks", network):
                _bounded(self.networks, schema.MAX_NETWORKS)
                self._learn_network(network, schema.decode_network(parts, value))
            case ("addresses", network, address):
                if len(self.claims) >= schema.MAX_NETWORKS and network not in self.claims:
                    raise Invalid("there are too many networks")
                claims = self.claims.setdefault(network, {})
                _bounded(claims, schema.MAX_PER_NETWORK)
                claims[address] = schema.decode_claim(parts, value, self.networks.get(network))
            case ("endpoints", network, endpoint):
                if len(self.endpoints) >= schema.MAX_NETWORKS and network not in self.endpoints:
                    raise Invalid("there are too many networks")
                endpoints = self.endpoints.setdefault(network, {})
                _bounded(endpoints, schema.MAX_PER_NETWORK)
                endpoints[endpoint] = schema.decode_endpoint(parts, value, self.networks.get(network))
            case _:
                return

    def _learn_network(self, network_id: str, network: Network) -> None:
        for other in self.networks.values():
            if other.vni == network.vni or other.name == network.name:
                raise Invalid(f"it has the name or the number of network {other.id[:12]}")
            if bridge_name(other.id) == bridge_name(network.id):
                raise Invalid(f"its devices would be called as those of network {other.id[:12]}")
        self.networks[network_id] = network
        # What came before its network was not checked by it.
        for kind in ("addresses", "endpoints"):
            prefix = f"{self._keys.root}{kind}/{network_id}/"
            for key in [key for key in self.entries if key.startswith(prefix)]:
                self._take(key, self._keys.split(key), self.entries[key])

    # What follows

    def claim_of(self, network: str, address: str) -> Claim | None:
        return self.claims.get(network, {}).get(address)

    def forwards(self, network_id: str, own_host: str, own_address: str) -> dict[str, Forward]:
        """By MAC: containers of other hosts in the network, and where they are.

        Also of addresses that hosts keep: a container that starts while the store is gone is reached all the same.
        """
        network = self.networks.get(network_id)
        if network is None:
            return {}
        taken = {derived_mac(network.gateway)}
        taken |= {claim.mac for claim in self._of(network_id, own_host)}
        found: dict[str, Forward] = {}
        version = schema.check_underlay(own_address).version
        for address, claim in sorted(self.claims.get(network_id, {}).items()):
            other = claim.host != own_host and claim.at != own_address
            if not other or not claim.mac or claim.mac in taken or ":" in address:
                continue
            if schema.check_underlay(claim.at).version == version:
                shown, address6 = self.addresses(network, address)
                found.setdefault(claim.mac, Forward(claim.mac, shown, claim.at, address6))
        return found

    def addresses(self, network: Network, place: str) -> tuple[str, str]:
        """IPv4 and IPv6 address of who has this place; "" for none."""
        claims = self.claims.get(network.id, {})
        claim = claims.get(place)
        address6 = network.places.address6(place)
        if claim is not None and claim.address6 not in ("", address6):
            # It is the container's only if its host has it from the store.
            second = claims.get(network.places.second(place, claim.address6))
            is_its = second is not None and second.host == claim.host and not second.mac
            address6 = claim.address6 if is_its else ""
        return place if network.ipv4 else "", address6

    def _of(self, network_id: str, host: str) -> Iterator[Claim]:
        return (claim for claim in self.claims.get(network_id, {}).values() if claim.host == host)

    def remote_endpoints(self, network_id: str, own_host: str) -> list[tuple[str, Endpoint]]:
        """(endpoint id, endpoint) of containers on other hosts whose address is really theirs."""
        found = []
        for endpoint_id, endpoint in sorted(self.endpoints.get(network_id, {}).items()):
            claim = self.claim_of(network_id, endpoint.address)
            if endpoint.host != own_host and claim is not None and claim.endpoint == endpoint_id:
                found.append((endpoint_id, endpoint))
        return found

    def peers(self, own_host: str) -> frozenset[str]:
        """The addresses that VXLAN packets may come from: hosts that are there, and those that have containers."""
        found = {host.address for host in self.hosts.values() if host.id != own_host}
        for claims in self.claims.values():
            found |= {claim.at for claim in claims.values() if claim.host != own_host and claim.endpoint}
        return frozenset(found)


def _drop(
    where: dict[str, dict[str, Claim]] | dict[str, dict[str, Endpoint]], network: str, key: str
) -> None:
    inner = where.get(network)
    if inner is not None:
        inner.pop(key, None)
        if not inner:
            del where[network]


def _bounded(known: Mapping[str, object], most: int) -> None:
    if len(known) >= most:
        raise Invalid(f"there are more than {most}")


def _token(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    even = len(text) % 2 == 0
    if not (even and 32 <= len(text) <= 128) or any(letter not in "0123456789abcdef" for letter in text):
        raise Invalid("it is no hexadecimal number of 32 to 128 digits, two for each byte")
    return text
