"""Operations carried out through a worker: each gives a layer, or finds that nothing changed.

Knows nothing of Dockerfiles: it is given operations. A step that fails or is cancelled leaves no snapshot.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sampan.build import consent
from sampan.build.dockerfile.state import Applied
from sampan.build.errors import BuildCancelled, RunFailed
from sampan.build.events import UsedSecret
from sampan.build.files.checksum import checksum
from sampan.build.files.copy import RootWriter
from sampan.build.files.owners import resolve_owner
from sampan.build.files.tree import Tree
from sampan.build.model import (
    BuildRequest,
    CopyOperation,
    MountOption,
    Place,
    RunOperation,
    WorkdirOperation,
)
from sampan.build.solver.cache import CacheEntry
from sampan.build.solver.explain import StepInputs, explain
from sampan.build.solver.inputs import inputs_of, with_copy, with_run
from sampan.build.solver.keys import chain_of, copy_key, dated_key, network_of, run_key, workdir_key
from sampan.build.solver.placing import Placing, accounts_of, ownership_of
from sampan.build.solver.progress import Progress, epoch_time
from sampan.build.solver.run_mounts import RunMounts
from sampan.build.solver.sources import CopySources, Surroundings, bind_sum
from sampan.build.solver.voice import Voice, timestamp
from sampan.build.worker import EMPTY_LAYER, RunRequest
from sampan.errors import Invalid, NotFound, SampanError
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig
from sampan.storage.image_model import created_seconds
from sampan.storage.layers import Layer

_LAST_OUTPUT = 8 << 10
"""Bytes of a failed command's output that are kept."""
_STDERR = 2
_WAITING = b"waiting for another build, or another stage of this one, that does this step already\n"
_HOSTNAME = "buildkitsandbox"
"""The same for every step, so that one which writes it down gives the same layer again; BuildKit's name."""
_ABOUT_SOURCES = ("file not found", "forbidden path", "no source files")


@dataclass(frozen=True, slots=True)
class Executor:
    """Of one stage."""

    around: Surroundings
    request: BuildRequest
    stage: str = ""
    """What people call the stage, and `base` what it begins with."""
    base: str = ""

    def step(self, progress: Progress, applied: Applied, where: Place, voice: Voice) -> Progress:
        """Do what `applied` asks for, or find it in the cache."""
        if self.around.cancelled.is_set():
            raise BuildCancelled
        operation = applied.operation
        if operation is None:
            return progress.advance(applied)
        if isinstance(operation, RunOperation):
            consent.require(consent.needed(operation.network, operation.security), self.request.entitlements)
            _tell_secrets(operation, voice)
        if isinstance(operation, CopyOperation):
            entry = self._copy_step(progress, applied, operation, voice)
        else:
            key = dated_key(self._key(progress, applied, operation, voice), self.request.epoch)
            entry = self._lookup(key, voice) or self._made(
                key,
                applied,
                voice,
                lambda: self._inputs_of(progress, applied, operation),
                lambda: self._layer_of(progress, operation, where, voice),
            )
        return progress.advance(applied, entry.created, Digest(entry.layer) if entry.layer else None)

    def _copy_step(
        self, progress: Progress, applied: Applied, operation: CopyOperation, voice: Voice
    ) -> CacheEntry:
        if operation.link and operation.chown:
            operation = replace(operation, chown=self._numbers(progress, operation.chown))
        # A linked layer is made on nothing, so that it fits on anything.
        below = () if operation.link else progress.diff_ids
        with _named(operation), CopySources(self.around, operation, voice) as sources:
            key = copy_key("" if operation.link else chain_of(below), operation, sources.content_key())
            key = dated_key(key, self.request.epoch)
            return self._lookup(key, voice) or self._made(
                key,
                applied,
                voice,
                lambda: with_copy(self._inputs(progress, applied), operation, sources.files()),
                lambda: self._copied(
                    below, operation, sources, 0 if operation.link else _time_of(progress.base)
                ),
            )

    def _numbers(self, progress: Progress, chown: str) -> str:
        """The owner in numbers, which mean the same on another base."""
        if all(part.isascii() and part.isdecimal() for part in chown.split(":")):
            return chown
        root_fd = self.around.worker.open_root(progress.diff_ids, None)
        try:
            uid, gid = resolve_owner(chown, accounts_of(root_fd))
            return f"{uid}:{gid}"
        finally:
            os.close(root_fd)

    def _key(
        self, progress: Progress, applied: Applied, operation: RunOperation | WorkdirOperation, voice: Voice
    ) -> str:
        chain = chain_of(progress.diff_ids)
        if isinstance(operation, WorkdirOperation):
            return workdir_key(chain, operation.path, operation.user)
        binds = [self._bind_sum(mount, voice) for mount in operation.mounts if mount.kind == "bind"]
        self.around.cache.mounts.update(mount.id for mount in operation.mounts if mount.kind == "cache")
        return run_key(chain, operation, applied.state, progress.base, self.request, binds)

    def _made(
        self,
        key: str,
        applied: Applied,
        voice: Voice,
        inputs: Callable[[], StepInputs],
        make: Callable[[], Layer | None],
    ) -> CacheEntry:
        """Done here, or by another stage or build that began with it earlier."""
        with self.around.cache.flights.alone(
            key, self.around.cancelled, lambda: voice.log(_STDERR, _WAITING)
        ):
            found = self._lookup(key, voice)
            if found is not None:
                return found
            self._note(key, voice, inputs)
            return self._remember(key, applied, make())

    def _note(self, key: str, voice: Voice, inputs: Callable[[], StepInputs]) -> None:
        """Keep what goes into the step for later builds, and tell what has changed since earlier ones."""
        store = self.around.inputs
        if store is None:
            return
        now = inputs()
        if self.request.explain:
            voice.explain(explain(now, store.earlier(now, self.around.begun), no_cache=self.request.no_cache))
        store.store(key, now)

    def _inputs(self, progress: Progress, applied: Applied) -> StepInputs:
        operation = applied.operation
        # The history of RUN has the arguments' values in it.
        shown = f"RUN {operation.shown}" if isinstance(operation, RunOperation) else applied.history
        return inputs_of(progress, self.stage, self.base, shown.removesuffix(" # buildkit"))

    def _inputs_of(
        self, progress: Progress, applied: Applied, operation: RunOperation | WorkdirOperation
    ) -> StepInputs:
        inputs = self._inputs(progress, applied)
        if isinstance(operation, WorkdirOperation):
            return inputs
        request = self.request
        settings = {
            "network": network_of(operation, request),
            "security": operation.security,
            "extra hosts": " ".join(request.extra_hosts),
            "limits": repr((sorted(request.limits.ulimits), request.shm_size)),
        }
        return with_run(inputs, operation, applied.state, settings)

    def _lookup(self, key: str, voice: Voice) -> CacheEntry | None:
        known = not self.request.no_cache or key in self.around.made
        entry = self.around.cache.lookup(key) if known else None
        if entry is not None:
            voice.found()
        return entry

    def _remember(self, key: str, applied: Applied, layer: Layer | None) -> CacheEntry:
        changed = layer is not None and layer.diff_id != EMPTY_LAYER
        entry = CacheEntry(
            created=timestamp() if self.request.epoch is None else epoch_time(self.request.epoch),
            layer=layer.diff_id if layer is not None and changed else "",
            size=layer.size if layer is not None else 0,
            step=applied.history[:200],
        )
        self.around.cache.store(key, entry)
        self.around.made.add(key)
        return entry

    def _bind_sum(self, mount: MountOption, voice: Voice) -> str:
        tree = self.around.context
        if mount.origin:
            origin = self.around.origin_of(mount.origin, voice)
            if not isinstance(origin, Tree):
                return bind_sum(self.around, origin, mount.source)
            tree = origin
        return checksum(tree, [tree.exactly(mount.source)], self.around.cancelled)

    def _layer_of(
        self, progress: Progress, operation: RunOperation | WorkdirOperation, where: Place, voice: Voice
    ) -> Layer | None:
        if isinstance(operation, RunOperation):
            return self._run(progress, operation, where, voice)
        return self._make_workdir(progress, operation)

    @contextlib.contextmanager
    def _snapshot(self, below: Sequence[Digest]) -> Iterator[_Change]:
        """A writable layer that becomes a real one, or is removed when the body fails."""
        worker = self.around.worker
        change = _Change(worker.create_snapshot(below))
        try:
            yield change
            if self.around.cancelled.is_set():
                raise BuildCancelled
            change.layer = worker.adopt_snapshot(change.snapshot_id, latest=self.request.epoch)
        except BaseException as error:
            try:
                worker.remove_snapshot(change.snapshot_id)
            except (SampanError, OSError) as failure:
                error.add_note(f"snapshot {change.snapshot_id} could not be removed either: {failure}")
            raise

    def _run(self, progress: Progress, operation: RunOperation, where: Place, voice: Voice) -> Layer:
        with self._run_mounts(voice) as mounts, self._snapshot(progress.diff_ids) as change:
            mounts.prepare(operation)
            name = change.snapshot_id[:12]
            voice.running(name)
            request = RunRequest(
                snapshot_id=change.snapshot_id,
                diff_ids=progress.diff_ids,
                args=operation.args,
                env=mounts.env + operation.env,
                cwd=operation.cwd,
                user=operation.user,
                network=network_of(operation, self.request),
                mounts=tuple(mounts.mounts),
                shm_size=self.request.shm_size,
                limits=self.request.limits,
                extra_hosts=self.request.extra_hosts,
                hostname=operation.hostname or _HOSTNAME,
                secret_env=mounts.secret_env,
                architecture=progress.base.architecture,
                insecure=operation.security == "insecure",
            )
            output = _Output(voice)
            status = self.around.worker.run(request, output.write, self.around.cancelled)
            if self.around.cancelled.is_set():
                raise BuildCancelled
            if status != 0:
                raise RunFailed(operation.shown, status, where, output.last())
            voice.removed(name)
        return change.made()

    def _run_mounts(self, voice: Voice) -> RunMounts:
        around = self.around
        return RunMounts(
            around.worker,
            around.client,
            around.context,
            lambda origin: around.origin_of(origin, voice),
            around.cancelled,
        )

    def _make_workdir(self, progress: Progress, operation: WorkdirOperation) -> Layer | None:
        """No layer when the directory is there already."""
        root_fd = self.around.worker.open_root(progress.diff_ids, None)
        try:
            _, found = RootWriter(root_fd, self.around.cancelled).resolve(operation.path)
        finally:
            os.close(root_fd)
        if found is not None:
            if not stat.S_ISDIR(found.st_mode):
                raise Invalid(f"Cannot mkdir: {operation.path} is not a directory")
            return None
        below = progress.diff_ids
        with self._snapshot(below) as change, self._writer(below, change) as (writer, root_fd):
            owner = resolve_owner(operation.user, accounts_of(root_fd)) if operation.user else (0, 0)
            writer.make_directory(operation.path, owner)
            writer.settle(_time_of(progress.base))
        return change.made()

    @contextlib.contextmanager
    def _writer(self, below: Sequence[Digest], change: _Change) -> Iterator[tuple[RootWriter, int]]:
        """The snapshot's root, open for writing; closed again before the snapshot is adopted."""
        root_fd = self.around.worker.open_root(below, change.snapshot_id)
        try:
            yield RootWriter(root_fd, self.around.cancelled), root_fd
        finally:
            os.close(root_fd)

    def _copied(
        self, below: Sequence[Digest], operation: CopyOperation, sources: CopySources, undated_ns: int
    ) -> Layer:
        sources.selections()
        sources.downloads()
        sources.repositories.trees()
        with self._snapshot(below) as change, self._writer(below, change) as (writer, root_fd):
            Placing(
                writer, root_fd, operation, sources, ownership_of(operation, root_fd), undated_ns
            ).perform()
        return change.made()


def _tell_secrets(operation: RunOperation, voice: Voice) -> None:
    for mount in operation.mounts:
        if mount.kind in ("secret", "ssh"):
            voice.report(UsedSecret(voice.vertex, mount.kind, mount.id, mount.required))


def _time_of(base: ImageConfig) -> int:
    """Nanoseconds. What is made and has no time of its own is as old as the image below, on every machine."""
    return int(created_seconds(base)) * 10**9


@dataclass(slots=True)
class _Change:
    snapshot_id: str
    layer: Layer | None = None

    def made(self) -> Layer:
        if self.layer is None:
            raise Invalid(f"snapshot {self.snapshot_id} was not adopted")
        return self.layer


@dataclass(slots=True)
class _Output:
    """Passes on what a command writes and keeps the end of it."""

    voice: Voice
    tail: bytearray = field(default_factory=bytearray)

    def write(self, stream: int, data: bytes) -> None:
        self.tail += data
        del self.tail[:-_LAST_OUTPUT]
        self.voice.log(stream, data)

    def last(self) -> str:
        return self.tail.decode("utf-8", "replace")


@contextlib.contextmanager
def _named(operation: CopyOperation) -> Iterator[None]:
    """Docker begins the messages about sources with the instruction's name."""
    keyword = "ADD" if operation.is_add else "COPY"
    try:
        yield
    except (NotFound, Invalid) as error:
        if type(error) not in (NotFound, Invalid) or not error.message.startswith(_ABOUT_SOURCES):
            raise
        raise type(error)(f"{keyword} failed: {error.message}", hint=error.hint) from error
