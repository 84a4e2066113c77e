"""What a process needs of the host before it enters a container's user namespace, where it is nobody on the host."""

from __future__ import annotations

import os
import socket
import stat
from typing import Final, NoReturn

import msgspec

from sampan.errors import Invalid, Unsupported
from sampan.linux import libc, mount
from sampan.linux import namespaces as ns
from sampan.linux.capabilities import FilesystemIds
from sampan.runtime import init, wire
from sampan.runtime.failure import Failure, failure_of
from sampan.runtime.overlay import Overlay
from sampan.runtime.plan import outside
from sampan.runtime.trees import map_ids

_FAILURES: Final[wire.Codec[Failure]] = wire.Codec(Failure)

Owner = tuple[int, int]
"""The host's user and group id of the container's root."""


def prepare(
    setup: init.Setup,
    channel: socket.socket,
    user_namespace: int,
    owner: Owner | None,
    *,
    idmapped: bool,
) -> init.Setup:
    """Root file system, mounts, standard streams and limits; the setup that is left to do inside.

    `user_namespace`: -1 when a running container is entered. `idmapped`: the root's layers hold ids as the container
    sees them.
    """
    if owner is not None:
        _own_stdio(setup.stdio or (), owner)
    root = setup.root
    if setup.overlay is not None and idmapped:
        if owner is None:
            raise Invalid("a root with mapped ids needs the mappings of its user namespace")
        root = open_idmapped(setup.overlay, user_namespace, owner)
    elif setup.overlay is not None:
        root = setup.overlay.open()
    setup = msgspec.structs.replace(setup, user_namespace=user_namespace, root=root, overlay=None)
    before, rest = outside(setup.plan())
    scene = init.Scene(setup, channel)
    for step in before:
        init.perform(scene, step)
    scene.close_proc()
    return msgspec.structs.replace(
        setup, plan=lambda: rest, trees=scene.trees, given=(), in_user_namespace=True
    )


def _own_stdio(stdio: tuple[int, ...], owner: Owner) -> None:
    """Pipes belong to the container's root: inside, nobody could give them to it any more."""
    for descriptor in stdio:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.fchown(descriptor, *owner)


def open_idmapped(overlay: Overlay, user_namespace: int, owner: Owner) -> int:
    """A detached overlay whose layers are shown with the ids that the user namespace maps them to.

    On the disk the ids stay those of the image: nothing is ever chowned. overlayfs makes files (whiteouts, its work
    directory) as who mounted it, and only mapped ids can be written: it is mounted with the file system ids of the
    container's root. The caller gets a mount namespace of its own, as layers have to be attached somewhere for that
    (before Linux 6.15). Raises `Unsupported`, `NotFound`, `Invalid`, `Internal`.
    """
    if overlay.upper is None or overlay.work is None:
        raise Invalid("a container's root with mapped ids has a writable layer")
    snapshot, upper = os.path.split(overlay.upper)
    other, work = os.path.split(overlay.work)
    if other != snapshot:
        raise Unsupported("upper and work directory of a root with mapped ids lie in one directory")
    ns.unshare(ns.NEWNS)
    base = f"{overlay.places}/empty"
    _attach(mount.make_filesystem("tmpfs", (("mode", "700"),)), base)
    os.mkdir(f"{base}/empty")
    lower = []
    for number, path in enumerate((*overlay.lower, snapshot)):
        place = f"{base}/{number}"
        os.mkdir(place)
        tree = mount.clone_tree(libc.AT_FDCWD, path)
        map_ids(tree, user_namespace, path)
        _attach(tree, place)
        lower.append(place)
    writable = lower.pop()
    mapped = msgspec.structs.replace(
        overlay, lower=tuple(lower), upper=f"{writable}/{upper}", work=f"{writable}/{work}", places=base
    )
    with FilesystemIds(*owner):
        return mapped.open()


def probe_idmapped_root(directory: str, places: str, user_namespace: int, owner: Owner) -> None:
    """Mount a root with mapped ids below `directory` (the caller's to remove) for a trial, in a process of its own.

    Raises `Unsupported` when this kernel, or the file system there, can't.
    """
    for name in ("layer", "upper", "work"):
        os.makedirs(f"{directory}/{name}", exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            if os.fork() == 0:
                _try_root(Overlay((f"{directory}/layer",), f"{directory}/upper", f"{directory}/work", places),
                          user_namespace, owner, theirs)  # fmt: skip
        failure, _ = _FAILURES.receive(ours)
    if failure is not None:
        raise Unsupported(
            f"the host can't show container root file systems with mapped ids: {failure.message}",
            hint=failure.hint or "overlayfs on idmapped layers takes Linux 5.19",
        )


def _try_root(overlay: Overlay, user_namespace: int, owner: Owner, answer: socket.socket) -> NoReturn:
    try:
        open_idmapped(overlay, user_namespace, owner)
    except BaseException as error:  # noqa: BLE001 - the border of the process: the caller hears of it
        wire.send(answer, failure_of(error))
    finally:
        os._exit(0)


def _attach(tree: int, path: str) -> None:
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.attach(tree, place, path)
    finally:
        os.close(place)
        os.close(tree)
