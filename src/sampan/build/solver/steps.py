"""One stage from its FROM to its end: which state each instruction starts from and leads to."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse_trigger
from sampan.build.dockerfile.plan import SCRATCH, stage_of
from sampan.build.dockerfile.state import ArgScope, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.files.tree import Tree
from sampan.build.model import BuildEvent, BuildRequest, Instruction, Plan, Stage
from sampan.build.solver.cache import BuildCache, key_of
from sampan.build.solver.execute import Executor
from sampan.build.solver.progress import Progress
from sampan.build.solver.sources import Surroundings
from sampan.build.worker import BaseImage, Report, Worker
from sampan.errors import Internal, Invalid, SampanError, Unavailable
from sampan.oci.digest import Digest, hex_of
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS

MAX_TRIGGERS = 1000
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class Common:
    """What all stages of a build share. `stop` is set when the build is cancelled or another stage has failed."""

    worker: Worker
    cache: BuildCache
    request: BuildRequest
    plan: Plan
    context: Tree
    images: BuildImages
    total: int
    """Steps, as `Step 3/7` counts them."""
    stop: threading.Event
    stage_for: Callable[[int, Stage], Progress]
    """The end of the stage with that index, for a stage that needs it."""


class BuildImages:
    """Images that a build names: each is resolved once, so that all of the build sees one image. Thread-safe."""

    def __init__(self, worker: Worker, request: BuildRequest, stop: threading.Event) -> None:
        self._worker = worker
        self._request = request
        self._stop = stop
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._images: dict[str, BaseImage] = {}

    def get(self, reference: str, platform: str | None, report: Report) -> BaseImage:
        key = f"{reference} {platform or ''}"
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._images:
                self._images[key] = self._worker.resolve_image(
                    reference,
                    pull=self._request.pull,
                    platform=platform,
                    report=report,
                    cancelled=self._stop,
                )
            return self._images[key]


@dataclass
class StageSteps:
    """`number`: of the last step that was announced."""

    common: Common
    stage: Stage
    report: Report
    number: int
    executor: Executor = field(init=False)

    def __post_init__(self) -> None:
        common, request = self.common, self.common.request
        around = Surroundings(
            common.worker, common.cache, common.context, self.report, common.stop, self._layers_of
        )
        if not request.no_cache_stages.isdisjoint((self.stage.name, str(self.stage.index))):
            request = replace(request, no_cache=True)
        self.executor = Executor(around, request)

    def perform(self) -> Progress:
        self.announce(self.stage.origin.text)
        progress, triggers = self._start()
        self.say_id(progress)
        progress = self._run_triggers(progress, triggers)
        for instruction in self.stage.instructions:
            self.announce(instruction.text)
            progress = self._apply(progress, instruction)
            self.say_id(progress)
        return progress

    def _start(self) -> tuple[Progress, tuple[str, ...]]:
        """FROM: the stage's first state, and the ONBUILD triggers of its base."""
        plan, stage, request = self.common.plan, self.stage, self.common.request
        scope = ArgScope(request.build_args, plan.global_args, plan.platform_args)
        if stage.base_stage is not None:
            before = self.common.stage_for(stage.base_stage, stage)
            triggers = before.state.config.on_build or ()
            state = initial_state(before.state.config, scope, plan.escape)
            base = msgspec.structs.replace(before.base, author=before.state.author or before.base.author)
            return replace(before, state=state, base=base), triggers
        if stage.base == SCRATCH:
            base = _empty_config(stage.platform or request.platform or host_platform())
            state = initial_state(ContainerDefaults(), scope, plan.escape)
            key = key_of("scratch", [base.os, base.architecture, base.variant or ""])
            return Progress(state, base, None, key, (), (), None), ()
        image = self.common.images.get(stage.base, stage.platform or request.platform, self.report)
        defaults = image.config.defaults
        progress = Progress(
            initial_state(defaults, scope, plan.escape),
            image.config,
            image.id,
            key_of("image", [image.id]),
            image.diff_ids,
            image.config.history or (),
            image.config.created,
        )
        return progress, defaults.on_build or ()

    def _run_triggers(self, progress: Progress, triggers: tuple[str, ...]) -> Progress:
        if not triggers:
            return progress
        if len(triggers) > MAX_TRIGGERS:
            raise Invalid(f"the base image has more than {MAX_TRIGGERS} build triggers")
        word = "trigger" if len(triggers) == 1 else "triggers"
        self.say(f"# Executing {len(triggers)} build {word}")
        for text in triggers:
            instruction = parse_trigger(text)
            if instruction.keyword in ("ONBUILD", "FROM", "MAINTAINER"):
                raise DockerfileError(
                    f"{instruction.keyword} isn't allowed as an ONBUILD trigger", self.stage.origin.place()
                )
            check(instruction)
            progress = self._apply(progress, instruction)
        self.say_id(progress)
        return progress

    def _apply(self, progress: Progress, instruction: Instruction) -> Progress:
        applied = apply(progress.state, instruction)
        try:
            return self.executor.step(progress, applied, instruction.place())
        except OSError as error:
            raise _told(error, instruction) from error

    def _layers_of(self, origin: str) -> tuple[Digest, ...]:
        """Of the stage or image that `--from` names."""
        index = stage_of(origin, self.common.plan.names, len(self.common.plan.every_stage))
        if index is not None:
            return self.common.stage_for(index, self.stage).diff_ids
        return self.common.images.get(origin, None, self.report).diff_ids

    def announce(self, text: str) -> None:
        self.number += 1
        self.say(f"Step {self.number}/{max(self.common.total, self.number)} : {text}")

    def say_id(self, progress: Progress) -> None:
        image_id = progress.image_id()
        self.say(f" ---> {short(image_id) if image_id else ''}")

    def say(self, line: str) -> None:
        self.report(BuildEvent(stream=line + "\n"))


def _told(error: OSError, instruction: Instruction) -> SampanError:
    """A system's error in the middle of a step, with the instruction that met it."""
    place = instruction.place()
    text = f"{instruction.keyword} failed on line {place.line} of {place.file}: {error}"
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


def short(image_id: Digest) -> str:
    return hex_of(image_id)[:12]
