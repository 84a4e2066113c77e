"""The launcher: a small single-threaded fork server. Everything is imported here once; every container is a fork.

It has a mount namespace of its own, which gets the host's mounts and gives none back, and keeps the layers
mounted in it. It ends when its client closes the socket; the containers don't notice.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Internal, Invalid, SampanError, Unsupported
from sampan.linux import libc, mount, process
from sampan.linux import namespaces as ns
from sampan.linux.cgroups import CgroupHost, detect
from sampan.runtime import wire
from sampan.runtime.execute import forget_inherited_signals
from sampan.runtime.failure import failure_of
from sampan.runtime.filters import FilterCache, decode
from sampan.runtime.logsink import LogFactory
from sampan.runtime.messages import (
    CreateCall,
    CreateRequest,
    Done,
    ExecCall,
    LauncherCall,
    OpenRootCall,
    ReleaseLayersCall,
    UserNamespaceCall,
)
from sampan.runtime.outside import probe_idmapped_root
from sampan.runtime.overlay import LayerMounts, open_directory_root
from sampan.runtime.rehearsal import rehearse
from sampan.runtime.sealing import ensure_sealed
from sampan.runtime.shim import Given, Job, Shim, container_job, exec_job, run_shim
from sampan.runtime.usernamespace import host_id, make_network_namespace, make_user_namespace

_CALLS: Final[wire.Codec[CreateCall | ExecCall | OpenRootCall | ReleaseLayersCall | UserNamespaceCall]] = (
    wire.Codec(LauncherCall)
)


class Launcher:
    def __init__(self, sock: socket.socket, run_dir: Path, log_factory: LogFactory) -> None:
        self._socket = sock
        self._log_factory = log_factory
        mounts = run_dir / "mounts"
        mounts.mkdir(exist_ok=True)
        host_mounts = ns.open_namespace("/proc/self/ns/mnt")
        ns.unshare(ns.NEWNS)
        # Slaves: what the host mounts and unmounts later happens here too, never the other way round.
        mount.set_root_propagation(mount.MS_SLAVE)
        libc.mount("sampan", str(mounts), "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=700")
        libc.mount(None, str(mounts), None, mount.MS_PRIVATE)
        self._layers = LayerMounts(str(mounts))
        self._host_mounts = host_mounts
        self._namespaces = ns.own()
        self._cgroup_host = _find_cgroups()
        self._filters = FilterCache(run_dir / "seccomp")

    def serve(self) -> None:
        """Until the client is gone."""
        while True:
            try:
                call, descriptors = _CALLS.receive(self._socket)
            except Invalid as error:
                sys.stderr.write(f"sampan launcher: {error}\n")
                continue
            except ConnectionError:
                return
            if call is None:
                return
            if not descriptors:
                continue
            answer = socket.socket(fileno=descriptors.pop(0))
            try:
                self._handle(call, descriptors, answer)
            except (SampanError, OSError) as error:
                self._answer(answer, failure_of(error, "launcher"))
            except Exception as error:  # noqa: BLE001 - a fault of ours: told in full, but other containers need us
                sys.stderr.write(f"sampan launcher: {type(call).__name__} failed unexpectedly:\n")
                sys.__excepthook__(type(error), error, error.__traceback__)
                self._answer(answer, failure_of(error, f"launcher: {type(error).__name__}"))
            finally:
                answer.close()
                wire.close_all(descriptors)

    def _handle(self, call: msgspec.Struct, descriptors: list[int], answer: socket.socket) -> None:
        match call:
            case CreateCall():
                self._create(call, descriptors, answer)
            case ExecCall():
                self._exec(call, descriptors, answer)
            case OpenRootCall():
                root = self._layers.open_root(call.assembly)
                try:
                    self._answer(answer, Done(), (root,))
                finally:
                    os.close(root)
            case UserNamespaceCall():
                self._user_namespace(call, descriptors, answer)
            case ReleaseLayersCall():
                self._layers.release(call.paths)
                self._answer(answer, Done())
            case _:
                raise Internal(f"unknown call {type(call).__name__}")

    def _user_namespace(self, call: UserNamespaceCall, descriptors: list[int], answer: socket.socket) -> None:
        made: tuple[int, ...]
        if descriptors:
            made = (make_network_namespace(descriptors[0]),)
        else:
            made = make_user_namespace(call.uid_mappings, call.gid_mappings, network=True)
        try:
            if call.probe:
                owner = host_id(call.uid_mappings, 0), host_id(call.gid_mappings, 0)
                probe_idmapped_root(call.probe, self._layers.directory, made[0], owner)
            self._answer(answer, Done(), made)
        finally:
            wire.close_all(made)

    def _answer(
        self, answer: socket.socket, message: msgspec.Struct, descriptors: tuple[int, ...] = ()
    ) -> None:
        try:
            wire.send(answer, message, descriptors)
        except SampanError as error:
            sys.stderr.write(f"sampan launcher: an answer was not wanted: {error}\n")

    def _create(self, call: CreateCall, descriptors: list[int], answer: socket.socket) -> None:
        stdio, rest = _stdio(descriptors, call.stdio)
        if len(rest) < call.network + call.user_namespace:
            raise Internal("the descriptor of a namespace is missing")
        request = call.request
        if request.spec.hooks is not None:
            importlib.import_module("sampan.runtime.hooks")  # in a container's root it could not be found
        filter_program = None if request.runtime else self._filters.get_encoded(call.seccomp)
        # The overlay is mounted by the container's first process: what that leaves in memory is gone with its execve.
        label = (request.spec.linux.mount_label if request.spec.linux else None) or ""
        overlay = self._layers.prepare(request.root, label) if request.root is not None else None
        root = _directory_root(request) if overlay is None else -1
        try:
            network = rest[0] if call.network else -1
            user = rest[call.network] if call.user_namespace else -1
            trees = tuple(rest[call.network + call.user_namespace :])
            given = Given(
                root,
                overlay,
                self._host_mounts,
                stdio,
                network,
                filter_program,
                self._cgroup_host,
                user,
                trees,
            )
            job, make = container_job(request, given), Shim
            if request.runtime:
                from sampan.runtime import foreign  # for whoever uses another runtime only

                job = foreign.foreign_job(job, request, decode(call.seccomp))
                make = foreign.ForeignShim
            self._fork(job, answer, [*descriptors, root, self._host_mounts], make)
        finally:
            if root >= 0:
                os.close(root)

    def _exec(self, call: ExecCall, descriptors: list[int], answer: socket.socket) -> None:
        stdio, rest = _stdio(descriptors, call.stdio)
        if call.control and not rest:
            raise Internal("the control connection's descriptor is missing")
        filter_program = None if call.request.runtime else self._filters.get_encoded(call.seccomp)
        control = rest[0] if call.control else -1
        job = exec_job(call.request, filter_program, stdio, self._cgroup_host, control, self._namespaces)
        make = Shim
        try:
            if call.request.runtime:
                from sampan.runtime import foreign

                job, make = foreign.foreign_exec_job(job, call.request), foreign.DrivenExecShim
            self._fork(job, answer, [*descriptors, job.entry.target], make)
        finally:
            os.close(job.entry.target)

    def _fork(self, job: Job, answer: socket.socket, keep: list[int], make: type[Shim] = Shim) -> None:
        # Children are not waited for: SIGCHLD is ignored here, and the kernel reaps them.
        if os.fork() == 0:
            run_shim(job, answer, self._log_factory, [number for number in keep if number >= 0], make)


def _directory_root(request: CreateRequest) -> int:
    if request.spec.root is None:
        raise Invalid("a container needs a root file system")
    return open_directory_root(os.path.join(request.run_dir, request.spec.root.path))


def _find_cgroups() -> CgroupHost | None:
    """Once for all containers; without any, those that want a control group are told so."""
    try:
        return detect()
    except Unsupported:
        return None


def _stdio(descriptors: list[int], given: bool) -> tuple[tuple[int, int, int] | None, list[int]]:
    if not given:
        return None, descriptors
    if len(descriptors) < 3:
        raise Internal("three standard streams are needed")
    return (descriptors[0], descriptors[1], descriptors[2]), descriptors[3:]


def main(log_factory: LogFactory, arguments: list[str] | None = None) -> int:
    """`--run-dir DIRECTORY --socket DESCRIPTOR`, as `LauncherClient.start` gives them."""
    ensure_sealed()
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 4 or given[0] != "--run-dir" or given[2] != "--socket":
        sys.stderr.write("usage: launcher --run-dir DIRECTORY --socket DESCRIPTOR\n")
        return 2
    with socket.socket(fileno=int(given[3])) as sock:
        os.set_inheritable(sock.fileno(), False)
        os.chdir("/")
        process.set_name("sampan-launcher")
        # A container that can't have a session keyring of its own (quota) keeps this one: it holds no keys of the host.
        process.join_session_keyring("_ses.sampan")
        process.remember_title_area()
        forget_inherited_signals()
        rehearse(Path(given[1]) / "rehearsal", log_factory)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        # Ctrl-C at the daemon's terminal ends the daemon, and that ends us in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            launcher = Launcher(sock, Path(given[1]), log_factory)
        except (SampanError, OSError) as error:
            wire.send(sock, failure_of(error, "launcher"))
            return 1
        gc.freeze()
        gc.enable()
        wire.send(sock, Done())
        launcher.serve()
    return 0
