"""The engine's side of the launcher: starts it, and asks it for containers."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Internal, Unavailable
from sampan.oci.rootfs import RootAssembly
from sampan.oci.spec import IdMapping, Linux, Spec
from sampan.runtime import filters, wire
from sampan.runtime.failure import Failure
from sampan.runtime.messages import (
    CreateCall,
    Created,
    CreateRequest,
    Done,
    ExecCall,
    ExecRequest,
    LauncherAnswer,
    LauncherCall,
    OpenRootCall,
    ReleaseLayersCall,
    UserNamespaceCall,
)

_log = logging.getLogger(__name__)

Launch = Callable[[], tuple[socket.socket, subprocess.Popen[bytes]]]

_ANSWERS: Final[wire.Codec[Created | Done | Failure]] = wire.Codec(LauncherAnswer)
_READY: Final[wire.Codec[Done | Failure]] = wire.Codec(Done | Failure)


class LauncherClient:
    """Thread-safe and blocking; any number of calls may be under way at once.

    A call's answer comes on a socket of its own, mostly straight from the shim that was made for it, so that
    no call waits for another's container. Every method raises the `SampanError` that the other side met, and
    `Unavailable` when it is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        process: subprocess.Popen[bytes] | None = None,
        launch: Launch | None = None,
    ) -> None:
        """`launch` starts another launcher when this one is gone."""
        self._socket = sock
        self._process = process
        self._launch = launch
        self._send_lock = threading.Lock()

    @classmethod
    def start(cls, run_dir: Path, command: Sequence[str]) -> LauncherClient:
        """Start a launcher and wait until it serves.

        `command` is its argv up to its own arguments (`python -m sampan.daemon.launcher`); `run_dir` is
        made when absent. The launcher ends when this client is closed or its process dies; containers live on. One
        that dies before (the host was out of memory, say) is replaced with the next call.
        """
        launch = partial(_launch, run_dir, tuple(command))
        return cls(*launch(), launch)

    @property
    def pid(self) -> int:
        """The launcher's process id; 0 when it was not started here."""
        return self._process.pid if self._process else 0

    def create(
        self,
        request: CreateRequest,
        stdio: tuple[int, int, int] | None = None,
        network: int | None = None,
        user_namespace: int | None = None,
        trees: Sequence[int] = (),
    ) -> Created:
        """Make a container up to the point where its init waits before execve (`ShimClient.start` lets it go).

        `stdio`: descriptors that the container uses directly (no log, no attach). `network`: a descriptor of
        its network namespace, instead of a path in the specification; `user_namespace` likewise. `trees`: detached
        mounts, bound where the specification has `x-sampan-given=N`. All stay the caller's.
        """
        namespaces = [number for number in (network, user_namespace) if number is not None]
        descriptors = [*(stdio or ()), *namespaces, *trees]
        spec, profile = filters.detached(request.spec)
        request = msgspec.structs.replace(request, spec=spec)
        call = CreateCall(
            request, stdio is not None, network is not None, profile, user_namespace is not None
        )
        return self._created(call, descriptors)

    def exec(
        self,
        request: ExecRequest,
        stdio: tuple[int, int, int] | None = None,
        control: int | None = None,
    ) -> Created:
        """A further process in a container; it waits for `ShimClient.start` (with its own run directory) too.

        `control`: a connection that the shim serves at once (`ShimClient.begin`). Descriptors stay the caller's.
        """
        spec, profile = filters.detached(request.spec)
        if not request.runtime:
            spec = _outline(spec)
        request = msgspec.structs.replace(request, spec=spec)
        call = ExecCall(request, stdio is not None, control is not None, profile)
        return self._created(call, [*(stdio or ()), *(() if control is None else (control,))])

    def open_root(self, assembly: RootAssembly) -> int:
        """A directory descriptor of a detached mount of `assembly`; closing it is all the cleaning up."""
        answer, descriptors = self._call(OpenRootCall(assembly))
        if not isinstance(answer, Done) or len(descriptors) != 1:
            wire.close_all(descriptors)
            raise Internal("the launcher answered without a descriptor")
        return descriptors[0]

    def user_namespace(
        self, uid_mappings: Sequence[IdMapping], gid_mappings: Sequence[IdMapping], *, probe: str = ""
    ) -> tuple[int, int]:
        """Descriptors of a new user namespace and of a network namespace that belongs to it; they are the caller's.

        `probe`: a directory below which a root with mapped ids is mounted for a trial; `Unsupported` when it can't be.
        """
        call = UserNamespaceCall(tuple(uid_mappings), tuple(gid_mappings), probe)
        answer, descriptors = self._call(call)
        if not isinstance(answer, Done) or len(descriptors) != 2:
            wire.close_all(descriptors)
            raise Internal("the launcher answered without descriptors")
        return descriptors[0], descriptors[1]

    def network_namespace(self, user_namespace: int) -> int:
        """A descriptor of a new network namespace that belongs to this user namespace (a descriptor, not kept)."""
        answer, descriptors = self._call(UserNamespaceCall(), (user_namespace,))
        if not isinstance(answer, Done) or len(descriptors) != 1:
            wire.close_all(descriptors)
            raise Internal("the launcher answered without a descriptor")
        return descriptors[0]

    def release_layers(self, paths: Sequence[str]) -> None:
        """Unmount layers that are going to be removed. Containers that use one keep it."""
        _, descriptors = self._call(ReleaseLayersCall(tuple(paths)))
        wire.close_all(descriptors)

    def close(self) -> None:
        """End the launcher, and wait for its end. Containers live on."""
        with self._send_lock:
            self._launch = None
            self._socket.close()
        if self._process is not None:
            self._process.wait()

    def _created(self, call: LauncherCall, descriptors: Sequence[int]) -> Created:
        answer, received = self._call(call, descriptors)
        wire.close_all(received)
        if not isinstance(answer, Created):
            raise Internal("the launcher answered another question")
        return answer

    def _call(self, call: LauncherCall, descriptors: Sequence[int] = ()) -> tuple[Created | Done, list[int]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._send(call, (theirs.fileno(), *descriptors))
            answer, received = _ANSWERS.receive(ours)
        if answer is None:
            raise Unavailable(
                "the container's launcher or shim ended without an answer",
                hint="its messages are on the daemon's standard error",
            )
        if isinstance(answer, Failure):
            wire.close_all(received)
            raise answer.error()
        return answer, received

    def _send(self, call: LauncherCall, descriptors: Sequence[int]) -> None:
        with self._send_lock:
            if self._socket.fileno() < 0:
                self._replace()  # the last try failed
            try:
                wire.send(self._socket, call, descriptors)
            except Unavailable:
                self._replace()
                wire.send(self._socket, call, descriptors)

    def _replace(self) -> None:
        """The launcher is gone, and with it its layer mounts: another one mounts what it needs again."""
        if self._launch is None:
            raise Unavailable("the launcher is gone")
        self._socket.close()
        status = self._process.wait() if self._process is not None else None
        _log.error("the launcher is gone (exit status %s); another one is started", status)
        self._socket, self._process = self._launch()


def _launch(run_dir: Path, command: tuple[str, ...]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A launcher that serves, and the socket to it. Raises what it reports, `Unavailable` when it just ended."""
    run_dir.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            process = subprocess.Popen(
                [*command, "--run-dir", str(run_dir), "--socket", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ready, _ = _READY.receive(ours)
        if ready is None:
            process.wait()
            raise Unavailable(
                "the launcher ended while it started", hint="its messages are on standard error"
            )
        if isinstance(ready, Failure):
            process.wait()
            raise ready.error()
        undo.pop_all()
    return ours, process


def _outline(spec: Spec) -> Spec:
    """What of a container's configuration its further processes are made by; the rest is long, and took its effect."""
    linux = spec.linux or Linux()
    return Spec(
        spec.oci_version,
        linux=Linux(
            cgroups_path=linux.cgroups_path, uid_mappings=linux.uid_mappings, gid_mappings=linux.gid_mappings
        ),
    )
