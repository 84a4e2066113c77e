"""The container service: one object whose methods are the verbs of the API; the parts do the work."""

from __future__ import annotations

import asyncio
import builtins
import logging

from msgspec.structs import replace

from sampan.engine.config import EndpointSettings
from sampan.engine.containers.attach import Streams
from sampan.engine.containers.base import Parts
from sampan.engine.containers.build_steps import BuildSteps
from sampan.engine.containers.commit import Committing
from sampan.engine.containers.connecting import check_connect, check_disconnect
from sampan.engine.containers.create import Creator
from sampan.engine.containers.files import Files
from sampan.engine.containers.health import HealthChecks
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.listing import Listing
from sampan.engine.containers.monitor import Monitor, Waited
from sampan.engine.containers.network_files import follow_networks
from sampan.engine.containers.observe import Observer
from sampan.engine.containers.recovery import Recovery
from sampan.engine.containers.runner import Runner
from sampan.engine.containers.specs import SpecMaker
from sampan.engine.containers.statistics import Statistics
from sampan.engine.containers.store import Slot
from sampan.engine.containers.volume_mounts import VolumeMounts
from sampan.engine.containers.volume_renaming import VolumeRenaming
from sampan.engine.containers.wiring import Wiring
from sampan.engine.execs import Execs
from sampan.engine.model import ContainerRecord, Endpoint, NetworkRecord
from sampan.engine.networks.views import Member
from sampan.errors import NotFound, SampanError

log = logging.getLogger(__name__)


class Containers:
    """Used from the event loop's thread. `recover` comes first.

    It tells `Volumes` and `Networks` who uses them, and owns the `Execs` (`execs`), which live in containers.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._wiring = Wiring(parts)
        self._specs = SpecMaker(parts)
        volume_mounts = VolumeMounts(parts)
        self._monitor = Monitor(parts, self._wiring, volume_mounts)
        self._runner = Runner(parts, self._specs, self._wiring, volume_mounts, self._monitor)
        creator = Creator(parts)
        lifecycle = Lifecycle(parts, creator, self._runner, self._monitor)
        lifecycle.names_changed = self._names_changed  # type: ignore[method-assign]
        self.execs = Execs(parts, self._specs)
        self.build_steps = BuildSteps(parts, self._specs, self._wiring)
        self._health = HealthChecks(parts, self.execs)
        self._health.on_unhealthy = self._unhealthy
        self.health_checks = self._health.counts
        self._restart_unhealthy = lifecycle.restart_unhealthy
        listing = Listing(parts, lifecycle, self.execs.ids_of)
        streams = Streams(parts, self._runner, self._monitor)
        observer = Observer(parts)
        files = Files(parts)
        recovery = Recovery(parts, creator, self._wiring, volume_mounts, self._runner, self._monitor)
        self._monitor.on_started = self._started
        self._monitor.on_ended = self._ended
        parts.volumes.use.users = self._volume_users
        parts.volumes.use.unknown = parts.store.unreadable.unknown
        self.unreadable = parts.store.unreadable
        parts.volumes.use.busy = self._volume_busy
        parts.networks.members = self._network_members

        self.recover = recovery.recover
        self.create = creator.create
        self.start = lifecycle.start
        self.stop = lifecycle.stop
        self.kill = lifecycle.kill
        self.restart = lifecycle.restart
        self.pause = lifecycle.pause
        self.unpause = lifecycle.unpause
        self.rename = lifecycle.rename
        self.rename_volume = VolumeRenaming(parts).rename
        self.update = lifecycle.update
        self.remove = lifecycle.remove
        self.remove_link = lifecycle.remove_link
        self.inspect = listing.inspect
        self.list = listing.list
        self.prune = listing.prune
        self.disk_usage = listing.disk_usage
        self.attach = streams.attach
        self.resize = streams.resize
        self.logs = streams.logs
        self.content_type = streams.content_type
        self.top = observer.top
        self._statistics = Statistics(parts)
        self.stats = self._statistics.stats
        self.usages = self._statistics.usages
        self.changes = files.changes
        self.export = files.export
        self.archive_stat = files.stat
        self.archive_get = files.get
        self.archive_put = files.put
        self.commit = Committing(parts).commit

    def record(self, reference: str) -> ContainerRecord:
        """Raises `NotFound`."""
        return self._parts.store.find(reference).record

    def records(self) -> builtins.list[ContainerRecord]:
        return list(self._parts.store)

    def image_users(self, image_id: str) -> builtins.list[ContainerRecord]:
        """Containers of this image, and those that mount it."""
        return [record for record in self._parts.store if record.uses_image(image_id)]

    def counts(self) -> tuple[int, int, int]:
        """(running, paused, stopped)."""
        states = [record.state.status for record in self._parts.store]
        paused, running = states.count("paused"), states.count("running")
        return running, paused, len(states) - running - paused

    def wait(self, reference: str, condition: str = "") -> asyncio.Future[Waited]:
        """Registered when this returns. Raises `NotFound`, `Invalid`."""
        return self._monitor.wait(self._parts.store.find(reference), condition)

    async def close(self) -> None:
        """The engine ends; the containers run on."""
        self._health.close()
        self.execs.close()
        self._statistics.close()
        await self._monitor.close()

    # Networks of a container

    async def connect(self, network: str, reference: str, asked: EndpointSettings) -> None:
        """Raises `NotFound`, `Denied` (already connected), `Invalid`, `Conflict`."""
        parts = self._parts
        slot = parts.store.find(reference)
        wanted = parts.networks.find(network)
        async with slot.lock:
            self._check_present(slot)
            record = slot.record
            parts.networks.check_endpoint(wanted, asked)
            check_connect(record, wanted)
            served = self._wiring.names.serves(record.id)
            if record.running:
                endpoint = await self._wiring.plan_endpoint(record, wanted, asked)
                try:
                    after = await self._wiring.attach(record, wanted, endpoint)
                except (SampanError, OSError):
                    await self._wiring.give_up(record)
                    raise
                await self._connected(slot, after, wanted.name)
            else:
                endpoints = {**slot.record.endpoints, wanted.name: Endpoint(wanted.id, asked)}
                parts.store.replace(slot, replace(slot.record, endpoints=endpoints))
            try:
                await parts.store.save(slot, durable=True)
            except SampanError:  # a full disk: what nobody can write down is not so
                await self._disconnected(slot, record, wanted.name)
                raise
            if not served and self._wiring.names.serves(record.id):
                await asyncio.to_thread(self._specs.name_server_came, record)
            self._wiring.names.refresh(slot.record)
        self._network_event(wanted.id, wanted.name, wanted.driver, "connect", slot)

    async def disconnect(self, network: str, reference: str, *, force: bool = False) -> None:
        """`force`: also from a network that is gone. Raises `NotFound`, `Denied`."""
        parts = self._parts
        try:
            slot = parts.store.find(reference)
        except NotFound as error:
            if force:  # nothing of one that is gone can be in a network
                parts.networks.find(network)
                raise NotFound(f"endpoint {reference} not found") from error
            raise
        try:
            wanted = parts.networks.find(network)
        except NotFound:
            if not force:
                raise
            wanted = NetworkRecord("", network, "", "bridge")
        async with slot.lock:
            self._check_present(slot)
            record = slot.record
            check_disconnect(record, wanted)
            await self._connected(slot, await self._wiring.detach(record, wanted.name))
            try:
                await parts.store.save(slot, durable=True)
            except SampanError:
                if not record.running:  # else its interface is gone, whatever is written down
                    parts.store.replace(slot, replace(slot.record, endpoints=record.endpoints))
                raise
            self._wiring.names.refresh(slot.record)
        if wanted.id:
            self._network_event(wanted.id, wanted.name, wanted.driver, "disconnect", slot)

    def _check_present(self, slot: Slot) -> None:
        """Whoever waited for the lock may find the container gone."""
        if self._parts.store.get(slot.record.id) is not slot:
            raise NotFound(f"No such container: {slot.record.id}")

    async def _connected(self, slot: Slot, after: ContainerRecord, new: str = "") -> None:
        """Its networks are those of `after` from now on."""
        if slot.record.running:
            directory = self._parts.directory(slot.record.id)
            try:
                await asyncio.to_thread(follow_networks, directory, slot.record, after.endpoints)
            except (SampanError, OSError) as error:  # a full disk, say; it is in its networks all the same
                log.warning("/etc/hosts of container %s stays as it is: %s", slot.record.id, error)
        if not slot.record.running:  # it has ended meanwhile (or did not run), and given back what it had
            self._wiring.names.forget(after.id)
            after = await asyncio.to_thread(self._wiring.abandon, after, new)
        changed = replace(slot.record, endpoints=after.endpoints, published=after.published)
        self._parts.store.replace(slot, changed)

    async def _disconnected(self, slot: Slot, before: ContainerRecord, name: str) -> None:
        """As it was when its record was `before`."""
        if slot.record.running and name in slot.record.endpoints:
            await self._connected(slot, await self._wiring.detach(slot.record, name))
            self._wiring.names.refresh(slot.record)
        else:
            changed = replace(slot.record, endpoints=before.endpoints)
            self._parts.store.replace(slot, changed)

    def _network_event(self, network_id: str, name: str, driver: str, action: str, slot: Slot) -> None:
        attributes = {"container": slot.record.id, "name": name, "type": driver}
        self._parts.events.publish("network", action, network_id, attributes)

    # What others ask of the containers

    def _volume_users(self, name: str) -> builtins.list[str]:
        known = self._parts.store.using(
            lambda record: any(point.type == "volume" and point.name == name for point in record.mounts)
        )
        return [*known, *self._parts.store.unreadable.naming(name)]

    def _volume_busy(self, name: str) -> builtins.list[str]:
        """Those that run, or whose state somebody changes: it may be a start."""
        used = (self._parts.store.get(container) for container in self._volume_users(name))
        return [
            slot.record.name
            for slot in used
            if slot is not None
            and (slot.record.running or slot.record.state.status == "restarting" or slot.lock.locked())
        ]

    def _network_members(self, network_id: str) -> builtins.list[Member]:
        return [
            (record, endpoint)
            for record in self._parts.store
            for endpoint in record.endpoints.values()
            if endpoint.network_id == network_id
        ]

    def _names_changed(self, slot: Slot) -> None:
        self._wiring.names.refresh(slot.record)

    def _unhealthy(self, slot: Slot) -> None:
        self._monitor.spawn(self._end_unhealthy(slot))

    async def _end_unhealthy(self, slot: Slot) -> None:
        try:
            await self._restart_unhealthy(slot)
        except SampanError as error:
            log.warning("unhealthy container %s: %s", slot.record.id, error)
        if slot.record.running and not self._health.watching(slot.record.id):
            self._health.started(slot)  # it runs on (perhaps paused), or again: so do its checks

    def _started(self, slot: Slot) -> None:
        self._health.started(slot)

    def _ended(self, slot: Slot) -> None:
        self._health.ended(slot.record.id)
        self.execs.container_ended(slot.record.id)
