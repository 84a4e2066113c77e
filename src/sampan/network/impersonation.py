"""Keeps the rules of `impersonation_rules` in the kernel in step with the networks and endpoints there are."""

from __future__ import annotations

import errno
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping

from sampan.linux.netlink import NetlinkError
from sampan.linux.nftables import Batch, NftablesSocket
from sampan.network import impersonation_rules as rules
from sampan.network.impersonation_rules import Claim
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac

_log = logging.getLogger(__name__)
_NO_SUPPORT = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


def endpoint_claim(endpoint: EndpointSpec, port: str) -> Claim:
    addresses = (endpoint.address, endpoint.address6)
    mac = endpoint.mac or derived_mac(endpoint.address or endpoint.address6)
    return Claim(port, mac, tuple(one.partition("/")[0] for one in addresses if one))


def bridge_claim(network: NetworkSpec, mac: str) -> Claim:
    """A gateway that is not the bridge's own address may be a container: one that routes for the others."""
    four = "" if network.inhibit_ipv4 or network.gateway_mode == "isolated" else network.gateway
    six = "" if network.gateway_mode6 == "isolated" else network.gateway6
    return Claim("", mac, tuple(one for one in (four, six) if one))


class ImpersonationGuard:
    """Thread-safe by the owner's lock. `commit` performs a transaction on the owner's socket.

    Claims are known by a key of the caller's: the id of a network or an endpoint.
    """

    def __init__(
        self, table: str, nftables: NftablesSocket, lock: threading.RLock, commit: Callable[[Batch], None]
    ) -> None:
        self._table = table
        self._nftables = nftables
        self._lock = lock
        self._commit = commit
        self._claims: dict[str, Claim] = {}
        self._counts: Counter[tuple[str, bytes]] = (
            Counter()
        )  # a fixed MAC address may be there in two networks
        self._handle: int | None = None  # of our table, as we wrote it
        self._rules = 0  # how many are in it
        self.supported = True  # the kernel filters bridged frames

    def add(self, key: str, claim: Claim) -> None:
        """From now on nobody else may use these addresses. Idempotent; a claim of the same key is replaced."""
        with self._lock:
            present = self._claims.get(key)
            if present == claim:
                return
            if present is not None:
                self.remove(key)
            self._claims[key] = claim
            elements = claim.elements()
            self._counts.update(elements)
            if self._handle is None:
                self._write()
            else:
                batch = Batch(rules.FAMILY)
                rules.add(batch, self._table, elements)
                claim.add_targets(batch, self._table)
                self._change(batch, batch.rules)

    def remove(self, key: str) -> None:
        """Idempotent."""
        with self._lock:
            claim = self._claims.pop(key, None)
            if claim is None:
                return
            elements = claim.elements()
            self._counts.subtract(elements)
            leaving = tuple(element for element in elements if self._counts[element] <= 0)
            for element in leaving:
                del self._counts[element]
            if self._handle is not None:
                batch = Batch(rules.FAMILY)
                rules.delete(batch, self._table, leaving)
                fewer = self._delete_targets(batch, claim) if claim.has_targets else 0
                self._change(batch, -fewer)

    def restore(self, claims: Mapping[str, Claim]) -> None:
        """Exactly these claims, in one transaction."""
        with self._lock:
            self._claims = dict(claims)
            self._counts = Counter(element for claim in claims.values() for element in claim.elements())
            self._write()

    def refresh(self) -> bool:
        """Write the table anew when somebody else has removed or replaced it or what is in it; whether that was so."""
        with self._lock:
            if not self.supported or self._is_whole():
                return False
            self._write()
            return True

    def _is_whole(self) -> bool:
        if self._nftables.table_handle(rules.FAMILY, self._table) != self._handle:
            return False
        if self._handle is None:
            return True
        expected = Counter(name for name, _ in self._counts)
        present = len(self._nftables.rules(rules.FAMILY, self._table))
        return present == self._rules and self._nftables.holds(rules.FAMILY, self._table, expected)

    def clear(self) -> None:
        """Nothing of it stays in the kernel."""
        with self._lock:
            self._claims.clear()
            self._counts.clear()
            self._handle = None
            if self.supported:
                batch = Batch(rules.FAMILY)
                rules.delete_table(batch, self._table)
                self._perform(batch)

    def _delete_targets(self, batch: Batch, claim: Claim) -> int:
        """How many they are."""
        leaving = [
            rule
            for rule in self._nftables.rules(rules.FAMILY, self._table, rules.TARGETS)
            if rule.comment == claim.name
        ]
        for rule in leaving:
            batch.delete_rule(self._table, rules.TARGETS, rule.handle)
        return len(leaving)

    def _change(self, batch: Batch, more: int) -> None:
        """`more`: rules, of which there are so many more (or fewer) afterwards."""
        try:
            self._commit(batch)
            self._rules += more
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            _log.warning("the bridge table %s was changed by somebody; it is written anew", self._table)
            self._write()

    def _write(self) -> None:
        if not self.supported:
            return
        batch = Batch(rules.FAMILY)
        rules.write_table(batch, self._table, self._claims.values())
        if self._perform(batch):
            self._handle = self._nftables.table_handle(rules.FAMILY, self._table)
            self._rules = batch.rules

    def _perform(self, batch: Batch) -> bool:
        """False where the kernel can not filter bridged frames: that is said once, and the engine works without."""
        try:
            self._commit(batch)
        except NetlinkError as exc:
            if exc.errno not in _NO_SUPPORT:
                raise
            self.supported = False
            _log.warning(
                "this kernel has no nftables for bridges: containers could take each other's addresses"
            )
            return False
        return True
