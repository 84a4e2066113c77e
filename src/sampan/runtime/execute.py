"""The last steps before a container's program: identity, capabilities, system call filter, execve."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable

import msgspec

from sampan.errors import Denied, Invalid
from sampan.linux import capabilities as caps
from sampan.linux import libc, seccomp
from sampan.linux import process as linux_process
from sampan.oci.spec import Capabilities, Process
from sampan.runtime.failure import NOT_EXECUTABLE, NOT_FOUND, ExecFailed
from sampan.runtime.rlimits import set_late
from sampan.runtime.users import ResolvedUser, home_of, resolve_groups, resolve_user

DEFAULT_UMASK = 0o022

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class SeccompProgram(msgspec.Struct, frozen=True):
    """A compiled filter and the names of its flags."""

    program: bytes
    flags: tuple[str, ...] = ()


class CapabilityMasks(msgspec.Struct, frozen=True):
    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def capability_masks(wanted: Capabilities | None, available: int) -> CapabilityMasks:
    """What of the wanted sets can be had. Pure.

    What the runtime itself does not have (`available`) and what this kernel does not know is left out, as the
    runtime-spec asks.
    """
    sets = wanted or Capabilities()

    def mask(names: tuple[str, ...]) -> int:
        return caps.mask_of(name for name in names if name in caps.NAMES) & available

    permitted = mask(sets.permitted)
    inheritable = mask(sets.inheritable)
    return CapabilityMasks(
        bounding=mask(sets.bounding),
        effective=mask(sets.effective) & permitted,
        permitted=permitted,
        inheritable=inheritable,
        ambient=mask(sets.ambient) & permitted & inheritable,
    )


def resolve_identity(
    root_fd: int, process: Process, user: str | None, groups: tuple[str, ...] = ()
) -> ResolvedUser:
    """Who the process runs as: `user` looked up in the container when given, else the ids of the specification.

    `groups`, looked up too, are joined in addition.
    """
    if user is not None or groups:
        found = resolve_user(root_fd, user or "")
        wanted = (*process.user.additional_gids, *resolve_groups(root_fd, groups))
        more = tuple(gid for gid in dict.fromkeys(wanted) if gid not in found.additional_gids)
        return ResolvedUser(found.uid, found.gid, found.additional_gids + more, found.home)
    ids = process.user
    has_home = any(entry.startswith("HOME=") for entry in process.env)
    home = "/" if has_home else home_of(root_fd, ids.uid)
    return ResolvedUser(ids.uid, ids.gid, ids.additional_gids, home)


def environment_of(process: Process, identity: ResolvedUser) -> dict[str, str]:
    """The environment as a dictionary (the last of equal names wins), with HOME."""
    result: dict[str, str] = {}
    for entry in process.env:
        name, equals, value = entry.partition("=")
        if equals and name:
            result[name] = value
    result.setdefault("HOME", identity.home)
    return result


def execute(
    process: Process,
    identity: ResolvedUser,
    filter_program: SeccompProgram | None,
    environment: dict[str, str],
    on_listener: Callable[[int], object] | None = None,
) -> None:
    """Become the container's program; never returns. Raises `ExecFailed`, `Denied`, `Invalid`, OSError."""
    arguments = list(process.args or ())
    wanted = enter_identity(process, identity)
    program = find_program(arguments[0], environment.get("PATH", ""))
    reset_signals()
    set_late(process.rlimits)  # before the filter, which may forbid it
    lock_down(process, filter_program, wanted, on_listener)
    try:
        os.execve(program, arguments, environment)
    except OSError as error:
        raise exec_error(program, error) from error


def enter_identity(process: Process, identity: ResolvedUser) -> CapabilityMasks:
    """Groups, user, umask and working directory; capabilities are cut down as far as the filter's loading allows."""
    _, available, _ = caps.current()
    wanted = capability_masks(process.capabilities, available)
    caps.limit_bounding(wanted.bounding)
    entered = _change_directory(process.cwd, again=True)
    _own_stdio(identity)
    caps.keep_over_setuid(True)
    try:
        os.setgroups(identity.additional_gids)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Invalid(
                f"uid {identity.uid} or gid {identity.gid} is not mapped in the user namespace"
            ) from error
        raise
    caps.keep_over_setuid(False)
    linux_process.set_dumpable(False)
    for_filter = caps.SYS_ADMIN & available
    caps.apply(wanted.effective | for_filter, wanted.permitted | for_filter, wanted.inheritable)
    if not entered:
        _change_directory(process.cwd, again=False)
    _check_directory(process.cwd)
    os.umask(DEFAULT_UMASK if process.user.umask is None else process.user.umask)
    return wanted


def lock_down(
    process: Process,
    filter_program: SeccompProgram | None,
    wanted: CapabilityMasks,
    on_listener: Callable[[int], object] | None = None,
) -> None:
    """The final capabilities and the filter. Without no_new_privs loading it takes CAP_SYS_ADMIN: then it comes first,
    and as little as possible after it, as the filter may forbid it. `on_listener` gets the filter's listener."""
    if process.no_new_privileges:
        linux_process.set_no_new_privileges()
    elif filter_program is not None:
        _load_filter(filter_program, on_listener)
    caps.apply(wanted.effective, wanted.permitted, wanted.inheritable)
    if wanted.ambient:
        caps.set_ambient(wanted.ambient)
    if process.no_new_privileges and filter_program is not None:
        _load_filter(filter_program, on_listener)


def _load_filter(wanted: SeccompProgram, on_listener: Callable[[int], object] | None) -> None:
    flags = wanted.flags if on_listener is None else (*wanted.flags, "SECCOMP_FILTER_FLAG_NEW_LISTENER")
    listener = seccomp.load_filter(wanted.program, flags)
    if listener is not None and on_listener is not None:
        on_listener(listener)


LIBRARY_SIGNALS = (32, 33)
"""glibc's own, out of signal(3)'s reach. Its posix_spawn, which make uses, leaves them ignored in the child."""


def forget_inherited_signals() -> None:
    """What our own caller ignores or blocks is not to reach a container. Slow: once, before anything is forked."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    for own in LIBRARY_SIGNALS:
        libc.stop_ignoring(own)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reset_signals() -> None:
    """Ignored signals stay ignored over execve, and Python ignores some; a blocked one stays blocked."""
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGCHLD,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGTERM,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def find_program(name: str, search: str) -> str:
    """The file to execute, as execvp(3) finds it, with Go's words for what is wrong. Raises `ExecFailed`."""
    if "/" in name:
        problem = _problem(name)
        if problem is None:
            return name
        if problem in _NOT_THERE:
            raise ExecFailed(
                f"exec: {quote(name)}: stat {name}: {os.strerror(problem).lower()}", exit_code=NOT_FOUND
            )
        raise ExecFailed(f"exec: {quote(name)}: {os.strerror(problem).lower()}", exit_code=NOT_EXECUTABLE)
    for directory in search.split(":") if search else ():
        candidate = f"{directory or '.'}/{name}"
        if name and _problem(candidate) is None:
            return candidate
    raise ExecFailed(f"exec: {quote(name)}: executable file not found in $PATH", exit_code=NOT_FOUND)


def quote(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _problem(path: str) -> int | None:
    """The error number that says why `path` can't be executed, or None."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    return None if mode & 0o111 else errno.EACCES


def exec_error(program: str, error: OSError) -> ExecFailed:
    code = NOT_FOUND if error.errno in _NOT_THERE else NOT_EXECUTABLE
    return ExecFailed(f"exec {program}: {os.strerror(error.errno or 0).lower()}", exit_code=code)


def _change_directory(path: str, *, again: bool) -> bool:
    """False: not allowed now, to be tried as the container's user (`again`)."""
    try:
        os.chdir(path)
    except PermissionError as error:
        if again:
            return False
        raise Denied(f"chdir to cwd ({quote(path)}) set in config.json failed: permission denied") from error
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise ExecFailed(
            f"chdir to cwd ({quote(path)}) set in config.json failed: {words}", exit_code=127
        ) from error
    return True


def _check_directory(path: str) -> None:
    """The working directory must be below the container's root (CVE-2024-21626: a path through /proc/self/fd)."""
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise Denied(f"current working directory {path} is outside of container mount namespace root")


def _own_stdio(identity: ResolvedUser) -> None:
    """Pipes and terminals belong to the container's user, so that it can open /dev/stdout again."""
    null = os.makedev(1, 3)
    for descriptor in (0, 1, 2):
        status = os.fstat(descriptor)
        if status.st_uid == identity.uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == null):
            continue
        try:
            os.fchown(descriptor, identity.uid, status.st_gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EROFS):
                raise
