"""This engine in its cluster: between the records of networks, the containers here, the store, and the kernel.

Networks of the cluster are records like others, but nothing of them is in the kernel until a container here is in them:
what somebody writes into the store changes nothing on a host that does not use it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Address

from sampan.engine.config import IpamConfig
from sampan.engine.model import ContainerRecord, NetworkRecord
from sampan.engine.networks.overlay import (
    check_encryption,
    check_same,
    held_places,
    network_of,
    overlapping,
    record_of,
)
from sampan.engine.system import ClusterFacts
from sampan.errors import Conflict, NotFound, SampanError
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, Forward, NetworkSpec
from sampan.network.overlay import allocation, schema
from sampan.network.overlay.control import Control
from sampan.network.overlay.own import kept
from sampan.network.overlay.protector import Protector
from sampan.network.overlay.schema import Network

log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0


class Cluster:
    """Used from the event loop's thread. The callbacks are set when the engine is wired."""

    def __init__(self, control: Control, host: NetworkHost, mtu: int, protector: Protector) -> None:
        """`mtu`: of the hosts' network, in bytes."""
        self.control = control
        self._protector = protector
        self.advertised = control.own.host.address
        self.underlay = (mtu, schema.check_underlay(self.advertised).version)
        self._host = host
        self._touched: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._filling: set[asyncio.Task[None]] = set()
        self._used: dict[str, NetworkSpec] = {}
        self._making = asyncio.Lock()
        self._programming = asyncio.Lock()
        self._members: dict[str, set[tuple[str, str]]] = {}
        """Container -> (network, endpoint) that the others have been told of."""
        self._told: dict[str, dict[str, schema.Endpoint]] = {}
        """Network -> endpoint on another host that containers here know the names of."""
        self.records: Callable[[], Iterable[NetworkRecord]] = tuple
        self.learn: Callable[[NetworkRecord], Awaitable[None]]
        """A record that the engine does not have yet, for one of the cluster's networks."""
        self.forget: Callable[[NetworkRecord], Awaitable[None]]
        self.tell: Callable[[str, str, schema.Endpoint | None, tuple[str, ...]], None] = lambda *_: None
        """What an endpoint of another host is called: (network, endpoint id, endpoint or None when it is gone, its
        addresses)."""
        control.known_networks = self._known
        control.on_change = self._changed

    def _known(self) -> list[Network]:
        return [network_of(record) for record in self.records() if record.driver == "overlay"]

    def _changed(self, networks: frozenset[str]) -> None:
        self._protector.changed()
        self._touched |= networks
        self._wake.set()

    # Life

    async def start(self, *, seconds: float) -> None:
        """Meet the store, for this long at most; what is known of the cluster counts from now on."""
        await self._protector.start()
        await self.control.start(seconds=seconds)
        await self._sync_networks()
        self._task = asyncio.create_task(self._follow())

    async def complete(self) -> None:
        """All containers that run here are known: `adopt` and `present` have been called for them."""
        if any(spec.secure for spec in self._used.values()):
            try:
                await self._protector.need()
            except SampanError as error:
                log.error("encrypted networks are not brought up to date: %s", error)
        self.control.complete()
        self._changed(frozenset(self._used))

    async def close(self, *, leave: bool) -> None:
        for task in (self._task, *self._filling):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._task, *self._filling) if task), return_exceptions=True)
        await self._protector.close(leave=leave)
        await self.control.close(leave=leave)

    async def _follow(self) -> None:
        """Bring records, kernel and names to what the store says, whenever it says something new."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            touched, self._touched = self._touched, set()
            try:
                await self._sync_networks()
                await self._program(touched)
            except (SampanError, OSError) as error:
                log.warning("overlay networks could not be brought up to date: %s", error)
                self._touched |= touched
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()
            self._tell_names(touched)

    async def _sync_networks(self) -> None:
        view = self.control.view
        known = {record.id: record for record in self.records() if record.driver == "overlay"}
        for network_id, network in list(view.networks.items()):
            if network_id not in known:
                try:
                    await self.learn(record_of(network))
                except (SampanError, OSError) as error:  # one that can not be had must not hide the others
                    log.warning("network %s of the cluster is not known here: %s", network.name, error)
        if not (self.control.status.connected and self.control.own.complete):
            return
        for network_id, record in known.items():
            if network_id not in view.networks and not self.control.own.active(network_id):
                self.control.own.drop(network_id)
                self._used.pop(network_id, None)
                await self.forget(record)

    async def _program(self, touched: Iterable[str]) -> None:
        view, own = self.control.view, self.control.own.host
        async with self._programming:  # what is newer must not be overtaken by what is older
            forwards: dict[str, Mapping[str, Forward]] = {
                network: view.forwards(network, own.id, own.address)
                for network in touched
                if network in self._used and network in view.networks
            }
            if self._used:
                await asyncio.to_thread(self._host.program_overlay, forwards, view.peers(own.id))

    def _tell_names(self, touched: Iterable[str]) -> None:
        for network in touched:
            known = self._told.get(network, {})
            now = dict(self.control.view.remote_endpoints(network, self.control.own.host.id))
            for endpoint_id in known.keys() - now.keys():
                self.tell(network, endpoint_id, None, ())
            shared = self.control.view.networks.get(network)
            for endpoint_id, endpoint in now.items():
                if shared is not None and known.get(endpoint_id) != endpoint:
                    both = self.control.view.addresses(shared, endpoint.address)
                    self.tell(network, endpoint_id, endpoint, tuple(filter(None, both)))
            if now:
                self._told[network] = now
            else:
                self._told.pop(network, None)

    # Networks

    async def create(self, plan: Callable[[list[IPv4Network]], Network]) -> NetworkRecord:
        """See `allocation.create_network`."""
        network = await allocation.create_network(self.control, plan)
        return record_of(network)

    async def remove(self, record: NetworkRecord) -> None:
        """For all hosts. Raises `Denied`, `Unavailable`."""
        await allocation.remove_network(self.control, network_of(record))
        self._used.pop(record.id, None)

    def _spec(self, network_id: str) -> NetworkSpec | None:
        known = self._used.get(network_id)
        if known is not None:
            return known
        return next((record.spec for record in self.records() if record.id == network_id), None)

    def uses(self, network_id: str) -> bool:
        """Whether it has something in this host's kernel."""
        return network_id in self._used

    # Containers

    async def prepare(self, record: NetworkRecord, asked: IpamConfig) -> tuple[str, str]:
        """Addresses (IPv4 and IPv6, or "") for a container that is about to start, and the network in the kernel.

        Raises `Conflict`, `Invalid`, ...
        """
        network = self.control.view.networks.get(record.id)
        if network is None:
            self.control.require()
            raise NotFound(f"network {record.name} not found")
        check_same(record, network)
        await self._make(record)
        wanted6 = str(IPv6Address(asked.ipv6_address)) if asked.ipv6_address else ""
        place, address6 = await allocation.take_addresses(self.control, network, asked.ipv4_address, wanted6)
        self._fill(network)
        return place if network.ipv4 else "", address6

    async def _make(self, record: NetworkRecord) -> None:
        async with self._making:
            spec = record.spec
            if record.id in self._used or spec is None:
                return
            if spec.secure:
                await asyncio.to_thread(check_encryption, record.name)
                await self._protector.need()
            in_use = await asyncio.to_thread(self._host.subnets_in_use)
            other = overlapping((spec.subnet, spec.subnet6), in_use)
            if other is not None:
                raise Conflict(
                    f"network {record.name} can not be used on this host: its subnet overlaps {other}",
                    hint="An interface or a route of this host has it; create the network with another --subnet.",
                )
            await asyncio.to_thread(self._host.ensure, spec)
            self._used[record.id] = spec
            await self._program([record.id])
            self._tell_names([record.id])

    def _fill(self, network: Network) -> None:
        """Have some addresses ready for the next containers; nobody waits for it."""
        task = asyncio.create_task(self._keep_some(network))
        self._filling.add(task)
        task.add_done_callback(self._filling.discard)

    async def _keep_some(self, network: Network) -> None:
        try:
            await allocation.keep_some(self.control, network, kept(network))
        except SampanError as error:
            log.debug("no addresses of network %s are kept: %s", network.name, error)

    def adopt(self, spec: EndpointSpec, network: NetworkSpec) -> None:
        """An endpoint of a container that ran already when the engine started; its network is in the kernel."""
        self._used[network.id] = network
        place, second = held_places(network, *_plain_both(spec))
        self.control.own.hold(network.id, place)
        if second:
            self.control.own.reserve(network.id, second)

    def release(self, spec: EndpointSpec) -> None:
        """No container has the address any more."""
        self.give_back(spec.network_id, *_plain_both(spec))

    def give_back(self, network_id: str, address: str, address6: str) -> None:
        """Addresses that `prepare` gave."""
        known = self._spec(network_id)
        if known is None:
            return  # what a host has in a network goes with it
        place, second = held_places(known, address, address6)
        if second:
            self.control.own.unreserve(network_id, second)
        self.control.own.release(self.control.view.networks.get(network_id), network_id, place)
        self.control.changed()

    def present(self, record: ContainerRecord, names: Mapping[str, tuple[str, ...]]) -> None:
        """A container here is in these networks (its endpoints), called so (by network id): the others are told."""
        own = self.control.own
        now: set[tuple[str, str]] = set()
        for endpoint in record.endpoints.values():
            spec = endpoint.spec
            if spec is None or spec.driver != "overlay" or (known := self._spec(spec.network_id)) is None:
                continue
            now.add((spec.network_id, spec.id))
            address, address6 = _plain_both(spec)
            place, second = held_places(known, address, address6)
            told = schema.Endpoint(
                own.host.id,
                record.id,
                record.name,
                place,
                spec.mac,
                tuple(name for name in names.get(spec.network_id, ()) if schema.is_name(name)),
            )
            own.announce(spec.network_id, spec.id, told, address6 if second else "")
        self._withdraw(self._members.get(record.id, set()) - now)
        if now:
            self._members[record.id] = now
        else:
            self._members.pop(record.id, None)
        self.control.changed()

    def gone(self, container_id: str) -> None:
        """It has ended: its names go at once, its addresses with `release`."""
        self._withdraw(self._members.pop(container_id, set()))
        self.control.changed()

    def _withdraw(self, places: Iterable[tuple[str, str]]) -> None:
        for place in places:
            self.control.own.endpoints.pop(place, None)

    # What people are told

    def peers(self, network_id: str) -> list[dict[str, str]]:
        """As Docker shows them: the hosts with containers in the network."""
        view = self.control.view
        ids = {claim.host for claim in view.claims.get(network_id, {}).values() if claim.endpoint}
        hosts = sorted((view.hosts[one] for one in ids if one in view.hosts), key=lambda host: host.address)
        return [{"Name": host.name, "IP": host.address} for host in hosts]

    def remote(self, network_id: str) -> dict[str, dict[str, str]]:
        """Endpoints of other hosts for `network inspect`, as Docker's overlay networks showed them."""
        network = self.control.view.networks.get(network_id)
        if network is None:
            return {}
        prefix, prefix6 = (subnet.partition("/")[2] for subnet in (network.subnet, network.subnet6))
        found = {}
        for endpoint_id, endpoint in self.control.view.remote_endpoints(network_id, self.control.own.host.id):
            address, address6 = self.control.view.addresses(network, endpoint.address)
            found[f"ep-{endpoint_id}"] = {
                "Name": endpoint.name,
                "EndpointID": endpoint_id,
                "MacAddress": endpoint.mac,
                "IPv4Address": f"{address}/{prefix}" if address else "",
                "IPv6Address": f"{address6}/{prefix6}" if address6 else "",
            }
        return found

    def state(self) -> dict[str, object]:
        """For `info` and `network inspect`: whether the control plane works, and since when it does or does not."""
        status, view = self.control.status, self.control.view
        since = datetime.fromtimestamp(status.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "Store": self.control.store.name,
            "State": "connected" if status.connected else "unreachable",
            "Since": since,
            "Error": status.error,
            "Hosts": len(view.hosts),
            "RejectedEntries": len(view.rejected),
        }

    def facts(self) -> ClusterFacts:
        """For `info`."""
        status, name = self.control.status, self.control.store.name
        warnings = []
        if not status.connected:
            seconds = int(time.time() - status.since)
            warnings.append(
                f"WARNING: the cluster store {name} has not answered for {seconds} s: {status.error}; "
                "overlay networks go on with what was known"
            )
        advertised = {"ClusterStore": name, "ClusterAdvertise": self.advertised}
        return ClusterFacts({**advertised, "ClusterState": self.state()}, warnings)


def _plain_both(spec: EndpointSpec) -> tuple[str, str]:
    """IPv4 and IPv6 address without prefix lengths; "" for none."""
    return spec.address.partition("/")[0], spec.address6.partition("/")[0]
