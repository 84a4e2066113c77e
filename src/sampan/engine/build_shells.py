"""Shells in the state before a build's failed step: `build --on-error=shell`, `build debug`.

A shell is a step that a client's terminal is attached to: a container without record, on a snapshot of its own that
nobody adopts. It ends with its client, and with the engine: a shim that no record speaks of is ended by recovery,
its snapshot swept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import secrets
import select
import signal
import socket
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from sampan.build.events import BuildEvent, Failure
from sampan.build.files.tree import Tree
from sampan.build.model import BuildRequest, MountOption, RunOperation, StateBefore
from sampan.build.session import NO_CLIENT
from sampan.build.worker import Report, RunRequest
from sampan.engine.cache_use import BuildUse
from sampan.engine.config import Docker
from sampan.engine.containers.build_steps import StepTerminal
from sampan.engine.threads import in_own_thread
from sampan.errors import Conflict, Internal, NotFound, SampanError
from sampan.oci.digest import Digest
from sampan.oci.ignore import IgnoreRules
from sampan.runtime.failure import ExecFailed
from sampan.runtime.messages import AttachOptions
from sampan.runtime.shim_client import ShimClient

if TYPE_CHECKING:
    from sampan.engine.build_worker import EngineWorker

log = logging.getLogger(__name__)

MAX_FAILURES = 32
"""Failed builds that are remembered; the oldest go. They are in memory alone: arguments may be secrets."""
MAX_SHELLS = 64
_LOOK = 500
"""Milliseconds between looks at whether the engine ends."""
_SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "mksh", "sh", "zsh"})

_NO_CONTEXT = Tree(-1, IgnoreRules(b""), is_context=True)
MakeWorker = Callable[[BuildUse, bool], "EngineWorker"]
"""From whether the host's CA certificates are trusted."""
Take = Callable[[], Awaitable[tuple[socket.socket, bytes]]]


class ShellCreate(Docker, frozen=True):
    """Body of POST /build/shells. `failure`: empty for the latest one; `cmd`: empty for a shell."""

    failure: str = ""
    cmd: tuple[str, ...] | None = None
    tty: bool = False
    console_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Failed:
    id: str
    state: StateBefore
    request: BuildRequest
    host_ca: bool

    @property
    def missing(self) -> list[str]:
        """What the step had mounted and a shell has not, by kind and target."""
        return [
            f"{one.kind} {one.target or one.env or one.id}".strip()
            for one in self.state.operation.mounts
            if not _is_reachable(one)
        ]


@dataclass(slots=True)
class Shell:
    id: str
    failed: Failed
    body: ShellCreate
    exit_code: int | None = None
    shim: ShimClient | None = None
    started: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class BuildShells:
    """Used from the event loop's thread, but for `remembering`."""

    def __init__(self, make_worker: MakeWorker, keep: Callable[[], AbstractContextManager[BuildUse]]) -> None:
        """`keep`: what holds what a shell needs, while it is open."""
        self._make_worker = make_worker
        self._keep = keep
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, Failed] = OrderedDict()
        self._shells: OrderedDict[str, Shell] = OrderedDict()

    def remembering(self, report: Report, request: BuildRequest, *, host_ca: bool) -> Report:
        """`report` of a build, with a name in its failure by which `create` finds the state before the step."""

        def heard(event: BuildEvent) -> None:
            if isinstance(event, Failure) and event.before is not None:
                failed = Failed(secrets.token_hex(6), event.before, request, host_ca)
                with self._lock:
                    self._failures[failed.id] = failed
                    while len(self._failures) > MAX_FAILURES:
                        self._failures.popitem(last=False)
                event = msgspec.structs.replace(event, before=None, debug=failed.id)
            report(event)

        return heard

    def create(self, body: ShellCreate) -> Shell:
        """Raises `NotFound` for a failure that is not known any more, or whose layers are gone."""
        failed = self._find(body.failure)
        with self._keep() as use:
            worker = self._make_worker(use, False)
            if not all(worker.has_layer(one) for one in failed.state.diff_ids):
                raise NotFound(
                    "the state before the failed step is gone: its layers have left the build cache",
                    hint="build again",
                )
        shell = Shell(secrets.token_hex(16), failed, body)
        self._shells[shell.id] = shell
        for old in [one.id for one in self._shells.values() if one.shim is None][:-MAX_SHELLS]:
            del self._shells[old]
        return shell

    async def start(self, shell_id: str, take: Take) -> None:
        """Run it to its end; `take` gives the client's connection, which reads there also what goes wrong."""
        shell = self.get(shell_id)
        if shell.started:
            raise Conflict(f"shell {shell.id} has run already")
        shell.started = True
        try:
            connection, preread = await take()
            with connection:
                connection.setblocking(True)
                await self._in_thread(shell, connection, preread)
        finally:
            shell.ended.set()

    async def _in_thread(self, shell: Shell, connection: socket.socket, preread: bytes) -> None:
        task = asyncio.ensure_future(in_own_thread(lambda: self._run(shell, connection, preread)))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            shell.cancelled.set()
            await asyncio.wait([task])
            raise

    async def wait(self, shell_id: str) -> int:
        """The exit code, when it has ended."""
        shell = self.get(shell_id)
        await shell.ended.wait()
        return 126 if shell.exit_code is None else shell.exit_code

    async def resize(self, shell_id: str, height: int, width: int) -> None:
        shim = self.get(shell_id).shim
        if shim is not None and height and width:
            await asyncio.to_thread(shim.resize, height, width)

    def get(self, shell_id: str) -> Shell:
        found = self._shells.get(shell_id)
        if found is None:
            raise NotFound(f"no such shell: {shell_id}")
        return found

    def _find(self, failure: str) -> Failed:
        with self._lock:
            if not failure and self._failures:
                return next(reversed(self._failures.values()))
            found = [one for one in self._failures.values() if failure and one.id.startswith(failure)]
        if len(found) != 1:
            raise NotFound(
                f"no failed build {failure} is remembered" if failure else "no failed build is remembered",
                hint=f"the engine keeps the last {MAX_FAILURES} since its start; build again",
            )
        return found[0]

    def _run(self, shell: Shell, connection: socket.socket, preread: bytes) -> None:
        try:
            with self._keep() as use:
                shell.exit_code = self._perform(shell, use, connection, preread)
        except (SampanError, OSError) as error:
            shell.exit_code = error.exit_code if isinstance(error, ExecFailed) else 126
            text = error.message if isinstance(error, SampanError) else str(error)
            log.info("shell on failed build %s: %s", shell.failed.id, text)
            with contextlib.suppress(OSError):  # the client may have left
                connection.sendall(_shown(f"{text}\r\n", tty=shell.body.tty))
        finally:
            shell.shim = None

    def _perform(self, shell: Shell, use: BuildUse, connection: socket.socket, preread: bytes) -> int:
        from sampan.build.solver.run_mounts import RunMounts

        failed, body = shell.failed, shell.body
        worker = self._make_worker(use, failed.host_ca)
        operation = _reachable(failed.state.operation)
        options = AttachOptions(stdin=True, framed=not body.tty)

        def serve(shim: ShimClient) -> None:
            shell.shim = shim
            _end_with(connection, shim, shell.cancelled, tty=body.tty)

        terminal = StepTerminal(connection.fileno(), preread, options, body.tty, body.console_size, serve)
        with ExitStack() as ending:
            mounts = ending.enter_context(
                RunMounts(worker, NO_CLIENT, _NO_CONTEXT, _no_origin, shell.cancelled)
            )
            mounts.prepare(operation)
            snapshot_id = worker.create_snapshot(failed.state.diff_ids)
            ending.callback(worker.remove_snapshot, snapshot_id)
            request = RunRequest(
                snapshot_id=snapshot_id,
                diff_ids=failed.state.diff_ids,
                args=body.cmd or (shell_of(failed.state.operation.args),),
                env=operation.env,
                cwd=operation.cwd,
                user=operation.user,
                network=operation.network or failed.request.network,
                mounts=tuple(mounts.mounts),
                shm_size=failed.request.shm_size,
                limits=failed.request.limits,
                extra_hosts=failed.request.extra_hosts,
                architecture=failed.state.architecture,
                insecure=operation.security == "insecure",
            )
            return worker.attend(request, terminal)


def shell_of(args: tuple[str, ...]) -> str:
    """The shell that the step was run by, else the one that nearly every image has."""
    if len(args) > 1 and posixpath.basename(args[0]) in _SHELLS and args[1].startswith("-"):
        return args[0]
    return "/bin/sh"


def _reachable(operation: RunOperation) -> RunOperation:
    """Without what came from the client or the context, which are gone: caches and tmpfs remain."""
    return replace(operation, mounts=tuple(filter(_is_reachable, operation.mounts)), script="")


def _is_reachable(mount: MountOption) -> bool:
    return mount.kind in ("cache", "tmpfs") and not mount.origin


def _no_origin(origin: str) -> tuple[Digest, ...]:
    raise Internal(f"a mount from {origin} in a shell")


def _end_with(connection: socket.socket, shim: ShimClient, cancelled: threading.Event, *, tty: bool) -> None:
    """Return when the process has ended; it is killed when its client has left or the engine ends.

    A client without a terminal ends its input and reads on, which a connection that was left looks alike in one
    direction: only when both are closed it has left.
    """
    poller = select.poll()
    poller.register(shim.fileno(), select.POLLIN)
    poller.register(connection.fileno(), select.POLLRDHUP if tty else 0)  # POLLHUP comes unasked
    while True:
        ready = [fd for fd, _ in poller.poll(_LOOK)]
        if shim.fileno() in ready:
            return
        if ready or cancelled.is_set():
            with contextlib.suppress(Conflict):  # it has ended in this moment
                shim.kill(signal.SIGKILL)
            shim.wait()
            return


def _shown(text: str, *, tty: bool) -> bytes:
    data = text.encode("utf-8", "replace")
    return data if tty else b"\x02\0\0\0" + len(data).to_bytes(4, "big") + data
