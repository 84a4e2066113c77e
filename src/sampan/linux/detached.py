"""Detached mounts of what lies inside other detached mounts.

Since Linux 6.15 open_tree(2) clones those too, and overlayfs takes them as layers. Before, both want an attached mount:
it gets a place in the mount namespace of a thread that ends with it; nobody else sees it there.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable

from sampan.linux import mount, namespaces
from sampan.linux.libc import SystemCallError


def clone(inside: int, whole: int = -1) -> int:
    """A detached bind mount of what the descriptor `inside` refers to.

    `whole`: the detached mount that it lies in, if it does.
    """
    return _anywhere(lambda: mount.clone_tree(inside), whole)


def memory(size: int, *, mode: int = 0o700) -> int:
    """A detached tmpfs of at most `size` bytes that is never written to swap (Linux 6.4; before, as the host swaps)."""
    options: tuple[tuple[str, str | None], ...] = (("size", str(size)), ("mode", f"{mode:o}"))
    attributes = mount.ATTR_NOSUID | mount.ATTR_NODEV
    try:
        return mount.make_filesystem("tmpfs", (*options, ("noswap", None)), attributes, "tmpfs")
    except SystemCallError as error:
        if error.errno != errno.EINVAL:
            raise
    return mount.make_filesystem("tmpfs", options, attributes, "tmpfs")


def writable(inside: int, whole: int, scratch: str) -> int:
    """A detached mount of the directory `inside` whose changes go to the empty directory `scratch`, and not to it."""
    upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
    os.mkdir(upper, 0o755)
    os.mkdir(work, 0o700)
    status = os.fstat(inside)
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))

    def make() -> int:
        options = (("lowerdir", f"/proc/self/fd/{inside}"), ("upperdir", upper), ("workdir", work))
        return mount.make_filesystem("overlay", options, source="overlay")

    return _anywhere(make, whole)


def _anywhere(make: Callable[[], int], whole: int) -> int:
    try:
        return make()
    except SystemCallError as error:
        if whole < 0 or error.errno != errno.EINVAL:
            raise
    return attached_meanwhile(whole, make)


def attached_meanwhile(whole: int, make: Callable[[], int]) -> int:
    """What `make` gives in a thread in whose mount namespace the detached mount `whole` is attached. `whole` is
    unmounted with the thread's end, but what was opened in it stays open."""
    made: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            namespaces.unshare(namespaces.NEWNS)
            mount.set_root_propagation(mount.MS_PRIVATE)
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mount.attach(whole, root, "/")
            finally:
                os.close(root)
            made.append(make())
        except BaseException as error:  # noqa: BLE001 - the border of the thread: raised again by its maker
            failures.append(error)

    thread = threading.Thread(target=work, name="mounts")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return made[0]
