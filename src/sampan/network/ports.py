"""Published ports of one engine: who has which, and who serves it (NAT or the relay)."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import msgspec

from sampan.errors import Conflict, SampanError
from sampan.linux import xtables
from sampan.linux.netlink import NetlinkError
from sampan.linux.netlink_conntrack import forget_direct, forget_flows
from sampan.linux.nftables import Batch, NftablesSocket
from sampan.network import bridge, reservation, rules
from sampan.network.firewall import nftables_filter_input
from sampan.network.model import HostPolicy, NetworkSpec, PortBinding, PublishMode
from sampan.network.publishing import NOWHERE, Facts, Way, opened_binding
from sampan.network.relay_client import RelayClient

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Active:
    """A definite binding in force for the container at `address`. `relay`: its number there, where that serves it."""

    address: str
    binding: PortBinding
    held: socket.socket | None
    way: Way
    relay: int | None = None

    def elements(self) -> list[rules.Element]:
        way = self.way
        found = [rules.port_element(self.address, self.binding)] if way.translated else []
        if way.served and (relayed := rules.relayed_element(self.binding)) is not None:
            found.append(relayed)
        return [*found, rules.open_element(self.address, self.binding)] if way.open or way.direct else found


class PublishedPorts:
    """Thread-safe. The nftables socket, and the lock that guards it, are shared with the owner."""

    def __init__(
        self,
        instance: str,
        mode: PublishMode,
        nftables: NftablesSocket,
        lock: threading.RLock,
        policy: HostPolicy = HostPolicy(),  # noqa: B008 (frozen)
    ) -> None:
        self._policy = policy
        self._table = rules.table_name(instance)
        self._mode = mode
        self._nftables = nftables
        self._lock = lock
        self._relay = RelayClient(instance)
        self._active: dict[tuple[str, int], list[_Active]] = {}
        self._networks: tuple[NetworkSpec, ...] = ()
        self._next = reservation.EPHEMERAL.start
        self._generation: int | None = None
        self._filtered: frozenset[int] = frozenset()
        self._handle: int | None = None  # of our table, as we wrote it
        self._rules = 0  # how many are in it
        self.foreign: frozenset[str] = frozenset()  # bridges of other engines, for the next table

    @property
    def relay_process(self) -> int | None:
        return self._relay.process_id

    def publish(
        self, address: str, bindings: Sequence[PortBinding], address6: str = ""
    ) -> tuple[PortBinding, ...]:
        """All or nothing; see `NetworkHost.publish`."""
        for binding in bindings:
            reservation.validate(binding)
        if not bindings:
            return ()
        with self._lock:
            facts, ipv6 = self._facts(), reservation.host_has_ipv6()
            reserved: list[_Active] = []
            try:
                for binding in bindings:
                    reserved += self._reserve((address, address6), binding, facts, ipv6, reserved)
                self._insert(reserved)
                self._register_all(reserved)
            except BaseException:
                _release(reserved)
                raise
        self._forget_flows(reserved)
        return tuple(active.binding for active in reserved)

    def unpublish(self, address: str, bindings: Sequence[PortBinding], address6: str = "") -> None:
        with self._lock:
            leaving = [
                active
                for binding in bindings
                for active in self._active.get((binding.protocol, binding.host_port), ())
                if active.address in (address, address6) and active.binding == _definite(binding)
            ]
            staying = _elements(one for one in self._everything() if one not in leaving)
            self._withdraw([element for element in _elements(leaving) if element not in staying])
            for active in leaving:
                self._drop(active)
        self._forget_flows(leaving)

    def mode_of(self, binding: PortBinding) -> str:
        """How a definite binding is published now: "nat", "relay" or "routed"; "" when it is not. Waits for nobody."""
        for active in tuple(self._active.get((binding.protocol, binding.host_port), ())):
            if active.binding == _definite(binding):
                return "routed" if active.way.open else "relay" if active.way.served else "nat"
        return ""

    def restore(
        self, networks: Iterable[NetworkSpec], published: Mapping[str, Sequence[PortBinding]]
    ) -> tuple[PortBinding, ...]:
        """Make exactly these ports, and the table with these networks' rules, in one transaction.

        Connections through the relay go on, whoever has the port from now on. Returns the bindings whose ports other
        programs have taken meanwhile.
        """
        with self._lock:
            if self._relay.process_id is None:
                self._relay.retire_orphan()  # before anything is given up: it may refuse
            before = self._everything()
            for active in before:
                self._drop(active, sessions=False)
            self._networks = tuple(networks)
            facts = self._facts()
            restored: list[_Active] = []
            lost: list[PortBinding] = []
            for address, bindings in published.items():
                for binding in bindings:
                    try:
                        restored += self._reserve((address, address), binding, facts, False, restored)
                    except SampanError as exc:
                        _log.warning("a published port is lost: %s", exc)
                        lost.append(binding)
            try:
                self.write_rules(networks, restored)
            except BaseException:
                _release(restored)
                raise
            lost += self._register_each(restored)
            ways = {(one.address, one.binding): one.way for one in restored}
            moved = [one for one in before if ways.get((one.address, one.binding)) != one.way]
            self._forget_flows(moved, relayed=True)
        return tuple(lost)

    def write_rules(self, networks: Iterable[NetworkSpec], also: Sequence[_Active] = ()) -> None:
        """The whole table, for these networks and all published ports (and `also`), in one transaction."""
        with self._lock:
            self._networks = tuple(networks)
            batch = Batch(rules.FAMILY)
            elements = _elements([*self._everything(), *also])
            crossing = bridge.bridged_traffic_is_filtered("ip6")
            rules.write_table(
                batch,
                self._table,
                self._networks,
                elements,
                loopback6=not crossing,
                foreign=self.foreign,
                policy=self._policy,
            )
            self.commit(batch)
            self._handle = self._nftables.table_handle(rules.FAMILY, self._table)
            self._rules = batch.rules

    def _is_whole(self) -> bool:
        """Our table is the one that we wrote, and nothing in it was flushed or deleted."""
        handle = self._nftables.table_handle(rules.FAMILY, self._table)
        if handle is None and self._handle is None:  # of an engine that writes none
            return True
        if handle != self._handle or len(self._nftables.rules(rules.FAMILY, self._table)) != self._rules:
            return False
        ports = Counter(element.map for element in _elements(self._everything()))
        return self._nftables.holds(rules.FAMILY, self._table, ports)

    def seclude(self, foreign: frozenset[str]) -> None:
        """Our containers reach only what is published of those behind these bridges of other engines."""
        with self._lock:
            before, self.foreign = self.foreign, foreign
            if before == foreign or self._handle is None:
                return
            batch = Batch(rules.FAMILY)
            rules.change_foreign(batch, self._table, foreign - before, before - foreign)
            try:
                self.commit(batch)
            except NetlinkError as exc:
                if exc.errno != errno.ENOENT:
                    raise
                self.write_rules(self._networks)

    def refresh(self) -> tuple[str, ...]:
        """Has somebody removed our table or rules of it, or begun or ceased to filter input? Says what was mended."""
        with self._lock:
            facts = self._facts()
            changed = [one for one in self._everything() if facts.way(one.binding, one.address) != one.way]
            if changed:
                published: dict[str, list[PortBinding]] = {}
                for active in self._everything():
                    published.setdefault(active.address, []).append(active.binding)
                self.restore(self._networks, published)
                by_nat = facts.way(changed[0].binding, changed[0].address).translated
                return (f"ports are now published by {'NAT' if by_nat else 'the relay'}",)
            if not self._is_whole():
                self.write_rules(self._networks)
                self._forget_intruders()
                return (f"table {self._table} is written anew",)
            return ()

    def _everything(self) -> list[_Active]:
        return [active for group in self._active.values() for active in group]

    def _insert(self, reserved: Sequence[_Active]) -> None:
        batch = Batch(rules.FAMILY)
        rules.add_ports(batch, self._table, _elements(reserved))
        try:
            self.commit(batch)
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            _log.warning("the table %s was removed by somebody; it is written anew", self._table)
            self.write_rules(self._networks, reserved)

    def commit(self, batch: Batch) -> None:
        """A transaction of ours: it does not make us look at the host's rules again."""
        self._nftables.commit(batch)
        if self._generation is not None and self._nftables.generation() == self._generation + 1:
            self._generation += 1

    def close(self, *, stop: bool) -> None:
        """Let go of the sockets; `stop` also ends the relay, else it serves on until the next daemon comes."""
        with self._lock:
            self._relay.close(stop=stop)
            _release(self._everything())
            self._active.clear()
            if stop:
                self._relay.retire_orphan()  # of an earlier daemon

    def _facts(self) -> Facts:
        """What decides now, in this namespace, how a port is published."""
        crossing = bridge.bridged_traffic_is_filtered("ip6")
        return Facts(self._never_translated(), crossing, self._networks, self._policy.direct)

    def _never_translated(self) -> frozenset[int]:
        """The versions of IP whose ports a relay has to serve."""
        own = frozenset(() if self._policy.rules6 else (6,))
        if self._mode is not PublishMode.AUTO:
            return frozenset((4, 6)) if self._mode is PublishMode.RELAY else own
        generation = self._nftables.generation()
        if generation != self._generation:
            self._filtered = nftables_filter_input(self._nftables)
            self._generation = generation
        legacy = frozenset(version for version in (4, 6) if xtables.input_can_drop(version))
        return self._filtered | legacy | own

    def _reserve(
        self,
        own: tuple[str, str],
        binding: PortBinding,
        facts: Facts,
        ipv6: bool,
        also: Sequence[_Active],
    ) -> list[_Active]:
        """Everything that the binding means. `own`: the container's IPv4 and IPv6 addresses, "" where it has none."""
        targets = {host: reservation.target(host, *own) for host in reservation.host_addresses(binding, ipv6)}
        ways = {host: facts.way(binding, target, host) for host, target in targets.items() if target}
        opened = [
            _Active(targets[host], opened_binding(binding, host), None, way)
            for host, way in ways.items()
            if way.open
        ]
        present = [*self._active.get((binding.protocol, 0), ()), *also]
        opened = [one for one in opened if one not in present]
        closed = {
            host: way
            for host, way in ways.items()
            if not way.open and way != NOWHERE and not (way.served and _only_by_nat(binding, host))
        }
        held = self._hold(closed, targets, binding, also) if closed else []
        return sorted(opened + held, key=lambda one: reservation.is_ipv6(one.binding.host_address))

    def _hold(
        self,
        ways: Mapping[str, Way],
        targets: Mapping[str, str],
        binding: PortBinding,
        also: Sequence[_Active],
    ) -> list[_Active]:
        """One host port, held on every one of these addresses of the host."""
        failure: SampanError | None = None
        for port in reservation.candidates(binding, self._next):
            found: list[_Active] = []
            try:
                for host, way in ways.items():
                    definite = _definite(binding, host, port)
                    self._check_free(definite, also)
                    held = reservation.bind(binding.protocol, host, port, serve=way.served)
                    found.append(_Active(targets[host], definite, held, way))
            except Conflict as exc:
                _release(found)
                failure = failure or exc
                continue
            except BaseException:
                _release(found)
                raise
            if not binding.host_port:
                self._next = port + 1
            return found
        if binding.host_port and binding.host_port_end <= binding.host_port and failure is not None:
            raise failure
        wanted = f"{binding.host_port}-{binding.host_port_end}" if binding.host_port else "ephemeral ports"
        raise Conflict("all ports are allocated", hint=f"None of {wanted} is free.") from failure

    def _check_free(self, wanted: PortBinding, also: Sequence[_Active]) -> None:
        taken = self._active.get((wanted.protocol, wanted.host_port), ())
        if any(reservation.overlap(active.binding, wanted) for active in (*taken, *also)):
            raise reservation.already_allocated(wanted)

    def _register_all(self, reserved: Sequence[_Active]) -> None:
        """All or nothing, of what is in the table already."""
        registered: list[_Active] = []
        try:
            for active in reserved:
                registered.append(self._register(active))
        except BaseException:
            for active in registered:
                self._drop(active)
            staying = _elements(self._everything())
            self._withdraw([element for element in _elements(reserved) if element not in staying])
            raise

    def _register_each(self, restored: Sequence[_Active]) -> list[PortBinding]:
        """Returns the bindings for which there is no relay; the others need not suffer."""
        lost: list[PortBinding] = []
        for active in restored:
            try:
                self._register(active)
            except (SampanError, OSError) as exc:
                _log.warning("a published port is lost: %s", exc)
                _release([active])
                lost.append(active.binding)
        return lost

    def _register(self, active: _Active) -> _Active:
        binding = active.binding
        if active.way.served and active.held is not None:
            number = self._relay.add(active.held, binding.protocol, active.address, binding.container_port)
            active = replace(active, relay=number)
        self._active.setdefault((binding.protocol, binding.host_port), []).append(active)
        return active

    def _drop(self, active: _Active, *, sessions: bool = True) -> None:
        key = (active.binding.protocol, active.binding.host_port)
        self._active[key].remove(active)
        if not self._active[key]:
            del self._active[key]
        if active.relay is not None:
            self._relay.remove(active.relay, sessions=sessions)
        _release([active])

    def _withdraw(self, elements: Sequence[rules.Element]) -> None:
        """Delete map elements; one that somebody else has deleted does not keep the others."""
        try:
            self._delete(elements)
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            for element in elements:
                try:
                    self._delete([element])
                except NetlinkError as single:
                    if single.errno != errno.ENOENT:
                        raise

    def _delete(self, elements: Sequence[rules.Element]) -> None:
        batch = Batch(rules.FAMILY)
        rules.delete_ports(batch, self._table, elements)
        self.commit(batch)

    def _forget_intruders(self) -> None:
        """While our rules were gone anybody could connect to containers; what is established stays so otherwise."""
        subnets = [
            ip_network(subnet)
            for network in self._networks
            for subnet, mode in (
                (network.subnet, network.gateway_mode),
                (network.subnet6, network.gateway_mode6),
            )
            if network.bridge and subnet and mode not in ("routed", "nat-unprotected")
        ]
        number = forget_direct(subnets) if subnets else 0
        if number:
            _log.warning(
                "%d connections were made to containers while the rules were gone; they are ended", number
            )

    def _forget_flows(self, changed: Sequence[_Active], *, relayed: bool = False) -> None:
        """A UDP flow goes the way of its first packet for as long as packets come, to whoever has the address by then.

        `relayed`: to the host, too.
        """
        datagrams = [one for one in changed if one.binding.protocol == "udp"]
        ports = {
            one.binding.host_port for one in datagrams if one.way.translated or (relayed and one.way.served)
        }
        straight = {
            (ip_address(one.address), one.binding.container_port)
            for one in datagrams
            if one.way.open or one.way.direct
        }
        if ports or straight:
            forget_flows(socket.IPPROTO_UDP, ports, straight)


def _only_by_nat(binding: PortBinding, host: str) -> bool:
    """The relay knows no SCTP; where nobody asked for IPv6 in particular, it is left out."""
    return binding.protocol == "sctp" and not binding.host_address and reservation.is_ipv6(host)


def _elements(active: Iterable[_Active]) -> list[rules.Element]:
    return list(dict.fromkeys(element for one in active for element in one.elements()))


def _release(active: Iterable[_Active]) -> None:
    for one in active:
        if one.held is not None:
            one.held.close()


def _definite(binding: PortBinding, host: str | None = None, port: int | None = None) -> PortBinding:
    return msgspec.structs.replace(
        binding,
        host_address=binding.host_address if host is None else host,
        host_port=binding.host_port if port is None else port,
        host_port_end=0,
    )
