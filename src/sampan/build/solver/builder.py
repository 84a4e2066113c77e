"""One build from start to end: Dockerfile, plan, execution, tags.

This is the only module that knows parsing, planning and executing; they know each other's values alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from sampan.build import consent
from sampan.build.contexts import ContextOpener, NoContexts
from sampan.build.dockerfile.builtin_args import BUILTIN_ARGS
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.dockerfile.run_flags import check_run
from sampan.build.dockerfile.state import EPOCH_ARG, PREDEFINED_ARGS, Applied
from sampan.build.errors import BuildCancelled, DockerfileError
from sampan.build.events import BuildEvent, BuildResult, StageOrder, StepNote
from sampan.build.files.context import Context, context_tree, read_dockerfile
from sampan.build.files.tree import Tree
from sampan.build.model import BuildRequest, Plan, Stage
from sampan.build.session import NO_CLIENT, ClientSession
from sampan.build.solver.cache import BuildCache, CacheTable, MetadataTable
from sampan.build.solver.failures import Failures
from sampan.build.solver.flights import Flights
from sampan.build.solver.inputs import InputsStore
from sampan.build.solver.named import NamedContexts
from sampan.build.solver.progress import Progress
from sampan.build.solver.remote_format import encode_inline
from sampan.build.solver.schedule import Circle, LinkedEvent, Once, perform
from sampan.build.solver.steps import BuildImages, Common, StageSteps, host_platform
from sampan.build.solver.transfer import CacheTransfer, Seen, export_caches, with_transfer
from sampan.build.solver.vertices import announced, plan_names
from sampan.build.solver.voice import INTERNAL, Name, Voice, internal, vertex_digest
from sampan.build.solver.warnings import tell_findings, tell_front_end
from sampan.build.worker import Report, Worker
from sampan.errors import Invalid, SampanError
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import encode_image_config
from sampan.storage.metadata import Metadata


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
        flights: Flights | None = None,
        inputs: InputsStore | None = None,
        loosened: Callable[[Digest], None] = lambda _layer: None,
    ) -> None:
        """`table` replaces the cache table of `metadata` (for tests); one of the two must be given.

        `touched` is told the keys of the cache that builds find or store, `loosened` the layers that entries had
        before they got others. With `transfer`, which is of one
        build, this builder is for one build too; without it requests can't import or export caches.
        `flights` is shared by builders whose equal steps, done at the same time, are to be done once; in `inputs`,
        if there is one, builds keep what went into the steps that they had to do.
        """
        self._worker = worker
        if table is None:
            if metadata is None:
                raise Invalid("a builder needs a metadata database or a cache table")
            table = MetadataTable(metadata)
        self._transfer = transfer
        self._inputs = inputs
        self._table = table
        self._touched = touched
        self._loosened = loosened
        imported = transfer.find if transfer is not None else lambda _key: None
        self.cache = BuildCache(table, worker.has_layer, touched, imported, flights, loosened)

    def another(self) -> Builder:
        """For another platform of the same build, at the same time."""
        return Builder(
            self._worker,
            None,
            table=self._table,
            touched=self._touched,
            transfer=self._transfer,
            flights=self.cache.flights,
            inputs=self._inputs,
            loosened=self._loosened,
        )

    def export_together(
        self,
        request: BuildRequest,
        others: Sequence[Builder],
        images: Sequence[Digest],
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        """Export what several builders have seen for the platforms of one build, as one cache each target."""
        if self._transfer is None or not request.cache_to:
            return
        records = {key: entry for one in others for key, entry in one.cache.seen.items()}
        layers = dict.fromkeys(layer for image in images for layer in self._worker.layers_of(image))
        mounts = {mount for one in others for mount in one.cache.mounts}
        seen = Seen(records, tuple(layers), frozenset(mounts))
        export_caches(self._transfer, request.cache_to, seen, report, cancelled)

    def build(
        self,
        request: BuildRequest,
        context: Context,
        report: Report,
        cancelled: threading.Event,
        client: ClientSession = NO_CLIENT,
        opener: ContextOpener | None = None,
    ) -> Digest:
        """Build the image and tag it; its id.

        `context` is open as long as the build goes on. `client` is asked for secrets and agents, and given what is to
        be stored on its side; `opener` for named contexts. Blocks; `report` is called by one thread at a time.
        Raises `DockerfileError`, `RunFailed` (with `exit_code`), `BuildCancelled`, `NotFound`, `Invalid`, ...; nothing
        half-made remains then.
        """
        one_at_a_time = threading.Lock()

        def told(event: BuildEvent) -> None:
            with one_at_a_time:
                report(event)

        with internal(told, _loading(request)):
            source = read_dockerfile(context.fd, request)
        failures = Failures(source)
        try:
            tree = context_tree(context, request)
            return self._build(
                request, source, failures, tree, told, cancelled, client, opener or NoContexts()
            )
        except SampanError as error:
            failure = failures.find(error)
            if failure is not None:
                told(failure)
            raise

    def _build(
        self,
        request: BuildRequest,
        source: bytes,
        failures: Failures,
        context: Tree,
        report: Report,
        cancelled: threading.Event,
        client: ClientSession,
        opener: ContextOpener,
    ) -> Digest:
        planned = self._checked_plan(request, source, failures, context.fd, report)

        def once() -> Digest:
            self.cache.seen.clear()
            self.cache.mounts.clear()
            return _Build(
                self._worker,
                self.cache,
                self._inputs,
                request,
                planned,
                failures,
                context,
                report,
                cancelled,
                client,
                opener,
            ).perform()

        if self._transfer is None:
            return once()
        return with_transfer(self._transfer, self.cache, self._worker, request, once, report, cancelled)

    def _checked_plan(
        self, request: BuildRequest, source: bytes, failures: Failures, context_fd: int, report: Report
    ) -> Plan:
        """Whatever can be known to be wrong before any step is done ends the build here."""
        dockerfile = parse(source, request.dockerfile or "Dockerfile")
        platform = host_platform()
        planned = plan(
            dockerfile,
            build_args=request.build_args,
            target=request.target,
            build_platform=platform,
            target_platform=request.platform or platform,
            contexts=request.contexts,
        )
        for instruction in (one for stage in planned.stages for one in stage.instructions):
            if instruction.keyword == "RUN":
                check_run(instruction)
        for instruction, wanted in consent.wanted_by(planned):
            with failures.noted(instruction, Digest("")):
                consent.require(wanted, request.entitlements)
        loaded = vertex_digest(_loading(request))
        tell_front_end(dockerfile, request, report, loaded)
        tell_findings(
            dockerfile,
            planned,
            request,
            context_fd,
            platform,
            self._worker.known_config,
            report,
            loaded,
        )
        return planned


@dataclass
class _Build:
    worker: Worker
    cache: BuildCache
    inputs: InputsStore | None
    request: BuildRequest
    plan: Plan
    failures: Failures
    context: Tree
    report: Report
    cancelled: threading.Event
    client: ClientSession
    opener: ContextOpener

    def __post_init__(self) -> None:
        self.stop = LinkedEvent(self.cancelled)
        self.names = plan_names(self.plan)
        self.stages = Once(self._perform_stage)
        images = BuildImages(self.worker, self.request, self.stop)
        self.common = Common(
            self.worker,
            self.cache,
            self.inputs,
            self.request,
            self.plan,
            self.context,
            images,
            NamedContexts(self.request, self.opener, images.get, self.stop),
            self.failures,
            self.plan.step_count + bool(self.request.labels),
            self.stop,
            self._stage_for,
            self.client,
        )
        self.numbers = _first_numbers(self.plan)

    def perform(self) -> Digest:
        self.report(StageOrder(tuple(stage.index for stage in self.plan.stages)))
        for vertex in announced(self.names):
            self.report(vertex)
        steps = StageSteps(self.common, replace(self.plan.target, index=INTERNAL), self.report, 0)
        for instruction in self.plan.global_instructions:
            steps.announce(instruction.text)
        with self.common.contexts:
            result = self._perform_stages()
        steps.number = self.plan.step_count
        result = self._with_labels(result, steps)
        with internal(self.report, "exporting to image") as voice:
            image_id = self._store(result)
            voice.did(f"writing image {image_id}")
            tags = [reference.with_default_tag() for reference in self.request.tags]
            for tag in tags:
                self.worker.tag(image_id, tag)
                voice.did(f"naming to {tag}")
        self.report(BuildResult(image_id, tuple(tag.familiar for tag in tags)))
        self._warn_about_unused_args(voice)
        return image_id

    def _perform_stages(self) -> Progress:
        """All that the target needs; the target's end."""
        order = [stage.index for stage in self.plan.stages]
        perform(order, {stage.index: stage.needs for stage in self.plan.stages}, self.stages.get, self.stop)
        return self.stages.get(self.plan.target.index)

    def _perform_stage(self, index: int) -> Progress:
        stage = self.plan.every_stage[index]
        number = self.numbers.get(index, self.common.total)
        names = self.names.get(index, ())
        progress = StageSteps(self.common, stage, self.report, number, names).perform()
        self.report(StepNote(index, Digest(""), ended=True))
        return progress

    def _stage_for(self, index: int, asking: Stage) -> Progress:
        """The stage, built now unless it was before (an ONBUILD trigger may ask for one out of turn)."""
        try:
            return self.stages.get(index, asking=asking.index)
        except Circle as circle:
            stage = self.plan.every_stage[circle.stage]
            raise DockerfileError(
                f"circular dependency detected on stage: {stage.name or stage.index}", stage.origin.place()
            ) from circle

    def _with_labels(self, progress: Progress, steps: StageSteps) -> Progress:
        """`--label`, added at the end, as one step."""
        labels = self.request.labels
        if not labels:
            return progress
        shown = "LABEL " + " ".join(f"{name}={value}" for name, value in labels.items())
        steps.announce(shown)
        state = progress.state.with_config(labels={**(progress.state.config.labels or {}), **labels})
        voice = Voice(self.report, Name(vertex_digest(shown)))
        place = self.plan.target.origin.place()
        progress = steps.executor.step(progress, Applied(state, shown), place, voice)
        voice.image(progress.image_id())
        return progress

    def _store(self, progress: Progress) -> Digest:
        """Nothing is written when the image exists already."""
        base = progress.base_id
        if base is None:
            progress = replace(progress, touched=True)  # FROM scratch alone is an image too, as in BuildKit
        config = progress.image_config()
        if progress.touched and any(target.inline for target in self.request.cache_to):
            config = msgspec.structs.replace(
                config, inline_cache=encode_inline(self.cache.seen, progress.diff_ids)
            )
        image_id = (
            base if base is not None and not progress.touched else digest_of(encode_image_config(config))
        )
        if self.cancelled.is_set():
            raise BuildCancelled
        if progress.touched and not self.worker.has_image(image_id):
            return self.worker.create_image(config, progress.base_id)
        return image_id

    def _warn_about_unused_args(self, voice: Voice) -> None:
        declared = {
            argument.partition("=")[0]
            for stage in self.plan.every_stage.values()
            for instruction in (*stage.instructions, *self.plan.global_instructions)
            if instruction.keyword == "ARG"
            for argument in instruction.args
        }
        unused = sorted(
            self.request.build_args.keys()
            - declared
            - PREDEFINED_ARGS
            - self.plan.platform_args.keys()
            - {EPOCH_ARG}
            - BUILTIN_ARGS
        )
        if unused:
            voice.warn(f"One or more build-args [{' '.join(unused)}] were not consumed")


def _loading(request: BuildRequest) -> str:
    return f"[internal] load build definition from {request.dockerfile or 'Dockerfile'}"


def _first_numbers(plan: Plan) -> dict[int, int]:
    """For each planned stage the number of steps before it, as `Step 3/7` counts them."""
    numbers, number = {}, len(plan.global_instructions)
    for stage in plan.stages:
        numbers[stage.index] = number
        number += 1 + len(stage.instructions)
    return numbers
