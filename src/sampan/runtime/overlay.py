"""A root file system from its layers: layer mounts kept by the launcher, and a detached overlay on top of them.

Layers lie at `<directory>/<n>` in the launcher's mount namespace only. Kernel's documentation:
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import msgspec

from sampan.errors import Internal, Invalid, NotFound
from sampan.linux import libc, mount
from sampan.linux.filesystems import kernel_version
from sampan.oci.rootfs import LayerMount, RootAssembly

MAX_LAYERS = 500
"""The kernel's own bound (OVL_MAX_STACK)."""

_OPTIONS = (("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "off"))
_OPTION_PER_LAYER = (6, 5)
"""From this kernel on `lowerdir+` is an option; an older one says so only when the mount is made."""
_MAX_MOUNT_DATA = 4095
_EMPTY, _SCRATCH = "empty", "scratch"
_SPECIAL = frozenset(",:\\")


class LayerMounts:
    """The layers that are mounted now; one per launcher, used by one thread."""

    def __init__(self, directory: str) -> None:
        """`directory` exists and is the caller's own (a tmpfs in its mount namespace)."""
        self._directory = directory
        self._places: dict[str, str] = {}
        self._next = 0
        os.makedirs(f"{directory}/{_EMPTY}", exist_ok=True)

    @property
    def directory(self) -> str:
        return self._directory

    def place_of(self, layer: LayerMount) -> str:
        """The directory at which the layer can be found; it is mounted when it is not yet.

        Raises `NotFound` when it is not on disk, `Internal` when it can't be mounted.
        """
        if layer.kind == "dir":
            if not os.path.isdir(layer.path):
                raise NotFound(f"layer {layer.path} is missing")
            return layer.path
        place = self._places.get(layer.path)
        if place is None:
            place = f"{self._directory}/{self._next}"
            os.mkdir(place)
            try:
                mount.mount_erofs(layer.path, place)
            except OSError as error:
                os.rmdir(place)
                if error.errno == errno.ENOENT:
                    raise NotFound(f"layer {layer.path} is missing") from error
                raise Internal(f"layer {layer.path} can't be mounted: {error}") from error
            self._next += 1
            self._places[layer.path] = place
        return place

    def release(self, paths: Sequence[str]) -> None:
        """Unmount layers; what uses them keeps them. Unknown ones are ignored."""
        for path in paths:
            place = self._places.pop(path, None)
            if place is not None:
                libc.umount(place, mount.MNT_DETACH)
                os.rmdir(place)

    def prepare(self, assembly: RootAssembly, label: str = "") -> Overlay:
        """Its layers are mounted now. `label`: SELinux's, of all its files.

        Raises `NotFound`, `Invalid`, `Internal`.
        """
        if len(assembly.layers) > MAX_LAYERS:
            raise Invalid(f"too many layers: {len(assembly.layers)}, at most {MAX_LAYERS} can be mounted")
        if (assembly.upper is None) != (assembly.work is None):
            raise Invalid("a writable root needs both an upper and a work directory")
        # Overlayfs takes no directory twice (ELOOP). Whatever a layer says it says again at its uppermost place.
        lower = tuple(self.place_of(layer) for layer in dict.fromkeys(reversed(assembly.layers)))
        return Overlay(lower, assembly.upper, assembly.work, self._directory, label, assembly.volatile)

    def open_root(self, assembly: RootAssembly) -> int:
        """A descriptor of a detached overlay mount, for work on files: no device in it can be opened, which alone can
        do harm. Raises `NotFound`, `Invalid`, `Internal`."""
        return self.prepare(assembly).open(devices=False)


class Overlay(msgspec.Struct, frozen=True):
    """A root that can be opened, in the launcher's mount namespace, by whichever process is to have it.

    `lower`: directories, the uppermost first. `places`: where the launcher keeps its mounts.
    """

    lower: tuple[str, ...]
    upper: str | None
    work: str | None
    places: str
    label: str = ""
    volatile: bool = False

    def open(self, *, devices: bool = True) -> int:
        """A descriptor of a detached overlay mount. Raises `NotFound`, `Invalid`, `Internal`."""
        lower, empty = list(self.lower), f"{self.places}/{_EMPTY}"
        if self.upper is None and not lower:
            tree = mount.clone_tree(libc.AT_FDCWD, empty)
            mount.set_attributes(tree, mount.ATTR_RDONLY)
            return tree
        if not lower or (self.upper is None and len(lower) == 1):
            lower.append(empty)
        for path in (self.upper, self.work):
            if path is not None and not os.path.isdir(path):
                raise NotFound(f"directory {path} of a writable layer is missing")
        if self.volatile:
            _forget_volatile(f"{self.work}/work/incompat/volatile")
        held: list[int] = []
        try:
            return self._mount(lower, held, 0 if devices else mount.ATTR_NODEV)
        except OSError as error:
            raise Internal(f"overlay of {len(lower)} layers can't be mounted: {error}") from error
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _mount(self, lower: list[str], held: list[int], attributes: int) -> int:
        attributes |= mount.ATTR_RDONLY if self.upper is None else 0
        if kernel_version() < _OPTION_PER_LAYER:
            return self._mount_old(lower, attributes)
        with mount.Filesystem("overlay") as context:
            context.set("source", "overlay")
            for path in lower:
                context.set("lowerdir+", _option_path(path, held))
            if self.upper is not None and self.work is not None:
                context.set("upperdir", _option_path(self.upper, held))
                context.set("workdir", _option_path(self.work, held))
            for key, value in _OPTIONS:
                context.set(key, value)
            if self.volatile:
                context.set("volatile")
            if self.label:
                context.set("context", self.label)
            return context.create(attributes)

    def _mount_old(self, lower: list[str], attributes: int) -> int:
        """With mount(2), whose options have to fit into a page: directories are named by descriptors."""
        held: list[int] = []
        scratch = f"{self.places}/{_SCRATCH}.{os.getpid()}"  # others may do the same at this moment
        os.mkdir(scratch)
        try:
            data = "lowerdir=" + ":".join(_by_descriptor(path, held) for path in lower)
            if self.upper is not None and self.work is not None:
                data += f",upperdir={_by_descriptor(self.upper, held)}"
                data += f",workdir={_by_descriptor(self.work, held)}"
            data += "".join(f",{key}={value}" for key, value in _OPTIONS)
            data += ",volatile" if self.volatile else ""
            data += f',context="{self.label}"' if self.label else ""
            if len(data) > _MAX_MOUNT_DATA:
                raise Invalid(f"too many layers for this kernel: {len(lower)}")
            libc.mount("overlay", scratch, "overlay", mount.old_flags(attributes), data)
            try:
                return mount.clone_tree(libc.AT_FDCWD, scratch)
            finally:
                libc.umount(scratch, mount.MNT_DETACH)
        finally:
            os.rmdir(scratch)
            for descriptor in held:
                os.close(descriptor)


def _forget_volatile(mark: str) -> None:
    """The kernel leaves it, and mounts no such layer again: after a crash of the host it would not be complete. Ours
    are thrown away then."""
    try:
        os.unlink(f"{mark}/dirty")
    except FileNotFoundError:
        return  # it is mounted for the first time
    os.rmdir(mark)


def open_directory_root(path: str) -> int:
    """A detached bind mount of the directory `path` with what is mounted in it. Raises `NotFound`, `Internal`."""
    try:
        tree = mount.clone_tree(libc.AT_FDCWD, path, recursive=True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"invalid rootfs: {path} does not exist") from error
        raise Internal(f"rootfs {path}: {error}") from error
    mount.set_attributes(tree, propagation=mount.MS_PRIVATE, recursive=True)
    return tree


def _option_path(path: str, held: list[int]) -> str:
    """The path itself where it can be an option's value (people read it in mountinfo), else by descriptor."""
    if len(os.fsencode(path)) <= mount.MAX_OPTION and _SPECIAL.isdisjoint(path):
        return path
    return _by_descriptor(path, held)


def _by_descriptor(path: str, held: list[int]) -> str:
    held.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return f"/proc/self/fd/{held[-1]}"
