"""What travels between the engine, the launcher, a shim and a container's init: a closed set of values.

The engine makes `CreateRequest` and `ExecRequest`, and gets `Created` and `ExitRecord` back. The rest is the
protocol itself. Descriptors travel beside a message (SCM_RIGHTS), in the order that its docstring gives.
"""

from __future__ import annotations

import msgspec

from sampan.oci.rootfs import RootAssembly
from sampan.oci.spec import IdMapping, Process, Spec
from sampan.runtime.failure import Failure

SHIM_SOCKET = "shim.sock"
EXIT_FILE = "exit.json"
INIT_ANNOTATION = "org.sampan.init"
"""`"true"`: a small reaping init is PID 1, and the container's program its child."""


class LogTarget(msgspec.Struct, frozen=True):
    """Where a container's output is recorded; `options` belong to the driver.

    `path`: the log's file, or that of the local copy of what goes elsewhere. `source`: what the driver may say of the
    container, encoded by it. `status`: a file for what could not be delivered; "" when nobody asks.
    """

    driver: str
    path: str
    options: dict[str, str] = {}
    source: bytes = b""
    status: str = ""


class CreateRequest(msgspec.Struct, frozen=True):
    """A container to make.

    `root` None: `spec.root.path` is used as it is. `run_dir` exists and belongs to this container alone.
    `stdin`: the container's standard input stays open for attach clients (else it is /dev/null).
    `stdin_once`: it is closed when the first attached client closes its side. `user` (`name|uid[:group|gid]`),
    when set, is looked up in the container's own /etc/passwd and /etc/group and replaces `spec.process.user`'s
    ids. `groups` (names or numbers) are looked up there too and joined. HOME is set from /etc/passwd unless the
    environment has it.
    """

    id: str
    spec: Spec
    root: RootAssembly | None
    run_dir: str
    log: LogTarget | None = None
    stdin: bool = False
    stdin_once: bool = False
    user: str | None = None
    groups: tuple[str, ...] = ()
    idmapped: bool = False
    """The layers of `root` hold ids as the container sees them: they are shown through its user namespace."""
    runtime: tuple[str, ...] = ()
    """The command of another OCI runtime that is to make it; (): the launcher makes it itself."""


class ExecRequest(msgspec.Struct, frozen=True):
    """A further process in a container. `spec` is the container's.

    `id` names the exec; `run_dir` is its own, not the container's. `init_start_time` (clock ticks; 0: not
    known) guards against a process id that was given to another process meanwhile.
    """

    id: str
    container_id: str
    init_pid: int
    process: Process
    spec: Spec
    run_dir: str
    stdin: bool = False
    stdin_once: bool = True
    user: str | None = None
    groups: tuple[str, ...] = ()
    init_start_time: int = 0
    runtime: tuple[str, ...] = ()
    """The command of the OCI runtime that has made the container; (): we have."""


class Created(msgspec.Struct, frozen=True, tag=True):
    """`init_start_time` is field 22 of /proc/<pid>/stat, in clock ticks since boot."""

    init_pid: int
    shim_pid: int
    init_start_time: int


class ExitRecord(msgspec.Struct, frozen=True):
    """How a process ended. `exit_code` is 128 + n when signal n killed it; `finished_at` RFC 3339 with nanoseconds.

    `oom_kills`: how often the OOM killer struck in the container, whichever process it hit.
    """

    exit_code: int
    finished_at: str
    oom_killed: bool = False
    error: str = ""
    oom_kills: int = 0


class AttachOptions(msgspec.Struct, frozen=True):
    """`framed`: Docker's 8-byte stream headers (ignored for a terminal, which is always raw).

    `detach_keys` as bytes; empty: no key sequence detaches. They count on a terminal only, as in Docker.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    framed: bool = True
    detach_keys: bytes = b""


# Engine to launcher. The first descriptor is always a socket for the answer.


class CreateCall(msgspec.Struct, frozen=True, tag=True):
    """Descriptors: answer; standard input, output and error if `stdio`; the network namespace if `network`; the user
    namespace if `user_namespace`; detached mounts, which the specification names by `x-sampan-given=N`.

    `seccomp`: the profile, taken out of the specification and encoded (see `filters.encode`); empty: none.
    """

    request: CreateRequest
    stdio: bool
    network: bool
    seccomp: bytes = b""
    user_namespace: bool = False


class ExecCall(msgspec.Struct, frozen=True, tag=True):
    """Descriptors: answer, then standard input, output and error if `stdio`, then a connection if `control`.

    `control`: the shim takes it as one that it has accepted; the calls that wait on it are done without delay.
    `seccomp`: as of `CreateCall`.
    """

    request: ExecRequest
    stdio: bool
    control: bool = False
    seccomp: bytes = b""


class OpenRootCall(msgspec.Struct, frozen=True, tag=True):
    assembly: RootAssembly


class ReleaseLayersCall(msgspec.Struct, frozen=True, tag=True):
    paths: tuple[str, ...]


class UserNamespaceCall(msgspec.Struct, frozen=True, tag=True):
    """The answer carries descriptors of a new user namespace and of a network namespace that belongs to it.

    With a second descriptor, of a user namespace, that one is used, and its descriptor not sent back.
    `probe`: a directory below which a root with mapped ids is mounted for a trial, if not empty.
    """

    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    probe: str = ""


LauncherCall = CreateCall | ExecCall | OpenRootCall | ReleaseLayersCall | UserNamespaceCall


class Done(msgspec.Struct, frozen=True, tag=True):
    """Success with nothing to say; some answers carry descriptors."""


LauncherAnswer = Created | Done | Failure


# Engine to shim.


class Subscribe(msgspec.Struct, frozen=True, tag=True):
    """Descriptor: a socket that gets the `ExitRecord` once, and is then closed."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """`pid`: the process's number as its maker knows it, for one that can't know it itself; else 0."""

    pid: int = 0


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Descriptor: the client's connection. `preread`: bytes of its input that were read already."""

    preread: bytes
    options: AttachOptions


class Resize(msgspec.Struct, frozen=True, tag=True):
    height: int
    width: int


class Kill(msgspec.Struct, frozen=True, tag=True):
    signal: int


ShimCall = Subscribe | Start | Attach | Resize | Kill
ShimAnswer = Done | Failure


# A container's init and the process that made it (shim, or the command `sampan-runtime`).


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Init to its maker: all is set up; init waits for `Start`."""


class Console(msgspec.Struct, frozen=True, tag=True):
    """Init to its maker; descriptor: the master side of the container's terminal."""


class MakerHooksCall(msgspec.Struct, frozen=True, tag=True):
    """Init to its maker: now is the time for the hooks prestart and createRuntime; `Done` is the answer."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The first stage to its maker: `pid` (in the maker's namespace) is the init from now on."""

    pid: int


InitReport = Ready | Console | MakerHooksCall | Forked | Failure
InitOrder = Start | Done
