"""Finding the containers again when the engine starts: running ones, ended ones, and rubbish.

A record says what was true when the last engine wrote it; the shim and its exit record say what is true now.

    record      shim answers        exit record     ->
    running     yes                                 adopted (and a start that was interrupted is finished)
    running     no                  yes             exited, with the true time and code
    running     no                  no              exited 255: the host was restarted, or everything was killed
    running     not in time                         left as it is, and asked again until the shim answers, is gone, or a
                                                    person has it killed
    other       yes                                 ended: a start whose record was never written
    none        yes                                 ended: a removal or a creation that was interrupted
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

from msgspec.structs import replace

from sampan.engine import restart, state
from sampan.engine.containers.base import Parts
from sampan.engine.containers.create import Creator
from sampan.engine.containers.monitor import UNKNOWN, Monitor, Silent
from sampan.engine.containers.publishing import publishing_addresses
from sampan.engine.containers.runner import Runner, end_shim, remove_run_directory
from sampan.engine.containers.store import Slot
from sampan.engine.containers.volume_mounts import VolumeMounts
from sampan.engine.containers.wiring import Wiring
from sampan.engine.model import epoch_ns, now
from sampan.errors import Conflict, Internal, Invalid, NotFound, SampanError, Unsupported
from sampan.linux.cgroups import Cgroup
from sampan.linux.process import start_time
from sampan.network.model import EndpointSpec, PortBinding
from sampan.network.reservation import by_target
from sampan.runtime.messages import ExitRecord
from sampan.runtime.shim_client import NO_ANSWER, ShimClient, ShimSilent, read_exit

log = logging.getLogger(__name__)

SHIM_SECONDS = 5.0
"""How long the engine's start waits for the answer of one shim."""
RETRY_SECONDS = 10.0
"""Between two attempts to reach a shim that was silent."""
LOST = 255
"""Docker's exit code of a container that was running when the host went down."""


class Recovery:
    def __init__(
        self,
        parts: Parts,
        creator: Creator,
        wiring: Wiring,
        volume_mounts: VolumeMounts,
        runner: Runner,
        monitor: Monitor,
    ) -> None:
        self._parts = parts
        self._creator = creator
        self._wiring = wiring
        self._volume_mounts = volume_mounts
        self._runner = runner
        self._monitor = monitor
        self._silent: dict[str, Silent] = monitor.silent

    async def recover(self) -> None:
        """Call once, before requests are served."""
        parts = self._parts
        was_running: set[str] = set()
        ended: list[tuple[Slot, ExitRecord]] = []
        await self._wiring.recover([record for record in parts.store if record.running])
        for slot in parts.store.slots():
            record = slot.record
            if record.running:
                was_running.add(record.id)
                try:
                    shim = await asyncio.to_thread(self._adopt, slot)
                except ShimSilent as error:
                    log.warning("container %s is left as it is: %s", record.id, error)
                    self._silent[record.id] = Silent()
                    self._volume_mounts.adopt(record)
                    await self._adopt_network(slot)
                    continue
                if shim is None:
                    ended.append((slot, await asyncio.to_thread(self._end_of, slot)))
                else:
                    self._volume_mounts.adopt(record)
                    await self._adopt_network(slot)
                    self._watch(slot, shim)
            else:
                if record.state.status == "restarting":
                    was_running.add(record.id)
                    parts.set_state(slot, replace(record.state, status="exited"))
                await asyncio.to_thread(self._clean, record.id, parts.cgroup(record))
        parts.names.recovered()
        await self._reconcile()
        for slot, end in ended:
            await self._record_end(slot, end)
        await asyncio.to_thread(self._sweep)
        await parts.volumes.remove_forsaken({one.id for one in parts.store} | parts.store.unreadable.ids())
        await parts.volumes.settle()
        self._monitor.spawn(self._restart_all(was_running))
        for slot in parts.store.slots():
            if slot.record.id in self._silent:
                self._monitor.spawn(self._adopt_later(slot))

    async def _adopt_later(self, slot: Slot) -> None:
        """Until the shim answers, is gone, or the container's record is; a person may kill it meanwhile."""
        shim: ShimClient | None = None
        silent = self._silent[slot.record.id]
        while shim is None:
            try:
                await asyncio.wait_for(silent.killed.wait(), RETRY_SECONDS)
            except TimeoutError:
                pass
            if self._parts.store.get(slot.record.id) is not slot:
                return
            try:
                shim = await asyncio.to_thread(self._adopt, slot)
            except ShimSilent:
                continue
            if shim is None:
                by_person = silent.killed.is_set()
                if by_person:
                    end = ExitRecord(UNKNOWN, now(), error=NO_ANSWER)
                else:
                    end = await asyncio.to_thread(self._end_of, slot)
                self._silent.pop(slot.record.id)
                await self._record_end(slot, end)
                silent.ended.set()
                if not by_person:
                    await self._restart_all({slot.record.id}, only=slot)
                return
        log.warning("container %s: its shim answers again", slot.record.id)
        self._silent.pop(slot.record.id)
        self._watch(slot, shim)
        silent.ended.set()

    def _adopt(self, slot: Slot) -> ShimClient | None:
        """Blocking: the link to a running container's shim; None when it has ended. Raises `ShimSilent`."""
        run_dir = self._parts.run_directory(slot.record.id)
        try:
            shim = ShimClient.connect(run_dir, timeout=SHIM_SECONDS)
        except NotFound:
            return None
        self._settle_freezer(slot)
        try:
            # Does nothing but raise when it is running already; else it finishes an interrupted start.
            shim.start(timeout=SHIM_SECONDS)
        except (Conflict, Invalid):
            pass
        except SampanError as error:
            log.warning("container %s: its start could not be finished: %s", slot.record.id, error)
        return shim

    def _settle_freezer(self, slot: Slot) -> None:
        """Blocking: held still or not as the record says; a commit, a pause, an unpause may have been interrupted."""
        group = self._parts.cgroup(slot.record)
        try:
            if slot.record.state.status == "paused":
                group.freeze()
            else:
                group.thaw()
        except Unsupported:
            return  # nothing can be held still on this host
        except SampanError as error:
            log.warning("container %s: it could not be paused or continued: %s", slot.record.id, error)

    def _watch(self, slot: Slot, shim: ShimClient) -> None:
        running_for = max(0.0, (time.time_ns() - epoch_ns(slot.record.state.started_at)) / 1e9)
        self._monitor.watch(slot, shim, running_for=running_for)

    async def _adopt_network(self, slot: Slot) -> None:
        record = slot.record
        try:
            await self._wiring.adopt(record)
        except (SampanError, OSError) as error:
            log.warning("container %s: its name server could not be started again: %s", record.id, error)

    def _end_of(self, slot: Slot) -> ExitRecord:
        """Blocking: how a container ended while no engine was there."""
        record = slot.record
        try:
            found = read_exit(self._parts.run_directory(record.id))
        except Internal as error:  # half-written, where the run directory's disk was full
            log.error("how container %s ended is not known: %s", record.id, error.message)
            found = None
        if found is None:
            self._kill_orphan(slot)
            found = ExitRecord(LOST, now(), error="")
        return found

    def _kill_orphan(self, slot: Slot) -> None:
        """A container whose shim was killed lives on without anybody to hear of its end: end it."""
        record = slot.record
        try:
            alive = record.state.pid > 0 and start_time(record.state.pid) == record.state.start_time
        except (OSError, SampanError):
            alive = False
        group = self._parts.cgroup(record)
        if alive or group.exists():
            group.kill_all()
            group.remove()

    async def _record_end(self, slot: Slot, end: ExitRecord) -> None:
        self._take_addresses(slot)
        await self._monitor.ended(slot, end, None)

    def _take_addresses(self, slot: Slot) -> None:
        """The end gives the addresses back, so they must be taken first."""
        for endpoint in slot.record.endpoints.values():
            if endpoint.spec is not None:
                try:
                    self._parts.networks.adopt(endpoint.spec)
                except (Conflict, Invalid):
                    continue

    def _clean(self, container_id: str, group: Cgroup) -> bool:
        """Blocking: end what runs without a record that says so; False when it can't be ended."""
        run_dir = self._parts.run_directory(container_id)
        if run_dir.exists():
            try:
                end_shim(run_dir, group, timeout=SHIM_SECONDS)
            except SampanError as error:
                log.warning("what is left of container %s stays for now: %s", container_id, error)
                return False
            remove_run_directory(run_dir)
        return True

    async def _reconcile(self) -> None:
        endpoints: list[EndpointSpec] = []
        published: dict[str, tuple[PortBinding, ...]] = {}
        for record in self._parts.store:
            if not record.running:
                continue
            if self._monitor.live(record.id) is None and record.id not in self._silent:
                continue
            endpoints += [one.spec for one in record.endpoints.values() if one.spec is not None]
            published |= by_target(record.published, *publishing_addresses(record.endpoints))
        lost = await asyncio.to_thread(
            self._parts.network_host.reconcile, self._parts.networks.specs(), endpoints, published
        )
        for binding in lost:
            log.warning("published port %s could not be restored: it was taken meanwhile", binding)

    def _sweep(self) -> None:
        """Blocking: what no record speaks of."""
        parts = self._parts
        known = {record.id for record in parts.store} | parts.store.unreadable.ids()
        kept: set[str] = set()
        for directory in (parts.settings.containers_dir, parts.settings.containers_run_dir):
            if not directory.is_dir():
                continue
            for entry in os.listdir(directory):
                if entry not in known and is_container_id(entry):
                    if not self._clean(entry, self._group(entry)):
                        kept.add(entry)
                        continue
                    self._creator.discard(entry)
                    self._remove_group(entry)
        parts.snapshots.sweep(known | kept)

    def _group(self, container_id: str) -> Cgroup:
        """The control group of a container without a record: in the engine's own parent."""
        return self._parts.cgroups.group(f"{self._parts.settings.cgroup_parent}/{container_id}")

    def _remove_group(self, container_id: str) -> None:
        group = self._group(container_id)
        if group.exists():
            group.kill_all()
            group.remove()

    async def _restart_all(self, was_running: set[str], only: Slot | None = None) -> None:
        for slot in self._parts.store.slots() if only is None else [only]:
            record = slot.record
            if record.running or record.state.status == "restarting" or record.state.status == "created":
                continue
            wanted = restart.at_engine_start(
                record.host.restart_policy,
                was_running=record.id in was_running,
                exit_code=record.state.exit_code,
                manually_stopped=record.manually_stopped,
            )
            if not wanted:
                continue
            async with slot.lock:
                try:
                    if self._parts.store.get(record.id) is slot and state.check_start(slot.record):
                        await self._runner.run(slot)
                except SampanError as error:
                    log.warning("container %s could not be started: %s", record.id, error)


def is_container_id(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
