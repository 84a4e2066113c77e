"""A build from its request to where its result goes: once through the builder for each platform, then the exports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import msgspec

from sampan.build.contexts import ContextOpener
from sampan.build.events import BuildEvent, BuildResult, StageOrder, StepNote, Vertex
from sampan.build.files.context import Context, read_dockerfile
from sampan.build.model import BuildRequest
from sampan.build.output_options import Output
from sampan.build.result import PlatformImage
from sampan.build.session import ClientSession
from sampan.build.solver.builder import Builder
from sampan.build.solver.schedule import LinkedEvent
from sampan.build.solver.steps import host_platform
from sampan.build.solver.voice import vertex_digest
from sampan.build.worker import Report
from sampan.engine.build_attest import Statements
from sampan.engine.build_outputs import Attest, BuildOutputs, Surroundings, no_attestations
from sampan.engine.build_worker import EngineWorker
from sampan.engine.images import Images
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.storage.packing import platform_of_image

EXPORT = "exporting to image"
_SHARED = "[internal] load build "
"""Vertices that are the same for every platform begin so: definition and context."""
_STAGES = 100_000
"""More stages than a Dockerfile has."""
MAX_PLATFORMS = 4
"""Built at a time."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Of one build."""

    builder: Builder
    worker: EngineWorker
    images: Images
    credentials: Mapping[str, Credentials]


def run_job(
    tools: Tools,
    request: BuildRequest,
    context: Context,
    report: Report,
    cancelled: threading.Event,
    client: ClientSession,
    opener: ContextOpener,
) -> Sequence[Reference]:
    """Build and bring the result where the request says; the names that were given. Raises as `Builder.build`."""
    platforms: Sequence[str | None] = request.platforms or (request.platform,)
    outputs = request.outputs or (Output("image"),)
    statements = Statements(
        request,
        context,
        request.attests,
        read_dockerfile(context.fd, request) if request.attests else b"",
        lambda diff_ids: tools.worker.open_root(diff_ids, None),
        cancelled,
    )
    report = statements.listening(report)
    if len(platforms) == 1 and outputs == (Output("image"),) and not request.attests:
        one = replace(request, platform=platforms[0])
        tools.builder.build(one, context, report, cancelled, client, opener)
        return request.tags
    told = _Told(report)
    one = replace(request, platform=platforms[0], platforms=(), outputs=(), tags=())

    def build(builder: Builder, wanted: BuildRequest, heard: Report, stop: threading.Event) -> Digest:
        return builder.build(wanted, context, heard, stop, client, opener)

    if len(platforms) == 1:
        found = [build(tools.builder, one, told.single, cancelled)]
    else:
        reports = [
            statements.listening(told.of(platform, number), platform)
            for number, platform in enumerate(request.platforms)
        ]
        found = _together(tools, request, one, told, reports, build, cancelled)
    images = [tools.worker.built(image_id) for image_id in found]
    built = [
        PlatformImage(platform_of_image(image), image, asked or "")
        for image, asked in zip(images, platforms, strict=True)
    ]
    attest = statements if request.attests else no_attestations
    return _export(tools, request, outputs, built, attest, report, cancelled, client)


def _export(
    tools: Tools,
    request: BuildRequest,
    outputs: Sequence[Output],
    built: Sequence[PlatformImage],
    attest: Attest,
    report: Report,
    cancelled: threading.Event,
    client: ClientSession,
) -> Sequence[Reference]:
    """Bring the images where the outputs say; the names that were given."""
    around = Surroundings(
        tools.images,
        tools.credentials,
        client,
        report,
        cancelled,
        lambda diff_ids: tools.worker.open_root(diff_ids, None),
        host_platform(),
        attest,
    )
    exports = BuildOutputs(around, built, request.tags)
    exports.perform(outputs)
    names = tuple(dict.fromkeys(name for one in outputs for name in exports.names_of(one)))
    report(BuildResult(exports.result, tuple(name.familiar for name in names), exports.response))
    return names


def _together(
    tools: Tools,
    request: BuildRequest,
    one: BuildRequest,
    told: _Told,
    reports: Sequence[Report],
    build: Callable[[Builder, BuildRequest, Report, threading.Event], Digest],
    cancelled: threading.Event,
) -> list[Digest]:
    """The images of all platforms, built at the same time; when one fails the others are given up.

    One after the other with imported caches: the platforms would take from one transfer, which begins anew for
    all when a layer that was promised can't be had. Caches are exported once, but inline ones are in each image.
    """
    stop = LinkedEvent(cancelled)
    builders = [tools.builder.another() for _ in request.platforms]
    inline = tuple(target for target in request.cache_to if target.inline)
    failures: list[BaseException] = []

    def work(number: int) -> Digest:
        platform = request.platforms[number]
        wanted = replace(one, platform=platform, cache_to=inline, cache_from=() if number else one.cache_from)
        try:
            return build(builders[number], wanted, reports[number], stop)
        except BaseException as error:
            failures.append(error)
            stop.set()
            raise

    with ThreadPoolExecutor(1 if request.cache_from else MAX_PLATFORMS, "platform") as pool:
        futures = [pool.submit(work, number) for number in range(len(builders))]
        wait(futures)
    if failures:
        raise failures[0]  # the later ones were only told to stop
    images = [future.result() for future in futures]
    exported = replace(request, cache_to=tuple(target for target in request.cache_to if not target.inline))
    tools.builder.export_together(exported, builders, images, told.single, cancelled)
    return images


@dataclass(slots=True)
class _Told:
    """What the builder says, but for its own export and result: the job has others.

    With several platforms every vertex is one's, and named so; those that all share are told once.
    """

    report: Report
    left_out: set[Digest] = field(default_factory=set)
    shared: set[Digest] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def single(self, event: BuildEvent) -> None:
        with self.lock:
            self._single(event)

    def _single(self, event: BuildEvent) -> None:
        if isinstance(event, BuildResult):
            return
        if isinstance(event, Vertex) and event.name == EXPORT:
            self.left_out.add(event.digest)
        vertex = _vertex_of(event)
        if vertex is None or vertex not in self.left_out:
            self.report(event)

    def of(self, platform: str, number: int) -> Report:
        """`number`: of the platform, from 0."""

        def heard(event: BuildEvent) -> None:
            with self.lock:
                if isinstance(event, Vertex) and event.name.startswith(_SHARED):
                    self.shared.add(event.digest)
                if _vertex_of(event) not in self.shared:
                    self._single(_of_platform(event, platform, number * _STAGES))
                elif number == 0:
                    self.report(event)

        return heard


def _vertex_of(event: BuildEvent) -> Digest | None:
    if isinstance(event, Vertex):
        return event.digest
    if isinstance(event, StageOrder | BuildResult):
        return None
    return event.vertex


def _of_platform(event: BuildEvent, platform: str, offset: int) -> BuildEvent:
    """`offset`: what its stages' numbers begin from, so that those of several platforms are apart."""

    def own(vertex: Digest) -> Digest:
        return vertex_digest(platform, vertex)

    if isinstance(event, Vertex):
        name = event.name
        named = f"[{platform} {name[1:]}" if name.startswith("[") else name
        inputs = tuple(own(one) for one in event.inputs)
        return msgspec.structs.replace(event, digest=own(event.digest), name=named, inputs=inputs)
    if isinstance(event, BuildResult):
        return event
    if isinstance(event, StageOrder):
        return StageOrder(tuple(stage + offset for stage in event.stages))
    if isinstance(event, StepNote) and event.stage >= 0:
        event = msgspec.structs.replace(event, stage=event.stage + offset)
    if isinstance(event, StepNote) or event.vertex:
        return msgspec.structs.replace(event, vertex=own(event.vertex))
    return event
