"""What people do to a container: start, stop, kill, restart, pause, rename, update, remove."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from msgspec.structs import replace

from sampan.engine import restart as restart_rules
from sampan.engine import state
from sampan.engine.config import HostConfig
from sampan.engine.containers.base import Parts
from sampan.engine.containers.create import Creator
from sampan.engine.containers.monitor import Monitor
from sampan.engine.containers.publishing import Publishing, check_publishes
from sampan.engine.containers.runner import Runner, end_shim, end_silent
from sampan.engine.containers.store import Slot
from sampan.engine.model import ContainerRecord
from sampan.engine.names import check_name
from sampan.engine.port_update import NO_PORT_CHANGES, PortChanges, PortPlan, planned
from sampan.engine.resource_update import changed_limits, updated
from sampan.engine.signals import check_supported, parse_number, parse_signal
from sampan.errors import Conflict, Invalid, NotFound, SampanError, Unavailable
from sampan.network.model import PortBinding
from sampan.runtime.shim_client import KILL_SECONDS, ShimClient, ShimSilent

log = logging.getLogger(__name__)

DEFAULT_STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL."""
_KILL_TIMEOUT = 30.0


class Lifecycle:
    def __init__(self, parts: Parts, creator: Creator, runner: Runner, monitor: Monitor) -> None:
        self._parts = parts
        self._creator = creator
        self._runner = runner
        self._monitor = monitor
        self._publishing = Publishing(parts)
        self._kept: set[str] = set()
        """Containers that restart now: their end does not remove them."""
        monitor.start_again = runner.run
        monitor.remove_ended = self._remove_ended

    async def start(self, reference: str) -> bool:
        """False when it runs already. Raises Docker's errors; the container is as before then."""
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            if not state.check_start(slot.record):
                return False
            self._monitor.cancel_restart(slot.record.id)
            if slot.record.restart_count:
                self._parts.store.replace(slot, replace(slot.record, restart_count=0))
            try:
                await self._runner.run(slot)
            except SampanError:
                if slot.record.host.auto_remove:
                    await self._remove(slot, volumes=True)
                raise
        return True

    def _check_present(self, slot: Slot) -> None:
        """Whoever waited for the lock may find the container gone."""
        if self._parts.store.get(slot.record.id) is not slot:
            raise NotFound(f"No such container: {slot.record.id}")

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> bool:
        """Signal, then SIGKILL after `timeout` seconds (-1: never). False when it does not run."""
        number = parse_signal(signal_name) if signal_name else None
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            return await self._stop(slot, timeout, number)

    async def restart_unhealthy(self, slot: Slot) -> None:
        """End a container that has become unhealthy as `stop` would; its restart policy does what follows."""
        async with slot.lock:
            record = slot.record
            live = self._monitor.live(record.id)
            if record.state.status != "running" or live is None or not record.restarts_unhealthy:
                return
            live.unhealthy = True
            self._parts.announce(record, "restart_unhealthy")
            await self._end(slot, None, None)

    async def _stop(self, slot: Slot, timeout: int | None, number: int | None) -> bool:
        record = slot.record
        if record.state.status == "restarting":
            await self._give_up_restart(slot)
            self._parts.announce(slot.record, "stop")
            return True
        if not record.running:
            return False
        self._parts.store.replace(slot, replace(record, manually_stopped=True))
        self._monitor.no_restart(record.id)
        if record.state.status == "paused":
            await self._thaw(slot)
        await self._end(slot, timeout, number)
        self._parts.announce(slot.record, "stop")
        return True

    async def _end(self, slot: Slot, timeout: int | None, number: int | None) -> None:
        """Stop signal, then SIGKILL after `timeout` seconds; returns when its end has been dealt with."""
        record = slot.record
        chosen = number or parse_signal(record.config.stop_signal or "TERM")
        if timeout is None:
            configured = record.config.stop_timeout
            timeout = DEFAULT_STOP_TIMEOUT if configured is None else configured
        try:
            await self._signal(slot, chosen)
            if await self._ended(slot, timeout if timeout >= 0 else None):
                return
        except ShimSilent:
            await self._kill_silent(slot)
        await self._force(slot)

    async def _stop_restarting(self, slot: Slot) -> bool:
        """There is no process to signal between two runs; the wish is that no further one begins."""
        async with slot.lock:
            if slot.record.state.status != "restarting":
                return False
            await self._give_up_restart(slot)
            return True

    async def _give_up_restart(self, slot: Slot) -> None:
        """The end of a container that waits for its restart. The caller holds the lock."""
        self._monitor.cancel_restart(slot.record.id)
        after = replace(slot.record.state, status="exited")
        self._parts.set_state(slot, after, manually_stopped=True)
        await self._parts.store.save(slot)

    async def _ended(self, slot: Slot, timeout: float | None) -> bool:
        """Whether its end has come (and been dealt with) within `timeout` seconds."""
        live, silent = self._monitor.live(slot.record.id), self._monitor.silent.get(slot.record.id)
        waited = live or silent
        if waited is None:
            return True
        try:
            await asyncio.wait_for(waited.ended.wait(), timeout)
        except TimeoutError:
            return False
        return live is not None or not slot.record.running

    async def _force(self, slot: Slot) -> None:
        """SIGKILL to the init; processes that hold out are killed with the whole group. Raises `Unavailable`."""
        await self._kill(slot)
        if await self._ended(slot, _KILL_TIMEOUT):
            return
        await asyncio.to_thread(self._parts.cgroup(slot.record).kill_all)
        if not await self._ended(slot, _KILL_TIMEOUT):
            raise Unavailable(f"container {slot.record.id} could not be killed: its processes do not end")

    async def _kill(self, slot: Slot) -> None:
        try:
            await self._signal(slot, signal.SIGKILL)
        except ShimSilent:
            await self._kill_silent(slot)

    async def _kill_silent(self, slot: Slot) -> None:
        """The shim does not answer: it is killed with its container, by the kernel's means alone."""
        record = slot.record
        live, silent = self._monitor.live(record.id), self._monitor.silent.get(record.id)
        if live is not None:
            live.silent = True
        run_dir = self._parts.run_directory(record.id)
        await asyncio.to_thread(end_silent, run_dir, self._parts.cgroup(record))
        if silent is not None:
            silent.killed.set()
        self._parts.announce(record, "kill", {"signal": str(int(signal.SIGKILL))})

    async def _signal(self, slot: Slot, number: int) -> None:
        """Raises `ShimSilent` when the shim does not answer."""
        record = slot.record
        live = self._monitor.live(record.id)
        if live is None and not record.running:
            return
        try:
            if live is not None:
                await asyncio.to_thread(live.shim.kill, number, timeout=KILL_SECONDS)
            else:
                await asyncio.to_thread(self._send_anew, record, number)
        except (Conflict, NotFound):
            return  # it ended meanwhile, which is what the signal was for
        self._parts.announce(slot.record, "kill", {"signal": str(number)})

    def _send_anew(self, record: ContainerRecord, number: int) -> None:
        """Blocking: signal a container whose shim had not answered when the engine started."""
        shim = ShimClient.connect(self._parts.run_directory(record.id), timeout=KILL_SECONDS)
        try:
            shim.kill(number, timeout=KILL_SECONDS)
        finally:
            shim.close()

    async def kill(self, reference: str, signal_name: str = "") -> None:
        """Raises `Conflict` when it does not run."""
        number = parse_number(signal_name or "KILL")
        try:
            slot = self._parts.store.find(reference)
            check_supported(number)
            if slot.record.state.status == "restarting" and await self._stop_restarting(slot):
                return
            record = slot.record
            state.check_running(record)
        except (Conflict, Invalid, NotFound) as error:
            raise type(error)(f"Cannot kill container: {reference}: {error.message}") from error
        own = parse_signal(record.config.stop_signal or "TERM")
        if number in (signal.SIGKILL, own):
            self._parts.store.replace(slot, replace(record, manually_stopped=True))
            self._monitor.no_restart(record.id)
        if number != signal.SIGKILL:
            await self._signal(slot, number)
        else:
            await self._kill(slot)
            if record.state.status == "paused":
                await self._thaw(slot)
            await self._ended(slot, DEFAULT_STOP_TIMEOUT)

    async def restart(self, reference: str, timeout: int | None = None, signal_name: str = "") -> None:
        number = parse_signal(signal_name) if signal_name else None
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            self._kept.add(slot.record.id)
            try:
                await self._stop(slot, timeout, number)
                self._monitor.cancel_restart(slot.record.id)
                if slot.record.restart_count:
                    self._parts.store.replace(slot, replace(slot.record, restart_count=0))
                await self._runner.run(slot)
            finally:
                self._kept.discard(slot.record.id)
            self._parts.announce(slot.record, "restart")

    async def pause(self, reference: str) -> None:
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            state.check_pause(slot.record)
            try:
                await asyncio.to_thread(self._parts.cgroup(slot.record).freeze)
            except NotFound as error:  # its group has just gone
                raise Conflict(f"Container {slot.record.id} is not running") from error
            self._parts.set_state(slot, state.paused(slot.record.state))
            await self._parts.store.save(slot)
            self._parts.announce(slot.record, "pause")

    async def unpause(self, reference: str) -> None:
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            state.check_unpause(slot.record)
            await self._thaw(slot)

    async def _thaw(self, slot: Slot) -> None:
        try:
            await asyncio.to_thread(self._parts.cgroup(slot.record).thaw)
        except NotFound:
            return  # it has ended, killed from outside
        if slot.record.state.status == "paused":
            self._parts.set_state(slot, state.unpaused(slot.record.state))
            await self._parts.store.save(slot)
            self._parts.announce(slot.record, "unpause")

    async def rename(self, reference: str, name: str) -> None:
        if not name:
            raise Invalid("Neither old nor new names may be empty")
        slot = self._parts.store.find(reference)
        # Not the slot's own lock: a container can be renamed while it is being stopped.
        async with slot.naming:
            self._check_present(slot)
            await self._rename(slot, name)

    async def _rename(self, slot: Slot, name: str) -> None:
        record = slot.record
        if name.removeprefix("/") == record.name:
            raise Invalid("Renaming a container with the same name as its current name")
        try:
            name = check_name(name if name.startswith("/") else f"/{name}")
            self._parts.store.reserve_name(name, record.id)
        except (Conflict, Invalid) as error:
            raise type(error)(f"Error when allocating new name: {error.message}") from error
        old = record.name
        self._parts.store.replace(slot, replace(slot.record, name=name))
        saving = asyncio.ensure_future(self._parts.store.save(slot, durable=True))
        try:
            await asyncio.shield(saving)
        except BaseException as error:
            # Given up while it was being written: the old name is the truth, in the database too.
            await asyncio.wait([saving])
            self._parts.store.replace(slot, replace(slot.record, name=old))
            self._parts.store.release_name(name, record.id)
            if not isinstance(error, SampanError):
                await asyncio.shield(self._parts.store.save(slot, durable=True))
            raise
        self._parts.store.release_name(old, record.id)
        self._parts.announce(slot.record, "rename", {"oldName": f"/{old}"})
        self.names_changed(slot)

    def names_changed(self, slot: Slot) -> None:
        """Replaced by the service: other containers must learn the new name."""

    async def update(
        self, reference: str, wanted: HostConfig, changes: PortChanges = NO_PORT_CHANGES
    ) -> list[str]:
        """Limits, restart policy and published ports, as far as given; the warnings.

        Raises `Invalid`, `Conflict` or `NotFound`. When it fails, all is as before.
        """
        slot = self._parts.store.find(reference)
        async with slot.lock:
            self._check_present(slot)
            record = slot.record
            try:
                host, warnings = updated(record.host, wanted, self._parts.facts)
            except Conflict as error:
                raise _not_updated(record, error) from error
            if wanted.restart_unhealthy is not None or wanted.restart_policy.name:
                # A label lapses with the policy; the flag contradicts it.
                restart_rules.check_unhealthy(host.restart_policy, host.restart_unhealthy, {})
            plan = self._plan_ports(record, host, changes)
            undo = await self._limit(record, host)
            try:
                published = await self._change_ports(record, plan)
            except SampanError:
                await asyncio.to_thread(undo)
                raise
            if record.running and not slot.record.running:  # it has ended meanwhile
                await asyncio.to_thread(self._publishing.unpublish, record, published)
                published = ()
            # Not `record`: an OOM kill, which lower limits may bring, or a health check was written down meanwhile.
            changed = replace(slot.record, host=plan.host, config=plan.config, published=published)
            self._parts.store.replace(slot, changed)
            try:
                await self._parts.store.save(slot, durable=True)
            except SampanError:
                held = record.published if slot.record.running else ()
                before = replace(slot.record, host=record.host, config=record.config, published=held)
                self._parts.store.replace(slot, before)
                if changes.wanted and slot.record.running:
                    await asyncio.to_thread(self._publishing.take_back, record, plan, published)
                await asyncio.to_thread(undo)
                raise
            self._parts.announce(slot.record, "update")
            return warnings

    def _plan_ports(self, record: ContainerRecord, host: HostConfig, changes: PortChanges) -> PortPlan:
        if changes.wanted:
            check_publishes(record)
        try:
            return planned(record.config, host, record.published if record.running else (), changes)
        except Conflict as error:
            raise _not_updated(record, error) from error

    async def _change_ports(self, record: ContainerRecord, plan: PortPlan) -> tuple[PortBinding, ...]:
        if not record.running or not (plan.removed or plan.added):
            return record.published
        try:
            return await asyncio.to_thread(self._publishing.change, record, plan)
        except SampanError as error:
            await asyncio.to_thread(self._publishing.give_up, record)
            raise _not_updated(record, error) from error

    async def _limit(self, record: ContainerRecord, host: HostConfig) -> Callable[[], None]:
        """The new limits go into the group of a running container; what is returned takes them back."""
        limits = changed_limits(record.host, host) if record.running else None
        if limits is None:
            return lambda: None
        try:
            return await asyncio.to_thread(self._parts.cgroup(record).update, limits)
        except SampanError as error:
            raise _not_updated(record, error) from error

    # Removal

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Raises `Conflict` while it runs, unless `force`d."""
        try:
            slot = self._parts.store.find(reference)
        except NotFound:
            await self._give_up(self._parts.store.unreadable.find(reference), force=force)
            return
        state.check_remove(slot.record, force=force)
        async with slot.lock:
            self._check_present(slot)
            if force:
                self._monitor.cancel_restart(slot.record.id)
                if slot.record.running:
                    await self._kill_for_removal(slot)
            else:
                state.check_remove(slot.record, force=False)
            await self._remove(slot, volumes=volumes)

    async def _give_up(self, container_id: str, *, force: bool) -> None:
        """One whose record can't be read. The record goes last: until then what is left is not swept by halves."""
        parts = self._parts
        parts.store.unreadable.check_remove(container_id, force=force)
        group = parts.cgroups.group(f"{parts.settings.cgroup_parent}/{container_id}")
        run_dir = parts.run_directory(container_id)
        if run_dir.exists():
            await asyncio.to_thread(end_shim, run_dir, group)
        await asyncio.to_thread(self._creator.discard, container_id)
        await parts.store.give_up(container_id)

    async def remove_link(self, path: str) -> None:
        """`parent/alias`: the parent forgets that link. Raises `Conflict` for a container's own name, `NotFound`."""
        parent, _, alias = path.strip("/").rpartition("/")
        if not parent:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        slot = self._parts.store.find(parent)
        async with slot.lock:
            self._check_present(slot)
            links = slot.record.host.links or ()
            kept = tuple(link for link in links if (link.partition(":")[2] or link) != alias)
            if kept == links:
                raise NotFound(f"No such link: /{parent}/{alias}")
            host = replace(slot.record.host, links=kept or None)
            self._parts.store.replace(slot, replace(slot.record, host=host))
            await self._parts.store.save(slot, durable=True)

    async def _kill_for_removal(self, slot: Slot) -> None:
        self._parts.store.replace(slot, replace(slot.record, removing=True))
        try:
            if slot.record.state.status == "paused":
                await self._thaw(slot)
            await self._force(slot)
        except BaseException:
            self._parts.store.replace(slot, replace(slot.record, removing=False))
            raise

    async def _remove_ended(self, slot: Slot) -> None:
        """A container with --rm after its end; its anonymous volumes go with it."""
        if slot.record.id in self._kept:
            return
        async with slot.lock:
            if self._parts.store.get(slot.record.id) is slot and not slot.record.running:
                try:
                    await self._remove(slot, volumes=True)
                except (SampanError, OSError) as error:
                    log.error("container %s could not be removed after its end: %s", slot.record.id, error)
                    self._monitor.not_removed(slot.record, str(error))

    async def _remove(self, slot: Slot, *, volumes: bool) -> None:
        """The caller holds the lock, and there is no process any more.

        The record goes first, by one commit: what is left on disk after a crash then belongs to nobody and is
        swept at the next start.
        """
        record = replace(slot.record, removing=True)
        self._parts.store.replace(slot, record)
        try:
            await self._delete_record(slot, volumes=volumes)
        except BaseException:
            self._parts.store.replace(slot, replace(slot.record, removing=False))
            raise
        self._runner.drop_clients(record.id)
        try:
            await asyncio.to_thread(self._creator.discard, record.id)
        finally:
            self._parts.announce(record, "destroy")
            self._monitor.removed(record)
        if volumes:
            for point in record.mounts:
                if point.type == "volume" and point.anonymous:
                    await self._parts.volumes.remove_unused(point.name)

    async def _delete_record(self, slot: Slot, *, volumes: bool) -> None:
        """On a full disk the container's files go first after all: they make the room that the database needs."""
        try:
            await self._leave(slot, volumes=volumes)
        except Unavailable:
            await asyncio.to_thread(self._creator.discard, slot.record.id)
            await self._leave(slot, volumes=volumes)

    async def _leave(self, slot: Slot, *, volumes: bool) -> None:
        """The volumes that stay belong to no container, before it is gone; those that go with it still do."""
        for point in slot.record.mounts:
            if point.type == "volume" and not (volumes and point.anonymous):
                await self._parts.volumes.disown(point.name)
        await self._parts.store.delete(slot)


def _not_updated(record: ContainerRecord, error: SampanError) -> SampanError:
    return type(error)(f"Cannot update container {record.id}: {error.message}", hint=error.hint)
