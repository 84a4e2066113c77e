"""What `sampan-runtime` does with containers that are there; they are made in `creation`."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Final

from sampan.errors import Conflict, Internal, Unavailable
from sampan.linux.cgroups import CgroupLimits
from sampan.runtime import wire
from sampan.runtime.documents import hook_state
from sampan.runtime.failure import Failure
from sampan.runtime.messages import Start
from sampan.runtime.state import START_SOCKET, StateStore, StoredContainer, is_alive

_FAILURES: Final[wire.Codec[Failure]] = wire.Codec(Failure)

Trace = Callable[[str], None]


def start(container: StoredContainer, trace: Trace) -> None:
    """Raises `Conflict` when it is not waiting, `ExecFailed` and others when the program could not be executed.

    `trace` gets the warnings of poststart hooks.
    """
    if container.status != "created":
        raise Conflict(f"cannot start a container that has {_past(container.status)}")
    directory = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(f"/proc/self/fd/{directory}/{START_SOCKET}")
        except OSError as error:
            raise Unavailable("the container's init does not answer") from error
        finally:
            os.close(directory)
        wire.send(sock, Start())
        try:
            failure, _ = _FAILURES.receive(sock)
        except ConnectionError:
            failure = None
    (container.directory / START_SOCKET).unlink(missing_ok=True)
    if failure is not None:
        raise failure.error()
    spec = container.spec()
    if spec.hooks is not None and spec.hooks.poststart:
        from sampan.runtime.hooks import run_hooks_leniently

        state = hook_state(spec, container.record.id, container.record.bundle)
        hooked = run_hooks_leniently(spec.hooks.poststart, {**state, "pid": container.record.pid}, "running")
        for warning in hooked:
            trace(warning)


def _past(status: str) -> str:
    return {"running": "already started", "paused": "already started"}.get(status, status)


def kill(container: StoredContainer, number: int, *, everything: bool = False) -> None:
    """Signal the init, or every process. Raises `Conflict` when it has ended."""
    group = container.cgroup() if everything else None
    if group is not None:
        for pid in group.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return
    if container.status == "stopped":
        raise Conflict("container not running")
    try:
        os.kill(container.record.pid, number)
    except ProcessLookupError as error:
        raise Conflict("container not running") from error


def delete(store: StateStore, container: StoredContainer, trace: Trace, *, force: bool) -> None:
    """Raises `Conflict` for one that runs, unless `force`. `trace` gets the warnings of poststop hooks."""
    status = container.status
    if status in ("running", "paused") and not force:
        raise Conflict(f"cannot delete container {container.record.id} that is not stopped: {status}")
    group = container.cgroup()
    if status != "stopped":
        _end(container)
    if group is not None:
        if group.exists() and group.pids():
            group.kill_all()
        group.remove()
    spec = container.spec()
    store.remove(container.directory)
    if spec.hooks is not None and spec.hooks.poststop:
        from sampan.runtime.hooks import run_hooks_leniently

        state = hook_state(spec, container.record.id, container.record.bundle)
        for warning in run_hooks_leniently(spec.hooks.poststop, state, "stopped"):
            trace(warning)


def _end(container: StoredContainer) -> None:
    """SIGKILL, and wait for the end by the kernel's own event."""
    try:
        descriptor = os.pidfd_open(container.record.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(container.record.pid, container.record.start_time):
            return
        group = container.cgroup()
        if group is not None and group.exists() and group.frozen():
            group.thaw()
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], 10)[0]:
            raise Internal(f"process {container.record.pid} does not end")
    finally:
        os.close(descriptor)


def pause(container: StoredContainer, frozen: bool) -> None:
    """Freeze or thaw. Raises `Conflict` in the wrong state."""
    group = container.cgroup()
    expected = "running" if frozen else "paused"
    if group is None or container.status != expected:
        raise Conflict(f"container not {expected}")
    if frozen:
        group.freeze()
    else:
        group.thaw()


def update(container: StoredContainer, limits: CgroupLimits) -> None:
    group = container.cgroup()
    if group is None or container.status == "stopped":
        raise Conflict("container not running")
    group.update(limits)
