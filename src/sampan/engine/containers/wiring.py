"""The network of running containers: addresses, interfaces, ports, names.

The kernel's part is done by `NetworkHost` in threads; records and names belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from sampan.engine.config import EndpointSettings
from sampan.engine.containers.base import Parts
from sampan.engine.containers.names import ContainerNames
from sampan.engine.containers.publishing import Publishing
from sampan.engine.containers.user_namespaces import join_user_namespace
from sampan.engine.model import ContainerRecord, Endpoint, NetworkRecord
from sampan.engine.networks import endpoint_options, gateways
from sampan.engine.validate import container_of
from sampan.errors import Conflict, SampanError
from sampan.network.model import EndpointSpec, PortBinding

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Plan:
    """The network of a container that is about to start. `own`: it gets a namespace of its own."""

    own: bool
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    published: tuple[PortBinding, ...] = ()
    namespace: int = -1
    user_namespace: int = -1
    """Of a container whose ids are mapped; its network namespace belongs to it."""

    @property
    def specs(self) -> list[EndpointSpec]:
        return [endpoint.spec for endpoint in self.endpoints.values() if endpoint.spec is not None]

    def close(self) -> None:
        for descriptor in (self.namespace, self.user_namespace):
            if descriptor >= 0:
                os.close(descriptor)
        self.namespace = self.user_namespace = -1


class Wiring:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.names = ContainerNames(parts)
        self._publishing = Publishing(parts)
        self._detaching: dict[asyncio.Task[None], str] = {}
        """Addresses on their way back, and the ids of the containers that had them."""

    # Before the start

    async def plan(self, record: ContainerRecord) -> Plan:
        """Reserve addresses in all of the container's networks. Raises `Conflict`, `NotFound`; nothing is kept then.

        A restarted container mostly gets the addresses it had: what its last run still holds is waited for.
        """
        await self._settled([task for task, owner in self._detaching.items() if owner == record.id])
        mode = record.host.network_mode
        plan = Plan(own=mode != "host" and container_of(mode) is None)
        try:
            for name, endpoint in record.endpoints.items():
                network = self._network(name, endpoint)
                if network is None:
                    plan.endpoints[name] = replace(endpoint, network_id="", spec=None)
                    continue
                spec = await self._allocate(
                    network,
                    endpoint.asked,
                    used=[*(spec.interface for spec in plan.specs), *_chosen_names(record, name)],
                )
                plan.endpoints[network.name] = replace(endpoint, network_id=network.id, spec=spec)
        except BaseException:
            self._release_addresses(plan.specs)
            raise
        plan.endpoints = gateways.settle(plan.endpoints, self._network_of)
        return plan

    async def _allocate(
        self,
        network: NetworkRecord,
        asked: EndpointSettings,
        *,
        used: Sequence[str],
    ) -> EndpointSpec | None:
        prepared = await self._parts.networks.prepare(network, asked)
        try:
            return self._parts.networks.allocate(network, prepared, used=used)
        except BaseException:
            self._parts.networks.give_back(network, prepared)
            raise

    def _network(self, name: str, endpoint: Endpoint) -> NetworkRecord | None:
        """The endpoint's network; one that was removed and made again under its name takes its place.

        None: the default bridge, which this engine is without. Raises `NotFound`.
        """
        networks = self._parts.networks
        if name == "bridge" and networks.default is None:
            return None
        return networks.get(endpoint.network_id) or networks.find(name)

    def _network_of(self, endpoint: Endpoint) -> NetworkRecord | None:
        return self._parts.networks.get(endpoint.network_id)

    def make_namespaces(self, record: ContainerRecord, plan: Plan, joined: Mapping[str, int]) -> None:
        """Blocking: the network namespace, empty but for its loopback, and the user namespace that owns it.

        `joined`: namespace type -> a process of another container whose namespace is joined. A namespace belongs to a
        user namespace, which is joined with it. Raises `Conflict` when that can't be.
        """
        parts = self._parts
        ids = parts.settings.id_maps if record.remaps else None
        if ids is not None and joined:
            plan.user_namespace = join_user_namespace(joined)
            if plan.own:
                plan.namespace = parts.launcher.network_namespace(plan.user_namespace)
        elif ids is not None:
            plan.user_namespace, plan.namespace = parts.launcher.user_namespace(ids.uids, ids.gids)
        if plan.own and ids is not None:
            parts.network_host.prepare_namespace(plan.namespace)
        elif plan.own:
            plan.namespace = parts.network_host.create_namespace()

    def connect(self, record: ContainerRecord, plan: Plan) -> None:
        """Blocking: interfaces and published ports. Undoes everything when it fails."""
        host = self._parts.network_host
        attached: list[EndpointSpec] = []
        try:
            for endpoint in plan.endpoints.values():
                network = self._parts.networks.get(endpoint.network_id)
                if endpoint.spec is None or network is None or network.spec is None:
                    continue
                attached.append(endpoint.spec)
                host.attach(plan.namespace, network.spec, endpoint.spec)
            plan.published = self._publishing.publish(record, plan.endpoints)
        except BaseException:
            for spec in attached:
                host.detach(spec, plan.namespace)
            raise

    def introduce(self, record: ContainerRecord, plan: Plan) -> None:
        """Its names are known before it runs: the first thing that it asks for may be itself."""
        self.names.refresh(replace(record, endpoints=plan.endpoints))

    # Its end

    def release(self, record: ContainerRecord) -> None:
        """Blocking: ports and interfaces of a container that has ended. Idempotent."""
        self._publishing.unpublish(record)
        for spec in _specs(record):
            self._parts.network_host.detach(spec)

    async def end(self, record: ContainerRecord) -> None:
        """Give back the network of a container that has ended.

        Its ports are free when this returns. Interfaces end with their namespace, and removing one explicitly
        waits for the kernel's grace periods (some 20 ms): that goes on by itself, and the addresses are given
        away again only after it. Where a person fixed an address, the next start must find it free: then it is
        waited for.
        """
        try:
            if record.published:
                await asyncio.to_thread(self._publishing.unpublish, record)
        finally:  # ports that can't be taken back keep no addresses
            task = self._detach_later(record)
        if task is not None and any(
            one.asked.ipam_config or one.asked.mac_address for one in record.endpoints.values()
        ):
            await asyncio.wait([task])

    def _detach_later(self, record: ContainerRecord) -> asyncio.Task[None] | None:
        specs = _specs(record)
        if not specs:
            return None
        task = asyncio.ensure_future(self._detach_all(specs))
        self._detaching[task] = record.id
        task.add_done_callback(self._detached)
        return task

    async def _detach_all(self, specs: Sequence[EndpointSpec]) -> None:
        """One that can't be removed keeps neither its address, which ended with its namespace, nor the others'."""
        for spec in specs:
            try:
                await asyncio.to_thread(self._parts.network_host.detach, spec)
            except (SampanError, OSError) as error:
                log.warning("an interface of an ended container could not be removed: %s", error)
            finally:
                self._parts.networks.release(spec)

    def _detached(self, task: asyncio.Task[None]) -> None:
        self._detaching.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an interface of an ended container could not be removed: %s", error)

    async def settle(self) -> bool:
        """Wait until no address is on its way back; False when none was."""
        return await self._settled(tuple(self._detaching))

    async def _settled(self, tasks: Sequence[asyncio.Task[None]]) -> bool:
        if tasks:
            await asyncio.wait(tasks)
        return bool(tasks)

    def forget(self, record: ContainerRecord) -> ContainerRecord:
        """The record without its running network; the name server is closed. Addresses: see `end`."""
        self.names.forget(record.id)
        return replace(record, endpoints=without_interfaces(record.endpoints), published=())

    def discard(self, plan: Plan, record: ContainerRecord, *, connected: bool) -> None:
        """Take back a plan whose container did not start. Blocking only when it was `connected`."""
        if connected:
            self.release(replace(record, endpoints=plan.endpoints, published=plan.published))

    def forget_plan(self, record: ContainerRecord, plan: Plan) -> None:
        self.names.forget(record.id)
        self._release_addresses(plan.specs)

    def _release_addresses(self, specs: Sequence[EndpointSpec]) -> None:
        for spec in specs:
            self._parts.networks.release(spec)

    # Connect and disconnect of a running container

    async def plan_endpoint(
        self, record: ContainerRecord, network: NetworkRecord, asked: EndpointSettings
    ) -> Endpoint:
        used = [spec.interface for spec in _specs(record)]
        return Endpoint(network.id, asked, await self._allocate(network, asked, used=used))

    async def attach(
        self, record: ContainerRecord, network: NetworkRecord, endpoint: Endpoint
    ) -> ContainerRecord:
        """Make the interface in the namespace of a running container, whose endpoints and ports are these from now on.

        The default routes go where they belong, and published ports with them.
        """
        if endpoint.spec is None or network.spec is None:
            return replace(record, endpoints={**record.endpoints, network.name: endpoint})
        spec = replace(endpoint.spec, gateway=None, gateway6=None)
        host = self._parts.network_host
        try:
            namespace = os.open(f"/proc/{record.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._parts.networks.release(spec)
            raise
        try:
            await asyncio.to_thread(host.attach, namespace, network.spec, spec)
            return await self._join(record, {**record.endpoints, network.name: endpoint}, namespace)
        except BaseException:
            try:
                await asyncio.to_thread(host.detach, spec, namespace)
            finally:
                self._parts.networks.release(spec)
            raise
        finally:
            os.close(namespace)

    async def _join(
        self, record: ContainerRecord, endpoints: Mapping[str, Endpoint], namespace: int
    ) -> ContainerRecord:
        """The running container with these endpoints. When it raises, its routes and ports are where they were."""
        after = replace(record, endpoints=gateways.settle(endpoints, self._network_of))
        publishing = self._publishing
        try:
            await self._change_routes(record, after, namespace)
            published = await asyncio.to_thread(publishing.follow, record, after.endpoints)
            try:
                after = replace(after, published=published)
                await self.names.serve(after, namespace)
            except BaseException:
                await asyncio.to_thread(publishing.follow_what_can, after, record.endpoints)
                raise
        except BaseException:
            await self._change_routes(after, record, namespace)
            raise
        return after

    async def _change_routes(self, before: ContainerRecord, after: ContainerRecord, namespace: int) -> None:
        old, new = _specs(before), _specs(after)
        if _routes(old) != _routes(new):
            change = self._parts.network_host.change_default_routes
            await asyncio.to_thread(change, namespace, old, new)

    def abandon(self, record: ContainerRecord, new: str = "") -> ContainerRecord:
        """Blocking. What is left of `attach` or `detach` of a container that has ended meanwhile; the address of the
        `new` endpoint is given back, the others' and the ports that it had before are already."""
        self._publishing.unpublish(record)
        made = record.endpoints[new].spec if new else None
        if made is not None:
            try:
                self._parts.network_host.detach(made)
            finally:
                self._parts.networks.release(made)
        return replace(record, endpoints=without_interfaces(record.endpoints), published=())

    async def give_up(self, record: ContainerRecord) -> None:
        """After an `attach` that failed. Raises `Conflict` when that is so because the container has ended meanwhile:
        nobody asks for names there any more, see also `Publishing.give_up`."""
        if await asyncio.to_thread(self._publishing.give_up, record):
            self.names.forget(record.id)
            raise Conflict(f"container {record.id} is not running")

    async def detach(self, record: ContainerRecord, name: str) -> ContainerRecord:
        """Take the interface out of the namespace of a running container, whose endpoints and ports are these from now
        on."""
        endpoint = record.endpoints[name]
        left = {other: one for other, one in record.endpoints.items() if other != name}
        after = replace(record, endpoints=left)
        if endpoint.spec is None:
            return after
        detach = self._parts.network_host.detach
        try:
            namespace = os.open(f"/proc/{record.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            # It has just ended, and its namespace with it. Ports may have led to this address: who deals with the end
            # will not know it any more.
            await asyncio.to_thread(self._publishing.unpublish, record)
            after = replace(after, published=())
            await asyncio.to_thread(detach, endpoint.spec)
        else:
            try:
                await asyncio.to_thread(detach, endpoint.spec, namespace)
                after = replace(record, endpoints=gateways.settle(left, self._network_of))
                try:
                    await self._change_routes(record, after, namespace)
                except SampanError as error:  # the container itself has changed the interface that is left
                    log.warning("container %s has no default route now: %s", record.id, error.message)
                follow = self._publishing.follow_what_can
                after = replace(after, published=await asyncio.to_thread(follow, record, after.endpoints))
            finally:
                os.close(namespace)
        self._parts.networks.release(endpoint.spec)
        return after

    async def recover(self, records: Sequence[ContainerRecord]) -> None:
        """Before any is adopted: what the containers that ran are called, and what served their names."""
        for record in records:
            self.names.refresh(record)
        await self._parts.names.take_over()

    async def adopt(self, record: ContainerRecord) -> None:
        """A container that ran already when the engine started: its addresses and its name server."""
        for endpoint in record.endpoints.values():
            if endpoint.spec is not None:
                self._parts.networks.adopt(endpoint.spec)
        await self.names.adopt(record)


def without_interfaces(endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """The endpoints of a container that does not run."""
    return {name: replace(one, spec=None) for name, one in endpoints.items()}


def _chosen_names(record: ContainerRecord, name: str) -> list[str]:
    """The names of interfaces that are asked for in the container's other networks."""
    others = (one.asked for other, one in record.endpoints.items() if other != name)
    return endpoint_options.chosen_names(others)


def _specs(record: ContainerRecord) -> list[EndpointSpec]:
    return [one.spec for one in record.endpoints.values() if one.spec is not None]


def _routes(specs: Sequence[EndpointSpec]) -> list[tuple[str, str | None, str | None]]:
    return [
        (spec.id, spec.gateway, spec.gateway6)
        for spec in specs
        if spec.gateway is not None or spec.gateway6 is not None
    ]
