"""User namespaces made beforehand: with their id maps written, before anything is done in them (user_namespaces(7))."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from sampan.errors import Internal, Invalid, NotFound, Unsupported
from sampan.linux import namespaces as ns
from sampan.linux import process
from sampan.oci.spec import IdMapping
from sampan.runtime.failure import describe

_FAILED = b"!"
"""Before the number of an error, where otherwise the process's number stands."""


def make_user_namespace(
    uid_mappings: Sequence[IdMapping], gid_mappings: Sequence[IdMapping], *, network: bool = False
) -> tuple[int, int]:
    """Descriptors of a new user namespace and, if `network`, of a network namespace that belongs to it (else -1).

    A namespace needs a process to be made; it is forked here and has ended when this returns. Raises `Invalid` for
    mappings that the kernel refuses, `Unsupported` when there can't be one more.
    """
    with _forked(ns.NEWUSER | (ns.NEWNET if network else 0)) as pid:
        write_maps(pid, uid_mappings, gid_mappings)
        user = ns.open_namespace(f"/proc/{pid}/ns/user")
        return user, ns.open_namespace(f"/proc/{pid}/ns/net") if network else -1


def make_network_namespace(user_namespace: int) -> int:
    """A descriptor of a new network namespace that belongs to an existing user namespace."""
    with _forked(ns.NEWNET, user_namespace) as pid:
        return ns.open_namespace(f"/proc/{pid}/ns/net")


@contextmanager
def _forked(flags: int, within: int = -1) -> Iterator[int]:
    """A process in new namespaces (made in the user namespace `within`, if given), until the block ends.

    Yields its number in /proc.
    """
    ready, made = os.pipe2(os.O_CLOEXEC)
    end, let_go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _stay(flags, within, made, end, let_go)
    os.close(made)
    os.close(end)
    try:
        answer = os.read(ready, 32)
        if not answer or answer.startswith(_FAILED):
            words = os.strerror(int(answer[1:])).lower() if answer else "the process that makes one has died"
            raise Unsupported(
                f"a new user namespace can't be made: {words}",
                hint="are user.max_user_namespaces and user.max_net_namespaces (sysctl) large enough?",
            )
        yield int(answer)
    finally:
        os.close(ready)
        os.close(let_go)
        _reap(pid)


def _stay(flags: int, within: int, made: int, end: int, let_go: int) -> NoReturn:
    """The forked process: until the other end of the pipe is closed."""
    code = 1
    try:
        os.close(let_go)
        # Our maps are written through /proc/<pid>, which is root's as long as we are dumpable.
        process.set_dumpable(True)
        if within >= 0:
            ns.join(within, ns.NEWUSER)
        ns.unshare(flags)
        # As /proc has it, which may be another pid namespace's than that in which we were forked.
        os.write(made, os.readlink("/proc/self").encode())
        os.read(end, 1)
        code = 0
    except OSError as error:
        os.write(made, _FAILED + str(error.errno or errno.EPERM).encode())
    finally:
        os._exit(code)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # the launcher ignores SIGCHLD: the kernel has reaped it


def write_maps(pid: int, uid_mappings: Sequence[IdMapping], gid_mappings: Sequence[IdMapping]) -> None:
    """Raises `Invalid`, `NotFound`."""
    for name, mappings in (("uid_map", uid_mappings), ("gid_map", gid_mappings)):
        if not mappings:
            raise Invalid(f"a new user namespace needs linux.{name[:3]}Mappings")
        lines = "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)
        try:
            descriptor = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, lines.encode())
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise NotFound("user namespaces are not available") from error
        except OSError as error:
            raise Invalid(f"the id mappings are refused: {describe(error)}: {lines.strip()}") from error


def host_id(mappings: Sequence[IdMapping], number: int) -> int:
    """The host's id of the container's id `number`. Pure. Raises `Internal` when it is not mapped."""
    for one in mappings:
        if one.container_id <= number < one.container_id + one.size:
            return one.host_id + number - one.container_id
    raise Internal(f"id {number} is not mapped in the user namespace")
