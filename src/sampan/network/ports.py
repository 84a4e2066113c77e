"""Published ports of one engine: who has which, and who serves it (NAT or the relay)."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from sampan.errors import Conflict, SampanError
from sampan.linux import xtables
from sampan.linux.netlink import NetlinkError
from sampan.linux.netlink_conntrack import forget_flows
from sampan.linux.nftables import Batch, NftablesSocket
from sampan.network import reservation, rules
from sampan.network.firewall import nftables_filter_input
from sampan.network.model import NetworkSpec, PortBinding, PublishMode
from sampan.network.relay_client import RelayClient

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Active:
    """A definite binding in force for the container at `address`. `relay`: its number there; None: NAT."""

    address: str
    binding: PortBinding
    held: socket.socket | None
    served: bool
    relay: int | None = None

    @property
    def may_change(self) -> bool:
        """Between NAT and the relay: IPv6 is always relayed."""
        return not reservation.is_ipv6(self.binding.host_address)

    def element(self) -> rules.MapElement | None:
        return None if self.served else rules.port_element(self.address, self.binding)


class PublishedPorts:
    """Thread-safe. The nftables socket, and the lock that guards it, are shared with the owner."""

    def __init__(
        self, instance: str, mode: PublishMode, nftables: NftablesSocket, lock: threading.RLock
    ) -> None:
        self._table = rules.table_name(instance)
        self._mode = mode
        self._nftables = nftables
        self._lock = lock
        self._relay = RelayClient(instance)
        self._active: dict[tuple[str, int], list[_Active]] = {}
        self._networks: tuple[NetworkSpec, ...] = ()
        self._next = reservation.EPHEMERAL.start
        self._generation: int | None = None
        self._filtered = False
        self._handle: int | None = None  # of our table, as we wrote it

    @property
    def relay_process(self) -> int | None:
        return self._relay.process_id

    def publish(self, address: str, bindings: Sequence[PortBinding]) -> tuple[PortBinding, ...]:
        """All or nothing; see `NetworkHost.publish`."""
        for binding in bindings:
            reservation.validate(binding)
        if not bindings:
            return ()
        with self._lock:
            by_relay, ipv6 = self._by_relay(), reservation.host_has_ipv6()
            reserved: list[_Active] = []
            try:
                for binding in bindings:
                    reserved += self._reserve(address, binding, by_relay, ipv6, reserved)
                self._insert(reserved)
            except BaseException:
                _release(reserved)
                raise
            for active in reserved:
                self._register(active)
        self._forget_flows(reserved)
        return tuple(active.binding for active in reserved)

    def unpublish(self, address: str, bindings: Sequence[PortBinding]) -> None:
        with self._lock:
            leaving = [
                active
                for binding in bindings
                for active in self._active.get((binding.protocol, binding.host_port), ())
                if active.address == address and active.binding == _definite(binding)
            ]
            self._withdraw(_elements(leaving))
            for active in leaving:
                self._drop(active)
        self._forget_flows(leaving)

    def restore(
        self, networks: Iterable[NetworkSpec], published: Mapping[str, Sequence[PortBinding]]
    ) -> tuple[PortBinding, ...]:
        """Make exactly these ports, and the table with these networks' rules, in one transaction.

        Returns the bindings whose ports other programs have taken meanwhile.
        """
        with self._lock:
            for active in self._everything():
                self._drop(active)
            if self._relay.process_id is None:
                self._relay.retire_orphan()
            by_relay = self._by_relay()
            restored: list[_Active] = []
            lost: list[PortBinding] = []
            for address, bindings in published.items():
                for binding in bindings:
                    try:
                        restored += self._reserve(address, binding, by_relay, False, restored)
                    except SampanError as exc:
                        _log.warning("a published port is lost: %s", exc)
                        lost.append(binding)
            try:
                self.write_rules(networks, restored)
            except BaseException:
                _release(restored)
                raise
            for active in restored:
                self._register(active)
        return tuple(lost)

    def write_rules(self, networks: Iterable[NetworkSpec], also: Sequence[_Active] = ()) -> None:
        """The whole table, for these networks and all published ports (and `also`), in one transaction."""
        with self._lock:
            self._networks = tuple(networks)
            batch = Batch(rules.FAMILY)
            rules.write_table(batch, self._table, self._networks, _elements([*self._everything(), *also]))
            self._commit(batch)
            self._handle = self._nftables.table_handle(rules.FAMILY, self._table)

    def refresh(self) -> tuple[str, ...]:
        """Has somebody removed our table, or begun or ceased to filter input? Returns what was mended, in words."""
        with self._lock:
            by_relay = self._by_relay()
            if any(active.served is not by_relay and active.may_change for active in self._everything()):
                published: dict[str, list[PortBinding]] = {}
                for active in self._everything():
                    published.setdefault(active.address, []).append(active.binding)
                self.restore(self._networks, published)
                return (f"ports are now published by {'the relay' if by_relay else 'NAT'}",)
            if self._nftables.table_handle(rules.FAMILY, self._table) != self._handle:
                self.write_rules(self._networks)
                return (f"table {self._table} is written anew",)
            return ()

    def _everything(self) -> list[_Active]:
        return [active for group in self._active.values() for active in group]

    def _insert(self, reserved: Sequence[_Active]) -> None:
        batch = Batch(rules.FAMILY)
        rules.add_ports(batch, self._table, _elements(reserved))
        try:
            self._commit(batch)
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            _log.warning("the table %s was removed by somebody; it is written anew", self._table)
            self.write_rules(self._networks, reserved)

    def _commit(self, batch: Batch) -> None:
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

    def _by_relay(self) -> bool:
        if self._mode is not PublishMode.AUTO:
            return self._mode is PublishMode.RELAY
        generation = self._nftables.generation()
        if generation != self._generation:
            self._filtered = nftables_filter_input(self._nftables)
            self._generation = generation
        return self._filtered or xtables.input_can_drop()

    def _reserve(
        self, address: str, binding: PortBinding, by_relay: bool, ipv6: bool, also: Sequence[_Active]
    ) -> list[_Active]:
        """Hold one host port on every address that the binding means."""
        addresses = reservation.host_addresses(binding, ipv6)
        failure: SampanError | None = None
        for port in reservation.candidates(binding, self._next):
            found: list[_Active] = []
            try:
                for host in addresses:
                    definite = _definite(binding, host, port)
                    self._check_free(definite, also)
                    serve = by_relay or reservation.is_ipv6(host)
                    held = reservation.bind(binding.protocol, host, port, serve=serve)
                    found.append(_Active(address, definite, held, serve))
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

    def _register(self, active: _Active) -> None:
        binding = active.binding
        if active.served and active.held is not None:
            number = self._relay.add(active.held, binding.protocol, active.address, binding.container_port)
            active = replace(active, relay=number)
        self._active.setdefault((binding.protocol, binding.host_port), []).append(active)

    def _drop(self, active: _Active) -> None:
        key = (active.binding.protocol, active.binding.host_port)
        self._active[key].remove(active)
        if not self._active[key]:
            del self._active[key]
        if active.relay is not None:
            self._relay.remove(active.relay)
        _release([active])

    def _withdraw(self, elements: Sequence[rules.MapElement]) -> None:
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

    def _delete(self, elements: Sequence[rules.MapElement]) -> None:
        batch = Batch(rules.FAMILY)
        rules.delete_ports(batch, self._table, elements)
        self._commit(batch)

    def _forget_flows(self, changed: Sequence[_Active]) -> None:
        ports = {one.binding.host_port for one in changed if one.binding.protocol == "udp" and not one.served}
        if ports:
            forget_flows(socket.IPPROTO_UDP, ports)


def _elements(active: Iterable[_Active]) -> list[rules.MapElement]:
    return [element for one in active if (element := one.element()) is not None]


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
