"""A build's RUN: a container without record, name or log, whose writable layer is the step's snapshot.

An engine that dies meanwhile leaves a shim that no record speaks of; recovery ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sampan.build.worker import RunRequest
from sampan.engine import hosts_file
from sampan.engine.config import ContainerConfig, HostConfig, Ulimit
from sampan.engine.containers.base import Parts
from sampan.engine.containers.files import engine_places
from sampan.engine.containers.insecure import first_free_loop, insecure
from sampan.engine.containers.runner import end_shim, remove_run_directory
from sampan.engine.containers.specs import SpecMaker, write_file
from sampan.engine.containers.step_mounts import StepMounts
from sampan.engine.containers.step_places import MadePlaces
from sampan.engine.containers.wiring import Plan, Wiring
from sampan.engine.model import ContainerRecord, Endpoint, MountPoint, now
from sampan.engine.validate import check_host
from sampan.errors import Conflict, Unsupported
from sampan.runtime.messages import AttachOptions, CreateRequest
from sampan.runtime.shim_client import ShimClient
from sampan.storage.removal import remove_tree

if TYPE_CHECKING:
    from sampan.engine.host_ca.step import HostTrust, StepTrust

Output = Callable[[int, bytes], None]
_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Step:
    """`trees`: the detached mounts that the record's mount points name."""

    record: ContainerRecord
    trees: tuple[int, ...]
    insecure: bool
    trust: StepTrust | None


@dataclass(frozen=True, slots=True)
class StepTerminal:
    """A client at a step's process. `serve` is called when the process runs, and returns when it has ended."""

    connection_fd: int
    preread: bytes
    options: AttachOptions
    tty: bool
    size: tuple[int, int]
    """Rows and columns."""
    serve: Callable[[ShimClient], None]

    def attended(self, record: ContainerRecord) -> ContainerRecord:
        change = msgspec.structs.replace
        config = change(record.config, tty=self.tty, open_stdin=True, stdin_once=True)
        return change(record, config=config, host=change(record.host, console_size=self.size))


Perform = Callable[[_Step, Plan, Path], int]


class BuildSteps:
    """Blocking; used by the builds' threads."""

    def __init__(self, parts: Parts, specs: SpecMaker, wiring: Wiring) -> None:
        self._parts = parts
        self._specs = specs
        self._wiring = wiring

    def run(
        self,
        request: RunRequest,
        output: Output,
        cancelled: threading.Event,
        loop: asyncio.AbstractEventLoop,
        trust: HostTrust | None = None,
    ) -> int:
        """Blocking, in a build's thread: run the step to its end; its exit status.

        The network is made and taken back on `loop`, where the engine's addresses are kept.
        """

        def perform(step: _Step, plan: Plan, run_dir: Path) -> int:
            return self._run(step, plan, run_dir, output, cancelled)

        return self._in_place(request, perform, loop, trust, None)

    def attend(
        self,
        request: RunRequest,
        terminal: StepTerminal,
        loop: asyncio.AbstractEventLoop,
        trust: HostTrust | None = None,
    ) -> int:
        """As `run`, with a client at the process: for a shell. Raises also `ExecFailed`."""

        def perform(step: _Step, plan: Plan, run_dir: Path) -> int:
            return self._attended(step, plan, run_dir, terminal)

        return self._in_place(request, perform, loop, trust, terminal)

    def _in_place(
        self,
        request: RunRequest,
        perform: Perform,
        loop: asyncio.AbstractEventLoop,
        trust: HostTrust | None,
        terminal: StepTerminal | None,
    ) -> int:
        """Around `perform` everything that a step has: mounts, network, and its places taken out again."""
        directory = self._parts.directory(request.snapshot_id)
        directory.mkdir(mode=0o710, parents=True, exist_ok=True)
        with ExitStack() as ending:
            ending.callback(remove_tree, directory)
            mounts = ending.enter_context(StepMounts(self._parts.settings.id_maps, directory))
            mounts.prepare(request.mounts)
            trusting = None if trust is None else self._trusting(trust, directory, request)
            record = self._record(request, trusting, mounts.points)
            if request.secret_env and self._specs.runtime(record.host.runtime):
                raise Unsupported(
                    "another OCI runtime would write a secret in a variable to the disk",
                    hint="let the step read it from a file: without env=",
                )
            if terminal is not None:
                record = terminal.attended(record)
            step = _Step(record, tuple(mounts.trees), request.insecure, trusting)
            return self._on_network(step, perform, loop)

    def _on_network(self, step: _Step, perform: Perform, loop: asyncio.AbstractEventLoop) -> int:
        record = step.record
        places = MadePlaces.look(self._parts, record, engine_places(record))
        plan = asyncio.run_coroutine_threadsafe(self._connect(record), loop).result()
        run_dir = self._parts.run_directory(record.id)
        try:
            return perform(step, plan, run_dir)
        finally:
            with ExitStack() as ending:  # from the last to the first, each whatever becomes of the others
                ending.callback(lambda: places.remove(self._parts.snapshots.upper(record.id)))
                if step.trust is not None:
                    ending.callback(step.trust.clean_up, self._parts.snapshots.upper(record.id))
                    ending.callback(self._parts.launcher.release_layers, step.trust.layers)
                ending.callback(remove_run_directory, run_dir)
                ending.callback(self._disconnect_now, record, plan, loop)
                ending.callback(end_shim, run_dir, self._parts.cgroup(record))

    def _trusting(self, trust: HostTrust, directory: Path, request: RunRequest) -> StepTrust:
        from sampan.engine.host_ca.step import StepTrust

        trusting = StepTrust(trust, directory)
        trusting.prepare(self._root_of(request), request.env)
        return trusting

    def _root_of(self, request: RunRequest) -> int:
        """A descriptor of the root file system that the step begins with; the caller's."""
        assembly = self._parts.snapshots.assembly(request.snapshot_id, request.diff_ids)
        return self._parts.launcher.open_root(assembly)

    def _record(
        self, request: RunRequest, trust: StepTrust | None, points: Sequence[MountPoint]
    ) -> ContainerRecord:
        limits = request.limits
        mounts = list(points)
        environment = request.env + request.secret_env
        if trust is not None:
            mounts += trust.points
            environment = (*trust.environment, *environment)
        network = "bridge" if request.network in ("", "default") else request.network
        host, _ = check_host(
            HostConfig(
                network_mode=network,
                extra_hosts=request.extra_hosts or None,
                shm_size=request.shm_size,
                memory=limits.memory,
                memory_swap=limits.memory_swap,
                cpu_shares=limits.cpu_shares,
                cpu_period=limits.cpu_period,
                cpu_quota=limits.cpu_quota,
                cpuset_cpus=limits.cpuset_cpus,
                cpuset_mems=limits.cpuset_mems,
                cgroup_parent=limits.cgroup_parent,
                privileged=request.insecure,
                ulimits=tuple(Ulimit(name, hard, soft) for name, soft, hard in limits.ulimits) or None,
            ),
            self._parts.facts,
        )
        networks = self._parts.networks
        without = network == "bridge" and networks.default is None
        network_id = "" if without else networks.find(network).id
        labels = self._parts.labels(host)
        return ContainerRecord(
            request.snapshot_id,
            f"build-{request.snapshot_id[:12]}",
            now(),
            "",
            "",
            tuple(request.diff_ids),
            ContainerConfig(
                hostname=request.hostname or "buildkitsandbox",
                user=request.user,
                env=environment,
                cmd=request.args,
                working_dir=request.cwd,
            ),
            host,
            tuple(mounts),
            {network: Endpoint(network_id)},
            process_label=labels[0],
            mount_label=labels[1],
        )

    async def _connect(self, record: ContainerRecord) -> Plan:
        plan = await self._wiring.plan(record)
        try:
            await asyncio.to_thread(self._wiring.make_namespaces, record, plan, {})
            await asyncio.to_thread(self._wiring.connect, record, plan)
            if plan.own:
                await self._wiring.names.serve(
                    msgspec.structs.replace(record, endpoints=plan.endpoints), plan.namespace
                )
        except BaseException:
            self._wiring.forget_plan(record, plan)
            plan.close()
            raise
        return plan

    def _disconnect_now(self, record: ContainerRecord, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.run_coroutine_threadsafe(self._disconnect(record, plan), loop).result()

    async def _disconnect(self, record: ContainerRecord, plan: Plan) -> None:
        try:
            await asyncio.to_thread(self._wiring.discard, plan, record, connected=True)
        finally:
            self._wiring.forget_plan(record, plan)
            plan.close()

    def _request(self, step: _Step, plan: Plan) -> CreateRequest:
        record = step.record
        request = self._specs.request(
            record,
            plan.specs,
            {},
            embedded_dns=self._wiring.names.embedded(record, plan.endpoints),
            log=False,
        )
        gateways = self._parts.networks.host_addresses
        hosts = hosts_file.for_step(record.config.hostname, record.host.extra_hosts or (), gateways)
        write_file(self._parts.directory(record.id) / "hosts", hosts)
        if step.trust is not None and request.root is not None:
            request = msgspec.structs.replace(request, root=step.trust.over(request.root))
        if step.insecure:
            request = msgspec.structs.replace(request, spec=insecure(request.spec, first_free_loop()))
        return request

    def _run(self, step: _Step, plan: Plan, run_dir: Path, output: Output, cancelled: threading.Event) -> int:
        request = self._request(step, plan)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        try:
            self._parts.launcher.create(
                request,
                stdio=(null, pipes[0][1], pipes[1][1]),
                network=plan.namespace if plan.own else None,
                user_namespace=plan.user_namespace if plan.user_namespace >= 0 else None,
                trees=step.trees,
            )
        except BaseException:
            for read_end, _ in pipes:
                os.close(read_end)
            raise
        finally:
            os.close(null)
            for _, write_end in pipes:
                os.close(write_end)
        with ExitStack() as open_ends:
            for read_end, _ in pipes:
                open_ends.callback(os.close, read_end)
            shim = ShimClient.connect(run_dir)
            open_ends.callback(shim.close)
            shim.start()
            _copy_output([read_end for read_end, _ in pipes], shim, output, cancelled)
            return shim.wait().exit_code

    def _attended(self, step: _Step, plan: Plan, run_dir: Path, terminal: StepTerminal) -> int:
        self._parts.launcher.create(
            self._request(step, plan),
            network=plan.namespace if plan.own else None,
            user_namespace=plan.user_namespace if plan.user_namespace >= 0 else None,
            trees=step.trees,
        )
        with contextlib.closing(ShimClient.connect(run_dir)) as shim:
            shim.attach(terminal.connection_fd, terminal.preread, terminal.options)
            shim.start()
            terminal.serve(shim)
            return shim.wait().exit_code


def _copy_output(ends: list[int], shim: ShimClient, output: Output, cancelled: threading.Event) -> None:
    """Hand on what comes until both pipes have ended; kill the step when the build is cancelled.

    A process that the step left in the background may hold the pipes: with the step's end they are drained
    and left.
    """
    poller = select.poll()
    streams = {end: number for number, end in enumerate(ends, 1)}
    for end in ends:
        poller.register(end, select.POLLIN)
    poller.register(shim.fileno(), select.POLLIN)
    killed = False
    while streams:
        ready = [fd for fd, _ in poller.poll(200)]
        if cancelled.is_set() and not killed:
            killed = True
            with contextlib.suppress(Conflict):  # it has ended in this moment
                shim.kill(signal.SIGKILL)
        for end in [fd for fd in ready if fd in streams]:
            data = os.read(end, _READ)
            if data:
                output(streams[end], data)
            else:
                poller.unregister(end)
                del streams[end]
        if ready == [shim.fileno()]:
            return
