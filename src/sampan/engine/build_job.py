"""A build from its request to where its result goes: once through the builder for each platform, then the exports."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
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
from sampan.build.solver.steps import host_platform
from sampan.build.solver.voice import vertex_digest
from sampan.build.worker import Report
from sampan.engine.build_attest import Statements
from sampan.engine.build_outputs import BuildOutputs, Surroundings, no_attestations
from sampan.engine.build_worker import EngineWorker
from sampan.engine.images import Images
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.storage.packing import platform_of_image

EXPORT = "exporting to image"
_SHARED = "[internal] load build "
"""Vertices that are the same for every platform begin so: definition and context."""


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
        request.attests,
        read_dockerfile(context.fd, request) if request.attests else b"",
        lambda: tools.worker.bases,
        lambda diff_ids: tools.worker.open_root(diff_ids, None),
        cancelled,
    )
    report = statements.listening(report)
    if len(platforms) == 1 and outputs == (Output("image"),) and not request.attests:
        one = replace(request, platform=platforms[0])
        tools.builder.build(one, context, report, cancelled, client, opener)
        return request.tags
    told = _Told(report)
    built = []
    for number, platform in enumerate(platforms, 1):
        one = replace(request, platform=platform, platforms=(), outputs=(), tags=())
        # Caches are read once, and written once, with what all platforms have done; but inline ones are in each image.
        if number > 1:
            one = replace(one, cache_from=())
        if number < len(platforms):
            one = replace(one, cache_to=tuple(target for target in one.cache_to if target.inline))
        heard = told.of(platform or "") if len(platforms) > 1 else told.single
        image = tools.worker.built(tools.builder.build(one, context, heard, cancelled, client, opener))
        built.append(PlatformImage(platform_of_image(image), image))
    around = Surroundings(
        tools.images,
        tools.credentials,
        client,
        report,
        cancelled,
        lambda diff_ids: tools.worker.open_root(diff_ids, None),
        host_platform(),
        statements if request.attests else no_attestations,
    )
    exports = BuildOutputs(around, built, request.tags)
    exports.perform(outputs)
    names = tuple(dict.fromkeys(name for one in outputs for name in exports.names_of(one)))
    report(BuildResult(exports.result, tuple(name.familiar for name in names), exports.response))
    return names


@dataclass(slots=True)
class _Told:
    """What the builder says, but for its own export and result: the job has others.

    With several platforms every vertex is one's, and named so; those that all share are told once.
    """

    report: Report
    left_out: set[Digest] = field(default_factory=set)
    shared: set[Digest] = field(default_factory=set)

    def single(self, event: BuildEvent) -> None:
        if isinstance(event, BuildResult):
            return
        if isinstance(event, Vertex) and event.name == EXPORT:
            self.left_out.add(event.digest)
        vertex = _vertex_of(event)
        if vertex is None or vertex not in self.left_out:
            self.report(event)

    def of(self, platform: str) -> Report:
        first = not self.shared

        def heard(event: BuildEvent) -> None:
            if isinstance(event, Vertex) and event.name.startswith(_SHARED):
                self.shared.add(event.digest)
            if _vertex_of(event) not in self.shared:
                self.single(_of_platform(event, platform))
            elif first:
                self.report(event)

        return heard


def _vertex_of(event: BuildEvent) -> Digest | None:
    if isinstance(event, Vertex):
        return event.digest
    if isinstance(event, StageOrder | BuildResult):
        return None
    return event.vertex


def _of_platform(event: BuildEvent, platform: str) -> BuildEvent:
    def own(vertex: Digest) -> Digest:
        return vertex_digest(platform, vertex)

    if isinstance(event, Vertex):
        name = event.name
        named = f"[{platform} {name[1:]}" if name.startswith("[") else name
        inputs = tuple(own(one) for one in event.inputs)
        return msgspec.structs.replace(event, digest=own(event.digest), name=named, inputs=inputs)
    if isinstance(event, StageOrder | BuildResult):
        return event
    if isinstance(event, StepNote) or event.vertex:
        return msgspec.structs.replace(event, vertex=own(event.vertex))
    return event
