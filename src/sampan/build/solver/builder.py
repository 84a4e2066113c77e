"""One build from start to end: Dockerfile, plan, execution, tags.

This is the only module that knows parsing, planning and executing; they know each other's values alone.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse, parse_trigger
from sampan.build.dockerfile.plan import SCRATCH, plan, stage_of
from sampan.build.dockerfile.state import PREDEFINED_ARGS, Applied, ArgScope, initial_state
from sampan.build.errors import BuildCancelled, DockerfileError
from sampan.build.files.context import context_tree, read_dockerfile
from sampan.build.model import BuildEvent, BuildRequest, Instruction, Plan, Stage
from sampan.build.solver.cache import BuildCache, CacheTable, MetadataTable, key_of
from sampan.build.solver.execute import Executor
from sampan.build.solver.progress import Progress
from sampan.build.solver.remote_format import encode_inline
from sampan.build.solver.sources import Surroundings
from sampan.build.solver.transfer import CacheTransfer, with_transfer
from sampan.build.worker import BaseImage, Report, Worker
from sampan.errors import Internal, Invalid, SampanError, Unavailable
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS, encode_image_config
from sampan.storage.metadata import Metadata

MAX_TRIGGERS = 1000
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386", "riscv64": "riscv64"}


class Builder:
    """Thread-safe: builds share nothing but the worker and the cache."""

    def __init__(
        self,
        worker: Worker,
        metadata: Metadata | None,
        *,
        table: CacheTable | None = None,
        touched: Callable[[str], None] = lambda _key: None,
        transfer: CacheTransfer | None = None,
    ) -> None:
        """`table` replaces the cache table of `metadata` (for tests); one of the two must be given.

        `touched` is told the keys of the cache that builds find or store. With `transfer`, which is of one
        build, this builder is for one build too; without it requests can't import or export caches.
        """
        self._worker = worker
        if table is None:
            if metadata is None:
                raise Invalid("a builder needs a metadata database or a cache table")
            table = MetadataTable(metadata)
        self._transfer = transfer
        imported = transfer.find if transfer is not None else lambda _key: None
        self.cache = BuildCache(table, worker.has_layer, touched, imported)

    def build(
        self, request: BuildRequest, context_fd: int, report: Report, cancelled: threading.Event
    ) -> Digest:
        """Build the image and tag it; its id.

        `context_fd` is a directory descriptor of the unpacked context; it stays the caller's. Blocks;
        `report` is called from this thread. Raises `DockerfileError`, `RunFailed` (with `exit_code`),
        `BuildCancelled`, `NotFound`, `Invalid`, ...; nothing half-made remains then.
        """
        dockerfile = parse(read_dockerfile(context_fd, request), request.dockerfile or "Dockerfile")
        platform = host_platform()
        planned = plan(
            dockerfile,
            build_args=request.build_args,
            target=request.target,
            build_platform=platform,
            target_platform=request.platform or platform,
        )

        def perform() -> Digest:
            self.cache.seen.clear()
            return _Build(self._worker, self.cache, request, planned, context_fd, report, cancelled).perform()

        if self._transfer is None:
            return perform()
        return with_transfer(self._transfer, self.cache, self._worker, request, perform, report, cancelled)


@dataclass
class _Build:
    worker: Worker
    cache: BuildCache
    request: BuildRequest
    plan: Plan
    context_fd: int
    report: Report
    cancelled: threading.Event
    done: dict[int, Progress] = field(default_factory=dict)
    images: dict[str, BaseImage] = field(default_factory=dict)
    under_way: list[int] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        around = Surroundings(
            self.worker,
            self.cache,
            context_tree(self.context_fd, self.request),
            self.report,
            self.cancelled,
            self._layers_of,
        )
        self.executor = Executor(around, self.request)
        self.uncached = Executor(around, replace(self.request, no_cache=True))
        self.total = self.plan.step_count + bool(self.request.labels)

    def perform(self) -> Digest:
        for instruction in self.plan.global_instructions:
            self._announce(instruction.text)
        for stage in self.plan.stages:
            self._stage(stage.index)
        result = self._with_labels(self.done[self.plan.target.index])
        image_id = self._store(result)
        self.report(BuildEvent(image_id=image_id))
        self._say(f"Successfully built {_short(image_id)}")
        for reference in self.request.tags:
            tagged = reference.with_default_tag()
            self.worker.tag(image_id, tagged)
            self._say(f"Successfully tagged {tagged.familiar}")
        self._warn_about_unused_args()
        return image_id

    def _stage(self, index: int) -> Progress:
        """The stage, built now unless it was before (an ONBUILD trigger may ask for one out of turn)."""
        if index in self.done:
            return self.done[index]
        stage = self.plan.every_stage[index]
        if index in self.under_way:
            raise DockerfileError(
                f"circular dependency detected on stage: {stage.name or index}", stage.origin.place()
            )
        self.under_way.append(index)
        self._announce(stage.origin.text)
        progress, triggers = self._start(stage)
        self._say_id(progress)
        progress = self._run_triggers(progress, triggers, stage)
        for instruction in stage.instructions:
            self._announce(instruction.text)
            progress = self._apply(progress, instruction, stage)
            self._say_id(progress)
        self.under_way.pop()
        self.done[index] = progress
        return progress

    def _start(self, stage: Stage) -> tuple[Progress, tuple[str, ...]]:
        """FROM: the stage's first state, and the ONBUILD triggers of its base."""
        scope = ArgScope(self.request.build_args, self.plan.global_args, self.plan.platform_args)
        if stage.base_stage is not None:
            before = self._stage(stage.base_stage)
            triggers = before.state.config.on_build or ()
            state = initial_state(before.state.config, scope, self.plan.escape)
            base = msgspec.structs.replace(before.base, author=before.state.author or before.base.author)
            progress = Progress(
                state,
                base,
                before.base_id,
                before.key,
                before.diff_ids,
                before.history,
                before.created,
                before.touched,
            )
            return progress, triggers
        if stage.base == SCRATCH:
            base = _empty_config(stage.platform or self.request.platform or host_platform())
            state = initial_state(ContainerDefaults(), scope, self.plan.escape)
            key = key_of("scratch", [base.os, base.architecture, base.variant or ""])
            return Progress(state, base, None, key, (), (), None), ()
        image = self._image(stage.base, stage.platform or self.request.platform)
        defaults = image.config.defaults
        progress = Progress(
            initial_state(defaults, scope, self.plan.escape),
            image.config,
            image.id,
            key_of("image", [image.id]),
            image.diff_ids,
            image.config.history or (),
            image.config.created,
        )
        return progress, defaults.on_build or ()

    def _run_triggers(self, progress: Progress, triggers: tuple[str, ...], stage: Stage) -> Progress:
        if not triggers:
            return progress
        if len(triggers) > MAX_TRIGGERS:
            raise Invalid(f"the base image has more than {MAX_TRIGGERS} build triggers")
        word = "trigger" if len(triggers) == 1 else "triggers"
        self._say(f"# Executing {len(triggers)} build {word}")
        for text in triggers:
            instruction = parse_trigger(text)
            if instruction.keyword in ("ONBUILD", "FROM", "MAINTAINER"):
                raise DockerfileError(
                    f"{instruction.keyword} isn't allowed as an ONBUILD trigger", stage.origin.place()
                )
            check(instruction)
            progress = self._apply(progress, instruction, stage)
        self._say_id(progress)
        return progress

    def _apply(self, progress: Progress, instruction: Instruction, stage: Stage) -> Progress:
        applied = apply(progress.state, instruction)
        filtered = not self.request.no_cache_stages.isdisjoint((stage.name, str(stage.index)))
        executor = self.uncached if filtered else self.executor
        try:
            return executor.step(progress, applied, instruction.place())
        except OSError as error:
            raise _told(error, instruction) from error

    def _with_labels(self, progress: Progress) -> Progress:
        """`--label`, added at the end, as one step."""
        labels = self.request.labels
        if not labels:
            return progress
        shown = "LABEL " + " ".join(f"{name}={value}" for name, value in labels.items())
        self._announce(shown)
        state = progress.state.with_config(labels={**(progress.state.config.labels or {}), **labels})
        progress = self.executor.step(progress, Applied(state, shown), self.plan.target.origin.place())
        self._say_id(progress)
        return progress

    def _store(self, progress: Progress) -> Digest:
        """Nothing is written when the image exists already."""
        config = progress.image_config()
        image_id = progress.image_id()
        if progress.touched and any(target.reference is None for target in self.request.cache_to):
            inline = encode_inline(self.cache.seen, progress.diff_ids)
            config = msgspec.structs.replace(config, inline_cache=inline)
            image_id = digest_of(encode_image_config(config))
        if image_id is None:
            raise Invalid(
                "No image was generated. Is your Dockerfile empty?", hint="FROM scratch alone makes no image"
            )
        if self.cancelled.is_set():
            raise BuildCancelled
        if progress.touched and not self.worker.has_image(image_id):
            return self.worker.create_image(config, progress.base_id)
        return image_id

    def _layers_of(self, origin: str) -> tuple[Digest, ...]:
        index = stage_of(origin, self.plan.names, len(self.plan.every_stage))
        if index is not None:
            return self._stage(index).diff_ids
        return self._image(origin, None).diff_ids

    def _image(self, reference: str, platform: str | None) -> BaseImage:
        """Resolved once per build, so that all of it sees one image."""
        key = f"{reference} {platform or ''}"
        if key not in self.images:
            self.images[key] = self.worker.resolve_image(
                reference,
                pull=self.request.pull,
                platform=platform,
                report=self.report,
                cancelled=self.cancelled,
            )
        return self.images[key]

    def _warn_about_unused_args(self) -> None:
        declared = {
            argument.partition("=")[0]
            for stage in self.plan.every_stage.values()
            for instruction in (*stage.instructions, *self.plan.global_instructions)
            if instruction.keyword == "ARG"
            for argument in instruction.args
        }
        unused = sorted(
            self.request.build_args.keys() - declared - PREDEFINED_ARGS - self.plan.platform_args.keys()
        )
        if unused:
            self._say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")

    def _announce(self, text: str) -> None:
        self.number += 1
        self._say(f"Step {self.number}/{max(self.total, self.number)} : {text}")

    def _say_id(self, progress: Progress) -> None:
        image_id = progress.image_id()
        self._say(f" ---> {_short(image_id) if image_id else ''}")

    def _say(self, line: str) -> None:
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


def _short(image_id: Digest) -> str:
    return hex_of(image_id)[:12]
