"""One stage from its FROM to its end: which state each instruction starts from and leads to."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse_trigger
from sampan.build.dockerfile.plan import SCRATCH, stage_of
from sampan.build.dockerfile.state import Applied, ArgScope, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.events import StepNote
from sampan.build.files.tree import Tree
from sampan.build.model import (
    BuildRequest,
    CopyOperation,
    Instruction,
    Plan,
    RunOperation,
    Stage,
    StateBefore,
)
from sampan.build.session import ClientSession
from sampan.build.solver.cache import BuildCache
from sampan.build.solver.execute import Executor
from sampan.build.solver.failures import Failures
from sampan.build.solver.inputs import InputsStore
from sampan.build.solver.named import NamedContexts
from sampan.build.solver.progress import Progress
from sampan.build.solver.sources import Surroundings
from sampan.build.solver.vertices import one_line, stage_names, trigger_names
from sampan.build.solver.voice import Name, Voice, internal, speaking, vertex_digest
from sampan.build.worker import BaseImage, Report, Worker
from sampan.errors import Denied, Internal, Invalid, NotFound, SampanError, Unauthorized, Unavailable
from sampan.oci.digest import Digest, hex_of
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS
from sampan.oci.manifest import Platform

MAX_TRIGGERS = 1000
MAX_TOLD = 32 << 20
"""Characters that all instructions of a build may put into histories and configurations."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386", "riscv64": "riscv64"}


class Told:
    """How much instructions have told so far. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = MAX_TOLD

    def beyond(self, text: str) -> bool:
        """Whether it is too much with `text`: what one stage has said others may say again, a variable at a time."""
        with self._lock:
            self._left -= len(text)
            return self._left < 0


@dataclass(frozen=True, slots=True)
class Common:
    """What all stages of a build share. `stop` is set when the build is cancelled or another stage has failed."""

    worker: Worker
    cache: BuildCache
    inputs: InputsStore | None
    request: BuildRequest
    plan: Plan
    context: Tree
    images: BuildImages
    contexts: NamedContexts
    failures: Failures
    total: int
    """Steps, as `Step 3/7` counts them."""
    stop: threading.Event
    stage_for: Callable[[int, Stage], Progress]
    """The end of the stage with that index, for a stage that needs it."""
    client: ClientSession
    begun: int = field(default_factory=time.time_ns)
    made: set[str] = field(default_factory=set)
    told: Told = field(default_factory=Told)


class BuildImages:
    """Images that a build names: each is resolved once, so that all of the build sees one image. Thread-safe.

    One that can't be had is asked for once, too: the other stages that stand on it end with the same error.
    """

    def __init__(self, worker: Worker, request: BuildRequest, stop: threading.Event) -> None:
        self._worker = worker
        self._request = request
        self._stop = stop
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._images: dict[str, BaseImage | SampanError] = {}

    def get(self, reference: str, platform: str | None, voice: Voice) -> BaseImage:
        """`voice` tells of the pull, if there has to be one."""
        key = f"{reference} {platform or ''}"
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._images:
                self._images[key] = self._resolved(reference, platform, voice)
            found = self._images[key]
        if isinstance(found, SampanError):
            raise found
        return found

    def _resolved(self, reference: str, platform: str | None, voice: Voice) -> BaseImage | SampanError:
        try:
            with internal(voice.report, f"[internal] load metadata for {reference}") as speaker:
                found = self._worker.resolve_image(
                    reference,
                    pull=self._request.pull,
                    platform=platform,
                    report=voice.transfer,
                    cancelled=self._stop,
                )
                own = str(Platform(found.config.architecture, found.config.os, found.config.variant))
                speaker.used(reference, "sha256", hex_of(found.origin or found.id), own)
                return found
        except SampanError as error:
            return error


@dataclass
class StageSteps:
    """`number`: of the last step that was announced. `names`: of FROM and the instructions, when they are known."""

    common: Common
    stage: Stage
    report: Report
    number: int
    names: Sequence[Name] = ()
    executor: Executor = field(init=False)
    _found: bool = False
    """The last step that works on files was found in the cache."""

    def __post_init__(self) -> None:
        common, request = self.common, self.common.request
        around = Surroundings(
            common.worker,
            common.cache,
            common.inputs,
            common.context,
            common.stop,
            common.begun,
            self._origin_of,
            common.client,
            common.made,
            request.proxies,
        )
        if not request.no_cache_stages.isdisjoint((self.stage.name, str(self.stage.index))):
            request = replace(request, no_cache=True)
        stage = self.stage
        base = stage.base or f"stage {stage.base_stage}"
        self.executor = Executor(around, request, stage.name or f"stage-{stage.index}", base)

    def perform(self) -> Progress:
        names = self.names or stage_names(self.stage, {}, self.common.plan)
        with self._step(self.stage.origin, names[0]) as voice:
            progress, triggers = self._start(voice)
            voice.image(progress.image_id())
        progress = self._run_triggers(progress, triggers, names[0])
        for instruction, name in zip(self.stage.instructions, names[1:], strict=True):
            with self._step(instruction, name) as voice:
                progress = self._apply(progress, instruction, voice)
                voice.image(progress.image_id())
        return progress

    @contextlib.contextmanager
    def _step(self, instruction: Instruction, name: Name, *, counted: bool = True) -> Iterator[Voice]:
        """An instruction is reached, and left. Raises the body's error as one that knows its place."""
        with self.common.failures.noted(instruction, name.vertex):
            if counted:
                self.announce(instruction.text, name.vertex)
            else:
                self.report(StepNote(self.stage.index, name.vertex))
            with speaking(self.report, name, self.stage.index) as voice:
                yield voice

    def _start(self, voice: Voice) -> tuple[Progress, tuple[str, ...]]:
        """FROM: the stage's first state, and the ONBUILD triggers of its base."""
        plan, stage, request = self.common.plan, self.stage, self.common.request
        scope = ArgScope(request.build_args, plan.global_args, plan.platform_args)
        if stage.base_stage is not None:
            before = self.common.stage_for(stage.base_stage, stage)
            triggers = before.state.config.on_build or ()
            # A stage inherits the build arguments that the stage it stands on has declared.
            state = replace(
                initial_state(before.state.config, scope, plan.escape), args=before.state.inherited_args()
            )
            base = msgspec.structs.replace(before.base, author=before.state.author or before.base.author)
            return replace(before, state=state, base=base), triggers
        if stage.base == SCRATCH and not stage.is_context:
            base = _empty_config(stage.platform or request.platform or host_platform())
            state = initial_state(ContainerDefaults(working_dir="/"), scope, plan.escape)
            return Progress(state, base, None, (), (), request.epoch), ()
        platform = stage.platform or request.platform
        found = self.common.contexts.find(stage.base, platform, voice) if stage.is_context else None
        if isinstance(found, Tree):
            return self._copied(stage.base, scope, voice), ()
        image = found or self._image(stage.base, platform, voice)
        defaults = image.config.defaults
        progress = Progress(
            initial_state(defaults, scope, plan.escape),
            image.config,
            image.id,
            image.diff_ids,
            image.config.history or (),
            request.epoch,
        )
        return progress, defaults.on_build or ()

    def _run_triggers(self, progress: Progress, triggers: tuple[str, ...], origin: Name) -> Progress:
        if not triggers:
            return progress
        if len(triggers) > MAX_TRIGGERS:
            raise Invalid(f"the base image has more than {MAX_TRIGGERS} build triggers")
        self.report(StepNote(self.stage.index, origin.vertex, triggers=len(triggers)))
        instructions = [parse_trigger(text) for text in triggers]
        for instruction, name in zip(
            instructions, trigger_names(self.stage, instructions, self.common.plan), strict=True
        ):
            if instruction.keyword in ("ONBUILD", "FROM", "MAINTAINER"):
                raise DockerfileError(
                    f"{instruction.keyword} isn't allowed as an ONBUILD trigger", self.stage.origin.place()
                )
            check(instruction)
            with self._step(self.stage.origin, name, counted=False) as voice:
                progress = self._apply(progress, instruction, voice)
        Voice(self.report, origin, self.stage.index).image(progress.image_id())
        return progress

    def _apply(self, progress: Progress, instruction: Instruction, voice: Voice) -> Progress:
        applied = apply(progress.state, instruction)
        if self.common.told.beyond(applied.history):
            raise DockerfileError(
                f"what the instructions say, with their variables, is longer than {MAX_TOLD} characters",
                instruction.place(),
            )
        with self.common.failures.standing(lambda: _state_before(progress, applied, instruction)):
            try:
                after = self.executor.step(progress, applied, instruction.place(), voice)
            except OSError as error:
                raise _told(error, instruction) from error
        if applied.operation is not None:
            self._found = voice.cached
        elif self._found:
            voice.found()  # nothing is looked for, but readers of the classic stream expect it
        return after

    def _copied(self, name: str, scope: ArgScope, voice: Voice) -> Progress:
        """A stage that begins with the files of a context."""
        plan = self.common.plan
        base = _empty_config(self.stage.platform or self.common.request.platform or host_platform())
        state = initial_state(ContainerDefaults(), scope, plan.escape)
        whole = CopyOperation((".",), (), "/", origin=name, chown="", chmod="", is_add=False, link=True)
        applied = Applied(state, f"COPY --from={name} . /", whole)
        progress = Progress(state, base, None, (), (), self.common.request.epoch)
        return self.executor.step(progress, applied, self.stage.origin.place(), voice)

    def _origin_of(self, origin: str, voice: Voice) -> tuple[Digest, ...] | Tree:
        """Of the stage, context or image that `from` names."""
        index = stage_of(origin, self.common.plan.names, len(self.common.plan.every_stage))
        if index is not None:
            return self.common.stage_for(index, self.stage).diff_ids
        found = self.common.contexts.find(origin, None, voice)
        if isinstance(found, Tree):
            return found
        return (found or self._image(origin, None, voice)).diff_ids

    def _image(self, name: str, platform: str | None, voice: Voice) -> BaseImage:
        try:
            return self.common.images.get(name, platform, voice)
        except (NotFound, Denied, Unauthorized, Unavailable) as error:
            raise _unresolved(error, name, list(self.common.plan.names)) from error

    def announce(self, text: str, vertex: Digest | None = None) -> None:
        self.number += 1
        total = max(self.common.total, self.number)
        vertex = vertex or vertex_digest(text)
        self.report(StepNote(self.stage.index, vertex, text, self.number, total))


def _state_before(progress: Progress, applied: Applied, instruction: Instruction) -> StateBefore:
    """With a RUN as it was to be done, or for another instruction as it would be begun."""
    operation, state = applied.operation, progress.state
    if not isinstance(operation, RunOperation):
        operation = RunOperation(
            args=(*state.shell, ""),
            env=state.run_environment(),
            key_args=(),
            cwd=state.cwd,
            user=state.config.user,
            network="",
            mounts=(),
            shown=one_line(instruction.text),
        )
    return StateBefore(progress.diff_ids, operation, progress.base.architecture)


def _unresolved(error: SampanError, name: str, stages: list[str]) -> SampanError:
    """The name in BuildKit's words, where the error does not have it, and the stage that may be meant by it."""
    told = name in error.message
    message = error.message if told else f"failed to resolve source metadata for {name}: {error.message}"
    close = difflib.get_close_matches(name.lower(), stages, n=1)
    hint = f"Did you mean the stage {close[0]}?" if close else error.hint
    kind = next(kind for kind in (NotFound, Denied, Unauthorized, Unavailable) if isinstance(error, kind))
    return kind(message, hint=hint)


def _told(error: OSError, instruction: Instruction) -> SampanError:
    """A system's error in the middle of a step, with the instruction that met it."""
    place = instruction.place()
    reason = (error.strerror or str(error)).lower()
    what = f"{error.filename}: {reason}" if error.filename else reason
    text = f"{instruction.keyword} failed on line {place.line} of {place.file}: {what}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space (`sampan system prune`) and build again: finished steps are cached"
        return Unavailable(text, hint=hint)
    return Internal(text)


def host_platform() -> str:
    """`os/architecture[/variant]` of this machine."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def _empty_config(platform: str) -> ImageConfig:
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    return ImageConfig(architecture=architecture, os=system, rootfs=RootFS(), variant=variant or None)
