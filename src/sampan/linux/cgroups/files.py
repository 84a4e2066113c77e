"""Reading and writing the files of control groups, and waiting for groups to empty."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from sampan.errors import Conflict, Denied, Internal, Invalid, NotFound, SampanError, Unsupported

_READ_SIZE = 65536
_SHORT = 2048
"""What is shorter was the whole file. The kernel gives a page's worth of whole lines per read, so that a longer piece
may lack lines although it is less than a page."""
_PAUSE = 0.001
_MOST_WATCHED = 64
_KILL_ROUNDS = 100


class Directories(Protocol):
    """How groups are made and removed; tests have a kind that fills in what the kernel would."""

    def make(self, path: str) -> None: ...

    def remove(self, path: str) -> None: ...


class KernelDirectories:
    def make(self, path: str) -> None:
        os.mkdir(path, 0o755)

    def remove(self, path: str) -> None:
        os.rmdir(path)


def write(path: str, value: str) -> None:
    """One write(2), as the kernel wants it. The kinds of error are those of `failure`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(error, path, value) from error


def failure(error: OSError, path: str, value: str | None = None) -> SampanError:
    """The error of a control group file that was written (`value` given) or read."""
    doing = f"writing {value!r} to" if value is not None else "reading"
    text = f"cgroup: {doing} {path}: {error.strerror}"
    match error.errno:
        case errno.ENOENT | errno.ENODEV if value is not None and os.path.isdir(os.path.dirname(path)):
            return Unsupported(text, hint="this kernel or host does not offer the limit")
        case errno.ENOENT | errno.ENODEV | errno.ESRCH:
            return NotFound(text)
        case errno.EINVAL | errno.ERANGE | errno.E2BIG | errno.ENOSPC:
            return Invalid(text)
        case errno.EBUSY | errno.EEXIST:
            return Conflict(text)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Denied(text)
        case errno.EOPNOTSUPP:
            return Unsupported(text)
    return Internal(text)


def read(path: str) -> str | None:
    """The file's text; None when it or its group does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunk = os.read(descriptor, _READ_SIZE)
            if len(chunk) < _SHORT:
                return chunk.decode()
            chunks = [chunk]
            while chunk := os.read(descriptor, _READ_SIZE):
                chunks.append(chunk)
            return b"".join(chunks).decode()
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise failure(error, path) from error


Read = Callable[[str], str | None]
"""`read`, or that of a `KeptFiles`."""


class KeptFiles:
    """Files that are read again and again, kept open in between: a third of the work of opening each anew.

    An open file does not keep its group from being removed; afterwards there is nothing to read in it.
    """

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def read(self, path: str) -> str | None:
        """As `files.read`."""
        descriptor = self._descriptors.get(path)
        try:
            if descriptor is None:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    descriptor = -1
                self._descriptors[path] = descriptor
            if descriptor < 0:
                return None
            chunk = os.pread(descriptor, _READ_SIZE, 0)
            if len(chunk) < _SHORT:
                return chunk.decode()
            whole = chunk
            while chunk := os.pread(descriptor, _READ_SIZE, len(whole)):
                whole += chunk
            return whole.decode()
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise failure(error, path) from error

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors.clear()


def read_number(path: str, read: Read = read) -> int | None:
    """None for "max" and where there is no such file."""
    text = read(path)
    return int(text) if text is not None and text.strip().lstrip("-").isdigit() else None


def read_table(path: str, read: Read = read) -> dict[str, int]:
    """A file of `name number` lines; empty when there is none."""
    return parse_table(read(path) or "")


def parse_table(text: str) -> dict[str, int]:
    words = text.split()
    try:
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))
    except ValueError:
        pairs = (line.partition(" ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}


def subgroups(path: str) -> Iterator[str]:
    """Directories right below; none when there is no such group."""
    try:
        with os.scandir(path) as entries:
            found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    yield from found


def process_ids(path: str) -> list[int]:
    """Processes in the group at `path` and all below it, as far as this PID namespace can see them."""
    # A process of an outer PID namespace reads as 0, which must never reach kill(2).
    found = [pid for pid in map(int, (read(f"{path}/cgroup.procs") or "").split()) if pid > 0]
    for below in subgroups(path):
        found += process_ids(below)
    return found


def kill_until_none_is_new(group: str, pids: Callable[[], list[int]]) -> None:
    """SIGKILL for each of the processes that `pids` lists, until it lists no others. Raises `Conflict` if that never
    comes: hold the group still before where that can be done."""
    killed: set[int] = set()
    for _ in range(_KILL_ROUNDS):
        new = set(pids()) - killed
        if not new:
            return
        for pid in new:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed |= new
    raise Conflict(f"cgroup {group}: new processes appear faster than they can be killed")


def make_with_parents(root: str, path: str, directories: Directories) -> None:
    """Make `root`/`path` and those parents that are missing."""
    full = f"{root}/{path}"
    try:
        directories.make(full)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent, _, _ = path.rpartition("/")
        if not parent:
            raise
        make_with_parents(root, parent, directories)
        make_with_parents(root, path, directories)
    except OSError as error:
        raise failure(error, full, "") from error


def remove_tree(
    path: str, directories: Directories, wait: Callable[[str, float], None], deadline: float
) -> None:
    """Remove a group and those below it. `wait(path, deadline)` returns when another try makes sense.

    `deadline` in seconds of time.monotonic(). Raises `Conflict` when it has passed.
    """
    while True:
        try:
            directories.remove(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise failure(error, path, "") from error
        else:
            return
        for below in subgroups(path):
            remove_tree(below, directories, wait, deadline)
        if time.monotonic() >= deadline:
            raise Conflict(
                f"cgroup {path} cannot be removed: processes {process_ids(path)} are still in it",
            )
        wait(path, deadline)


def wait_for_processes(path: str, deadline: float) -> None:
    """Version 1 has no event for an empty group: wait for a process of it to end, or a moment when none shows."""
    poller = select.poll()
    descriptors: list[int] = []
    try:
        for pid in process_ids(path)[:_MOST_WATCHED]:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            descriptors.append(descriptor)
            poller.register(descriptor, select.POLLIN)
        if not descriptors:
            # The process has ended but the kernel has not let go of the group yet: there is no event for that.
            time.sleep(_PAUSE)
            return
        poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for_event(path: str, name: str, value: int, deadline: float) -> bool:
    """Until `name` in the version 2 group's cgroup.events has `value`; False when the deadline passed.

    The kernel notifies pollers of the file (cgroup-v2.rst, "Un-populated Notification").
    A group that is gone counts as reached.
    """
    try:
        descriptor = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLPRI)
        while True:
            try:
                table = parse_table(os.pread(descriptor, 4096, 0).decode())
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return True
                raise failure(error, path) from error
            if table.get(name) == value:
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            poller.poll(remaining * 1000)
    finally:
        os.close(descriptor)
