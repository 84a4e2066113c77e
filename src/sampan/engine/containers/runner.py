"""Starting a container: network and process in parallel, then the hand-over to its shim.

What is written when: the record says "running" (with pid, addresses and ports) before the shim is told to go on.
An engine that dies in between finds the shim by that record, and finishes the start. One that dies earlier
finds a shim that no record speaks of, and ends it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sampan.engine import state
from sampan.engine.containers.base import Parts
from sampan.engine.containers.connecting import networking_failure
from sampan.engine.containers.monitor import Monitor
from sampan.engine.containers.ownership import with_id_maps
from sampan.engine.containers.specs import SpecMaker
from sampan.engine.containers.store import Slot
from sampan.engine.containers.volume_mounts import GivenMounts, VolumeMounts
from sampan.engine.containers.wiring import Plan, Wiring
from sampan.engine.model import ContainerRecord, now
from sampan.engine.validate import container_of
from sampan.errors import Conflict, Internal, NotFound, SampanError, Unavailable
from sampan.linux.cgroups import Cgroup
from sampan.runtime.failure import ExecFailed
from sampan.runtime.messages import AttachOptions, Created
from sampan.runtime.shim_client import CALL_SECONDS, ShimClient, ShimSilent, kill_shim
from sampan.storage.metadata import Table

log = logging.getLogger(__name__)

_RUNC_WORDS = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: "
)
"""What clients of Docker look into to tell 126 from 127."""


@dataclass(slots=True)
class PendingClient:
    """A connection that was attached before its container started."""

    socket: socket.socket
    preread: bytes
    options: AttachOptions


class Runner:
    def __init__(
        self,
        parts: Parts,
        specs: SpecMaker,
        wiring: Wiring,
        volume_mounts: VolumeMounts,
        monitor: Monitor,
    ) -> None:
        self._parts = parts
        self._specs = specs
        self._wiring = wiring
        self._volume_mounts = volume_mounts
        self._monitor = monitor
        self._pending: dict[str, list[PendingClient]] = {}

    def attach_later(self, container_id: str, client: PendingClient) -> None:
        """Keep a client's connection until its container starts."""
        self._pending.setdefault(container_id, []).append(client)

    def drop_clients(self, container_id: str) -> None:
        """Close the connections that waited for a start that will not be."""
        for client in self._pending.pop(container_id, ()):
            client.socket.close()

    async def run(self, slot: Slot) -> None:
        """Start it; the caller holds the slot's lock and has checked the state.

        When it fails, everything is undone, the record says why, and the error is raised in Docker's words.
        """
        record = slot.record
        try:
            mounted = await self._volume_mounts.mount(record)
            try:
                await self._run(slot, mounted)
            except BaseException:
                await self._volume_mounts.unmount(mounted)
                raise
        except BaseException as error:
            self.drop_clients(record.id)
            if isinstance(error, OSError):
                # The host's trouble, or what a volume's plugin said: the container has to end like any that fails.
                log.exception("container %s does not start", record.id)
                error = Internal(f"failed to start the container: {error}")
            if isinstance(error, SampanError):
                failure = start_failure(error)
                code = error.exit_code if isinstance(error, ExecFailed) else 128
                self._parts.set_state(slot, state.start_failed(slot.record.state, code, failure.message))
                await self._parts.store.save(slot)
                raise failure from error
            raise

    async def _run(self, slot: Slot, record: ContainerRecord) -> None:
        """`record`: the slot's, with its volumes where they are mounted."""
        joined = self.joined_processes(record)
        try:
            plan = await self._plan(record)
        except SampanError as error:
            raise networking_failure(error) from error
        connected = False
        created: Created | None = None
        try:
            if plan.own or self._parts.settings.id_maps is not None:
                await asyncio.to_thread(self._wiring.make_namespaces, record, plan, joined)
            connecting = asyncio.to_thread(self._wiring.connect, record, plan)
            creating = asyncio.to_thread(self._create, record, plan, joined)
            connect_result, create_result, cancelled = await both(connecting, creating)
            connected = not isinstance(connect_result, BaseException)
            if isinstance(create_result, Created):
                created = create_result
            if isinstance(connect_result, SampanError):
                raise networking_failure(connect_result) from connect_result
            for result in (connect_result, create_result, cancelled):
                if isinstance(result, BaseException):
                    raise result
            if created is None:
                raise Internal("the launcher answered with nothing")
            if plan.own:
                self._wiring.introduce(record, plan)
                await self._wiring.names.serve(replace(record, endpoints=plan.endpoints), plan.namespace)
            await self._go(slot, record, plan, created)
        except BaseException:
            await self._undo(record, plan, connected=connected, created=created is not None)
            raise
        finally:
            plan.close()

    async def _plan(self, record: ContainerRecord) -> Plan:
        try:
            return await self._planned(record)
        except SampanError as error:
            words = f"failed to set up container networking: {error.message}"
            raise type(error)(words, hint=error.hint) from error

    async def _planned(self, record: ContainerRecord) -> Plan:
        try:
            return await self._wiring.plan(record)
        except Conflict:
            # In a small subnet the address may be on its way back from a container that has just ended.
            if not await self._wiring.settle():
                raise
            return await self._wiring.plan(record)

    def joined_processes(self, record: ContainerRecord) -> dict[str, int]:
        """Namespace type -> the process of another container whose namespace it joins.

        Raises `NotFound`, `Conflict` when that container is gone or does not run.
        """
        found: dict[str, int] = {}
        host = record.host
        modes = (("network", host.network_mode), ("ipc", host.ipc_mode), ("pid", host.pid_mode))
        for kind, mode in modes:
            name = container_of(mode)
            if name is not None:
                other = self._parts.store.find(name).record
                check_joined(kind, other)
                found[kind] = other.state.pid
        return found

    def _create(self, record: ContainerRecord, plan: Plan, joined: Mapping[str, int]) -> Created:
        """Blocking: the container up to the point where its init waits."""
        network = plan.namespace if plan.own else None
        user = plan.user_namespace if plan.user_namespace >= 0 else None
        with GivenMounts(self._parts, with_id_maps(self._parts, record)) as given:
            request = self._specs.request(
                given.record,
                plan.specs,
                joined,
                embedded_dns=self._wiring.names.embedded(record, plan.endpoints),
            )
            return self._parts.launcher.create(
                request, network=network, user_namespace=user, trees=given.trees
            )

    async def _go(self, slot: Slot, mounted: ContainerRecord, plan: Plan, created: Created) -> None:
        parts, record = self._parts, slot.record
        clients = self._pending.pop(record.id, [])
        running = replace(
            record,
            state=state.started(record.state, created.init_pid, created.init_start_time, now()),
            endpoints=plan.endpoints,
            published=plan.published,
            manually_stopped=False,
            mounts=mounted.mounts,
        )
        try:
            shim = await asyncio.to_thread(self._hand_over, running, clients)
        except BaseException:
            # The database says that it runs: what is in memory is the truth again.
            await parts.store.save(slot)
            raise
        finally:
            for client in clients:
                client.socket.close()
        parts.store.replace(slot, running)
        self._wiring.names.refresh(running)
        parts.announce_volumes(running, "mount")
        self._network_events(running, "connect")
        parts.announce(running, "start")
        self._monitor.watch(slot, shim)

    def _hand_over(self, running: ContainerRecord, clients: list[PendingClient]) -> ShimClient:
        """Blocking: the record, the waiting clients, and the start itself."""
        self._parts.metadata.put(Table.CONTAINERS, running.id, msgspec.json.encode(running), durable=False)
        shim = ShimClient.connect(self._parts.run_directory(running.id))
        try:
            for client in clients:
                shim.attach(client.socket.fileno(), client.preread, client.options)
            shim.start()
        except BaseException:
            shim.close()
            raise
        return shim

    def _network_events(self, record: ContainerRecord, action: str) -> None:
        for name, endpoint in record.endpoints.items():
            network = self._parts.networks.get(endpoint.network_id)
            if network is None:
                continue
            attributes = {"container": record.id, "name": name, "type": network.driver}
            self._parts.events.publish("network", action, endpoint.network_id, attributes)

    async def _undo(self, record: ContainerRecord, plan: Plan, *, connected: bool, created: bool) -> None:
        if created:
            await asyncio.to_thread(
                end_shim, self._parts.run_directory(record.id), self._parts.cgroup(record)
            )
        await asyncio.to_thread(self._wiring.discard, plan, record, connected=connected)
        self._wiring.forget_plan(record, plan)
        await asyncio.to_thread(remove_run_directory, self._parts.run_directory(record.id))


def check_joined(kind: str, other: ContainerRecord) -> None:
    """Whether the namespace of this kind can be joined. Pure. Raises `Conflict` in Docker's words."""
    not_running = f"container {other.id} is not running"
    if kind == "ipc":
        words = f"can't join IPC of container {other.id}"
        if not other.running:
            raise Conflict(f"{words}: {not_running}")
        if other.host.ipc_mode != "shareable":
            raise Conflict(
                f"{words}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )
    elif not other.running:
        network = f"cannot join network of a non running container: {other.id}"
        raise Conflict(network if kind == "network" else not_running)


async def both(
    first: Awaitable[object], second: Awaitable[object]
) -> tuple[object, object, asyncio.CancelledError | None]:
    """Run both to their ends, whatever happens; results or exceptions, and the cancellation that came meanwhile.

    Threads go on when their awaiter is cancelled: they are waited for all the same, so that what they made can be
    undone.
    """
    running = asyncio.gather(first, second, return_exceptions=True)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError as error:
            cancelled = error
    one, other = running.result()
    return one, other, cancelled


def end_shim(run_dir: Path, group: Cgroup, *, timeout: float = CALL_SECONDS) -> None:
    """Blocking: kill a container by its shim and wait until it is gone. Idempotent.

    A shim that does not answer within `timeout` seconds is killed itself, and with it the control group. One that can't
    be found ends with what it looks after, which its control group knows. Raises `SampanError` when that does not
    help either.
    """
    try:
        shim = ShimClient.connect(run_dir, timeout=timeout)
    except NotFound:
        end_group(group)
        return
    except ShimSilent:
        end_silent(run_dir, group)
        return
    try:
        try:
            shim.kill(signal.SIGKILL, timeout=timeout)
        except ShimSilent:
            raise
        except (Conflict, Unavailable):
            pass  # it has ended by itself meanwhile
        shim.wait(timeout)
    except ShimSilent:
        end_silent(run_dir, group)
    finally:
        shim.close()


def end_silent(run_dir: Path, group: Cgroup) -> None:
    """Blocking: kill a shim that does not answer, then what it looked after."""
    log.warning("the shim in %s does not answer and is killed, with its container", run_dir)
    kill_shim(run_dir)
    end_group(group)


def end_group(group: Cgroup) -> None:
    """Blocking: kill every process of a control group and take the group away. Idempotent."""
    if group.exists():
        group.kill_all()
        group.remove()


def remove_run_directory(run_dir: Path) -> None:
    """Idempotent; the shim that ends may take its socket away at the same time."""

    def failed(_function: object, _path: object, problem: tuple[object, BaseException, object]) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            raise problem[1]

    shutil.rmtree(run_dir, onerror=failed)


def start_failure(error: SampanError) -> SampanError:
    """The error of a failed start as Docker's client expects it."""
    if isinstance(error, ExecFailed):
        failed = ExecFailed(f"{_RUNC_WORDS}{error.message}: unknown", exit_code=error.exit_code)
        failed.hint = error.hint
        return failed
    return error
