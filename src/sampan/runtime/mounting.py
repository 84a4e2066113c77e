"""Performing the mounting steps inside a new mount namespace, on descriptors below the container's root.

Nothing is mounted by a path string: targets are opened with openat2(RESOLVE_IN_ROOT), so that a symbolic link in
an image leads nowhere but into the image.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from sampan.errors import Denied, Invalid, NotFound
from sampan.linux import libc, mount, paths, process
from sampan.linux.libc import AT_FDCWD, SystemCallError
from sampan.runtime import steps as s

_PSEUDO = frozenset({"proc", "sysfs"})
_NULL_DEVICE = os.makedev(1, 3)
_BOUND_INTO_PROC = frozenset(
    {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    }
)
_TYPES = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def mount_filesystem(root: int, step: s.MountFilesystem) -> None:
    covers = step.kind == "tmpfs" and _exists(root, step.target)
    target = _target_directory(root, step.target, step.kind)
    try:
        if step.kind != "proc":
            _refuse_over_procfs(target, step.target)
        mounted = _new_filesystem(step, target if covers else -1)
        try:
            if step.copy_up and step.kind == "tmpfs":
                _copy_up(target, mounted)
            mount.attach(mounted, target, step.target)
            _propagate(mounted, step.propagation)
            if step.label:
                os.setxattr(f"/proc/self/fd/{mounted}", "security.selinux", step.label.encode() + b"\0")
        finally:
            os.close(mounted)
    finally:
        os.close(target)


def _exists(root: int, target: str) -> bool:
    try:
        os.close(paths.open_in_root(root, target, os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _new_filesystem(step: s.MountFilesystem, covered: int) -> int:
    """Detached. `covered`: the directory that a tmpfs covers, -1 where there was none.

    A tmpfs without a mode takes that directory's, as in runc; else it is open to all, as the kernel makes it.
    """
    options = step.options
    if covered >= 0 and not any(key == "mode" for key, _ in options):
        options = (*options, ("mode", f"{stat.S_IMODE(os.fstat(covered).st_mode):o}"))
    attributes = step.attributes
    if step.copy_up:
        options = tuple(option for option in options if option[0] != "ro")
    source = step.source or step.kind
    try:
        return mount.make_filesystem(step.kind, options, attributes, source)
    except SystemCallError as error:
        if step.kind == "mqueue" and error.errno == errno.EINVAL:
            return mount.make_filesystem(step.kind, (), attributes, source)
        raise


def bind_mount(root: int, step: s.BindMount, taken: int = -1) -> None:
    """`taken`: the source's tree when it was taken already (see `trees`); closed here.

    Raises `NotFound` for a missing source.
    """
    tree = taken if taken >= 0 else clone(step.source, step.recursive, step.within)
    try:
        is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        if is_directory:
            target = _target_directory(root, step.target, "bind")
        else:
            target = paths.create_file_in_root(root, step.target)
        try:
            _refuse_procfs(tree, target, step.target)
            mount.attach(tree, target, step.target)
        finally:
            os.close(target)
        # Propagation first: with shared mounts a change of flags would not travel, but a mount would.
        _propagate(tree, step.propagation)
        if step.add or step.clear:
            mount.set_attributes(tree, step.add, step.clear & ~step.add | _atime(step.add, step.clear))
        if step.add_below or step.clear_below:
            clear = step.clear_below & ~step.add_below | _atime(step.add_below, step.clear_below)
            mount.set_attributes(tree, step.add_below, clear, recursive=True)
    finally:
        os.close(tree)


def _atime(add: int, clear: int) -> int:
    """The kernel wants the whole of the atime field cleared when a value of it is set (mount_setattr(2))."""
    return mount.ATTR_ATIME if (add | clear) & mount.ATTR_ATIME else 0


def clone(source: str, recursive: bool, within: str = "") -> int:
    """A detached bind mount of a path on the host's side. Raises `NotFound`.

    `within`: a directory above it from which on a container may have made what is there; symbolic links below that
    one are followed as if it were the root directory.
    """
    try:
        if within:
            return _clone_within(source, recursive, within)
        return mount.clone_tree(AT_FDCWD, source, recursive=recursive)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"error mounting {source!r}: {source}: no such file or directory") from error
        raise


def _clone_within(source: str, recursive: bool, within: str) -> int:
    top = os.open(within, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = posixpath.relpath(source, within)
        found = paths.open_in_root(top, inner, os.O_PATH)
        try:
            return mount.clone_tree(found, recursive=recursive)
        finally:
            os.close(found)
    finally:
        os.close(top)


def remount(root: int, step: s.Remount) -> None:
    target = paths.open_in_root(root, step.target, os.O_PATH)
    try:
        libc.mount(None, f"/proc/self/fd/{target}", None, step.flags | mount.MS_REMOUNT, step.data or None)
    finally:
        os.close(target)


def _target_directory(root: int, path: str, kind: str) -> int:
    """The directory to mount on, made when it is missing.

    procfs, sysfs and /dev go onto real directories only, no symbolic link anywhere on the way: what is masked
    afterwards must be what was mounted, and devices must not come to lie in the image.
    """
    if kind in _PSEUDO or (path == "/dev" and kind != "bind"):
        try:
            return paths.open_in_root(
                root, path, os.O_PATH | os.O_DIRECTORY, resolve=paths.RESOLVE_NO_SYMLINKS
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Invalid(f"filesystem {kind!r} must be mounted on ordinary directory: {path}") from error
            if error.errno != errno.ENOENT:
                raise
    try:
        return paths.mkdirs_in_root(root, path)
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise Invalid(
                f"error mounting to rootfs at {path!r}: not a directory",
                hint="Are you trying to mount a directory onto a file (or vice-versa)? "
                "Check if the specified host path exists and is the expected type",
            ) from error
        raise


def _refuse_procfs(tree: int, target: int, path: str) -> None:
    """Nothing but what lxcfs offers may be bound into /proc, and over it only another procfs: it would fool what is
    written there later. Where `target` really is counts, by whatever name the image leads there."""
    name = posixpath.normpath(path)
    if name == "/proc":
        if process.filesystem_type(tree) != process.PROC_SUPER_MAGIC:
            raise Invalid(f"{path!r} cannot be mounted because it is not of type proc")
        return
    inside = name.startswith("/proc/") or process.filesystem_type(target) == process.PROC_SUPER_MAGIC
    if inside and name not in _BOUND_INTO_PROC:
        raise Invalid(f"{path!r} cannot be mounted because it is inside /proc")


def _refuse_over_procfs(target: int, path: str) -> None:
    """A new file system has no place on or in procfs."""
    if posixpath.normpath(path) == "/proc":
        raise Invalid(f"{path!r} cannot be mounted because it is not of type proc")
    if process.filesystem_type(target) == process.PROC_SUPER_MAGIC:
        raise Invalid(f"{path!r} cannot be mounted because it is inside /proc")


def _propagate(mounted: int, propagation: tuple[s.Propagation, ...]) -> None:
    for one in propagation:
        mount.set_attributes(mounted, propagation=one.flag, recursive=one.recursive)


def _copy_up(source: int, target: int) -> None:
    """What is in the directory below goes into the tmpfs above: files, directories, links; owners and modes kept."""
    reading = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(reading):
            status = os.stat(name, dir_fd=reading, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=reading), name, dir_fd=target)
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(name, os.O_RDONLY | flags, dir_fd=reading)
                made = os.open(name, os.O_RDONLY | flags, dir_fd=target)
                try:
                    _copy_up(below, made)
                    os.chmod(made, stat.S_IMODE(status.st_mode))
                finally:
                    os.close(below)
                    os.close(made)
            elif stat.S_ISREG(status.st_mode):
                _copy_file(reading, target, name, stat.S_IMODE(status.st_mode))
            else:
                continue
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    finally:
        os.close(reading)


def _copy_file(reading: int, target: int, name: str, mode: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=reading)
    try:
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=target)
        try:
            while os.sendfile(made, source, None, 1 << 20):
                pass
            os.fchmod(made, mode)
        finally:
            os.close(made)
    finally:
        os.close(source)


def make_device(root: int, step: s.MakeDevice) -> None:
    """mknod; where that is not permitted (a user namespace), the host's own device is bound."""
    directory, _, name = step.path.rpartition("/")
    parent = paths.mkdirs_in_root(root, directory)
    try:
        try:
            os.mknod(name, _TYPES[step.kind] | step.mode, os.makedev(step.major, step.minor), dir_fd=parent)
        except FileExistsError:
            _check_device(parent, name, step)
            return
        except PermissionError:
            _bind_device(root, step)
            return
        # Not subject to the umask; by descriptor, as chmod has no "no follow".
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{made}", step.mode)
            if step.uid or step.gid:
                os.chown(f"/proc/self/fd/{made}", step.uid, step.gid)
        finally:
            os.close(made)
    finally:
        os.close(parent)


def _check_device(parent: int, name: str, step: s.MakeDevice) -> None:
    """What is there already (from the image) must be the device itself."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    expected = os.makedev(step.major, step.minor)
    if stat.S_IFMT(status.st_mode) != _TYPES[step.kind] or (step.kind != "p" and status.st_rdev != expected):
        raise Invalid(f"device {step.path}: something else is there in the root file system")


def _host_node(step: s.MakeDevice) -> str:
    """The host's node of this device: of the same name, or as sysfs names it when the container calls it otherwise."""
    expected = os.makedev(step.major, step.minor)
    try:
        if os.path.lexists(step.path) and os.lstat(step.path).st_rdev == expected:
            return step.path
        kind = "block" if step.kind == "b" else "char"
        with open(f"/sys/dev/{kind}/{step.major}:{step.minor}/uevent", "rb") as file:
            names = [line.strip().removeprefix(b"DEVNAME=") for line in file if line.startswith(b"DEVNAME=")]
    except FileNotFoundError:
        names = []
    return f"/dev/{os.fsdecode(names[0])}" if names else step.path


def _bind_device(root: int, step: s.MakeDevice) -> None:
    source = os.open(_host_node(step), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(source)
        if status.st_rdev != os.makedev(step.major, step.minor):
            raise Denied(f"device {step.path} can't be made, and the host has another one of this name")
        tree = mount.clone_tree(source)
        target = paths.create_file_in_root(root, step.path)
        try:
            mount.attach(tree, target, step.path)
        finally:
            os.close(target)
            os.close(tree)
    finally:
        os.close(source)


def make_link(root: int, step: s.MakeLink) -> None:
    """What is there already stays, but for /dev/ptmx, which has to be the container's own."""
    if step.only_with and not os.path.exists(step.only_with):
        return
    directory, _, name = step.path.rpartition("/")
    parent = paths.mkdirs_in_root(root, directory)
    try:
        try:
            os.symlink(step.destination, name, dir_fd=parent)
        except FileExistsError:
            if name == "ptmx" and not stat.S_ISLNK(
                os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            ):
                os.unlink(name, dir_fd=parent)
                os.symlink(step.destination, name, dir_fd=parent)
    finally:
        os.close(parent)


def bind_console(root: int, slave: int) -> None:
    target = paths.create_file_in_root(root, "/dev/console", 0o620)
    try:
        tree = mount.clone_tree(slave)
        try:
            mount.attach(tree, target, "/dev/console")
        finally:
            os.close(tree)
    finally:
        os.close(target)


def pivot(root: int) -> None:
    """Make `root` the root directory, and let go of the old one. The working directory is "/" afterwards."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        libc.pivot_root(".", ".")
        # The old root lies on top of the new one now. It is let go of as a slave: without a word to its peers.
        os.fchdir(old)
        libc.mount(None, ".", None, mount.MS_REC | mount.MS_SLAVE)
        libc.umount(".", mount.MNT_DETACH)
    finally:
        os.close(old)
    os.chdir("/")


def readonly_path(root: int, path: str) -> None:
    """A read-only bind mount of `path` onto itself; nothing when it does not exist."""
    try:
        target = paths.open_in_root(root, path, os.O_PATH)
    except FileNotFoundError:
        return
    try:
        tree = mount.clone_tree(target, recursive=True)
        try:
            mount.attach(tree, target, path)
            mount.set_attributes(tree, mount.ATTR_RDONLY)
        finally:
            os.close(tree)
    finally:
        os.close(target)


class Masks:
    """Covers for what a container must not see: the null device for files, an empty tmpfs for directories."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._null = -1
        self._empty = -1

    def cover(self, path: str) -> None:
        """Nothing when `path` does not exist."""
        try:
            target = paths.open_in_root(self._root, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode):
                self._cover_directory(target, path)
            else:
                self._cover(self._file(), target, path)
        finally:
            os.close(target)

    def _cover(self, source: int, target: int, path: str) -> None:
        tree = mount.clone_tree(source)
        try:
            mount.attach(tree, target, path)
        finally:
            os.close(tree)

    def _cover_directory(self, target: int, path: str) -> None:
        if self._empty >= 0:
            self._cover(self._empty, target, path)
            return
        # Before Linux 6.15 only an attached mount can be cloned: the first one is used itself.
        self._empty = mount.make_filesystem("tmpfs", (("ro", None),), mount.ATTR_RDONLY, "tmpfs")
        mount.attach(self._empty, target, path)

    def _file(self) -> int:
        """The container's own /dev/null, once it is known to be that device and not what somebody put there."""
        if self._null < 0:
            null = paths.open_in_root(
                self._root, "/dev/null", os.O_PATH | os.O_NOFOLLOW, resolve=paths.RESOLVE_NO_SYMLINKS
            )
            status = os.fstat(null)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _NULL_DEVICE:
                os.close(null)
                raise Invalid(
                    "the container's /dev/null is not the null device; nothing can be masked with it"
                )
            self._null = null
        return self._null

    def close(self) -> None:
        for descriptor in (self._null, self._empty):
            if descriptor >= 0:
                os.close(descriptor)
