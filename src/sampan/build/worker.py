"""What the builder needs done by somebody who has layers, snapshots, images and a runtime.

The engine implements `Worker` on the real storage and launcher; `sampan.testing.fake_worker` does on plain
directories. All methods block and are called in threads; several builds use one worker at the same time.

Life of a step that changes files:

    snapshot = create_snapshot(diff_ids)          a writable layer on top of what exists
    run(...)  or  fd = open_root(...); write; close(fd)
    layer = adopt_snapshot(snapshot)              its upper directory becomes a layer; the snapshot is gone
    remove_snapshot(snapshot)                     instead, when the step failed or was cancelled

A descriptor of `open_root` must be closed before its snapshot is adopted or removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sampan.build.events import BuildEvent
from sampan.build.model import RunLimits
from sampan.build.session import Duplex
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig
from sampan.oci.reference import Reference
from sampan.registry.progress import Progress
from sampan.storage.layers import Layer

Report = Callable[[BuildEvent], None]
TransferReport = Callable[[Progress], None]

EMPTY_LAYER = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
"""The diff-id of a tar with no entry (1024 zero bytes): Docker leaves such layers out of an image."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    id: Digest
    config: ImageConfig
    diff_ids: tuple[Digest, ...]
    origin: Digest | None = None
    """Of the manifest or index that its name stood for where it came from."""


@dataclass(frozen=True, slots=True)
class RunMount:
    """A mount for one RUN. The mount point is created in the container's root when it is missing.

    bind: what lies at `path` in the directory that the descriptor `base` refers to, looked up as in a root file
    system of its own: no link leads out of it. `base` stays the caller's. Or `source`, the builder's own file on the
    host. `discard`: it can be written, and what was written is thrown away.
    tmpfs: `size` in bytes (0: the kernel's default).
    secret: `data` in a file that only memory holds, with `mode`, `uid` and `gid` as the step sees them.
    ssh: a socket with `mode`, `uid` and `gid`; each connection to it is joined with a new one that `connect` gives.
    """

    kind: Literal["bind", "tmpfs", "secret", "ssh"]
    target: str
    source: str = ""
    readonly: bool = False
    size: int = 0
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    base: int = -1
    path: str = ""
    discard: bool = False
    data: bytes = field(default=b"", repr=False)
    connect: Callable[[], Duplex] | None = None


@dataclass(frozen=True, slots=True)
class CacheWish:
    """The directory behind a `RUN --mount=type=cache`.

    A new one gets a copy of the directory behind the descriptor `seed`; `seed_key` says what that is: a cache that
    began with something else is another one. So is one with another owner or mode.
    """

    id: str
    sharing: Literal["shared", "private", "locked"] = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    seed_key: str = ""
    seed: int = -1


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A process to run to its end in a snapshot.

    `user` is the text of USER ("name", "uid", "name:group", ...), resolved by the worker in the root's
    /etc/passwd and /etc/group. `network`: "" or "default" (bridge), "none", "host", or a network's name.
    `extra_hosts`: "name:address". `shm_size` in bytes, 0 is the default (64 MiB). `architecture`: Go's name of the
    one that the image is for, "" when it does not say.
    """

    snapshot_id: str
    diff_ids: tuple[Digest, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str = ""
    network: str = ""
    mounts: tuple[RunMount, ...] = ()
    shm_size: int = 0
    limits: RunLimits = field(default_factory=RunLimits)
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    secret_env: tuple[str, ...] = field(default=(), repr=False)
    """`name=value`, for the process alone: kept nowhere."""
    architecture: str = ""
    insecure: bool = False
    """With every power that the engine itself has."""


class Worker(Protocol):
    def resolve_image(
        self,
        reference: str,
        *,
        pull: bool,
        platform: str | None,
        report: TransferReport,
        cancelled: threading.Event,
    ) -> BaseImage:
        """The image called `reference`; pulled when it is missing, or always with `pull`.

        Also accepts an image id or its prefix, as `docker build` does in FROM. Raises `NotFound`
        ("pull access denied ...", Docker's words) when there is none.
        """
        ...

    def known_config(self, reference: str, platform: str | None) -> ImageConfig | None:
        """The configuration of an image that is here; None when it would have to be pulled."""
        ...

    def has_layer(self, diff_id: Digest) -> bool:
        """Whether the layer is on disk, where it stays for this build; asked before a cache entry is believed."""
        ...

    def has_image(self, image_id: Digest) -> bool: ...

    def layers_of(self, image_id: Digest) -> tuple[Digest, ...]:
        """The diff-ids of an image that is here. Raises `NotFound`."""
        ...

    def create_snapshot(self, diff_ids: Sequence[Digest]) -> str:
        """A new writable layer on top of `diff_ids` (lowest first; may be empty: scratch)."""
        ...

    def open_root(self, diff_ids: Sequence[Digest], snapshot_id: str | None) -> int:
        """A directory descriptor of the assembled root, usable with `dir_fd=`; the caller closes it.

        Read-only when `snapshot_id` is None. Nothing else may use the snapshot while it is open.
        """
        ...

    def run(
        self, request: RunRequest, output: Callable[[int, bytes], None], cancelled: threading.Event
    ) -> int:
        """Run the process to its end; its exit status (128 + n when signal n ended it).

        `output(stream, data)` gets what it writes, stream 1 or 2, in order, from the calling thread. When
        `cancelled` is set the process is killed and the call returns soon. A command that can't be
        executed raises a `SampanError` with the runtime's words, or returns 126/127. HOME is set from
        /etc/passwd when the environment has none.
        An architecture that the host can't run raises `Unsupported`. The mount points and files that the
        runtime makes for itself (/etc/hosts, /etc/resolv.conf, /dev, ...) must not stay in the snapshot.
        """
        ...

    def adopt_snapshot(self, snapshot_id: str, *, latest: int | None = None) -> Layer:
        """The snapshot's changes become a layer, moved and not copied; the snapshot is gone afterwards.

        No file in it is newer than `latest` (seconds since 1970) when that is given.

        A snapshot without changes gives the layer `EMPTY_LAYER`, and nothing needs to be stored for it.
        """
        ...

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Throw the changes away; no error when it is gone already."""
        ...

    def open_cache(self, wish: CacheWish, cancelled: threading.Event) -> AbstractContextManager[int]:
        """A descriptor of the directory, made when missing; it is this step's as `wish.sharing` says until the end.

        `locked` waits for another step that has it, `private` takes another directory instead. Raises
        `BuildCancelled`.
        """
        ...

    def create_image(self, config: ImageConfig, parent: Digest | None) -> Digest:
        """Store an image whose layers exist; its id is the digest of the encoded configuration.

        Making one that exists already changes nothing. `parent` is the image that FROM named.
        """
        ...

    def tag(self, image_id: Digest, reference: Reference) -> None: ...
