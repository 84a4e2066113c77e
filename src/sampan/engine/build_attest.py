"""What an engine says about a build's result: facts are gathered while it goes on, statements are made at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from sampan.build.attest.options import Attests
from sampan.build.attest.provenance import Facts, Material, Step, Wanted, predicate
from sampan.build.attest.scan import scan
from sampan.build.attest.spdx import document
from sampan.build.attest.statement import SPDX_DOCUMENT, attestation, package_url
from sampan.build.dockerfile.contexts import DIRECTORY
from sampan.build.dockerfile.state import PREDEFINED_ARGS
from sampan.build.events import BuildEvent, UsedSecret, UsedSource
from sampan.build.fetch.git_url import redacted
from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.result import PlatformImage
from sampan.build.solver.steps import host_platform
from sampan.build.worker import Report
from sampan.engine.model import new_id
from sampan.errors import Invalid
from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.image_model import Image

OpenRoot = Callable[[Sequence[Digest]], int]
_DOCUMENT_TIME = "%Y-%m-%dT%H:%M:%SZ"
"""SPDX 2.3, 6.9: whole seconds."""


@dataclass
class _Heard:
    """Of what is built for one platform; its stages tell in any order."""

    sources: set[UsedSource] = field(default_factory=set)
    asked: dict[str, dict[str, bool]] = field(default_factory=lambda: {"secret": {}, "ssh": {}})
    """By kind and id, whether any step can't do without."""

    def asks(self, event: UsedSecret) -> None:
        known = self.asked[event.kind]
        known[event.id] = known.get(event.id, False) or event.required

    def materials(self) -> list[Material]:
        """Images first, as BuildKit has them."""
        told = {(not one.platform, _uri(one)): one for one in self.sources}
        return [Material(uri, {one.algorithm: one.digest}) for (_, uri), one in sorted(told.items())]


@dataclass
class Statements:
    """Of one build."""

    request: BuildRequest
    context: Context
    attests: Attests
    dockerfile: bytes
    open_root: OpenRoot
    cancelled: threading.Event
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    invocation: str = field(default_factory=lambda: new_id()[:32])
    _heard: dict[str, _Heard] = field(default_factory=dict)

    def listening(self, report: Report, platform: str = "") -> Report:
        """`report`, with what only provenance is interested in kept here for the image of that platform."""
        kept = self._heard.setdefault(platform, _Heard())

        def heard(event: BuildEvent) -> None:
            if isinstance(event, UsedSource):
                kept.sources.add(msgspec.structs.replace(event, vertex=Digest("")))
            elif isinstance(event, UsedSecret):
                kept.asks(event)
            else:
                report(event)

        return heard

    def __call__(
        self, image: PlatformImage, manifest: Digest, names: Sequence[Reference]
    ) -> Sequence[Attestation]:
        """Raises `Invalid` for a root with absurdly many packages, `BuildCancelled`."""
        platform = str(image.platform)
        subjects = [package_url(name, platform) for name in names]
        made = []
        if self.attests.sbom:
            made.append(attestation(SPDX_DOCUMENT, self._materials_list(image, names), manifest, subjects))
        if self.attests.provenance is not None:
            wish: Wanted = self.attests.provenance
            made.append(
                attestation(wish.predicate_type, predicate(self._facts(image), wish), manifest, subjects)
            )
        return made

    def _materials_list(self, image: PlatformImage, names: Sequence[Reference]) -> dict[str, object]:
        root = self.open_root(image.image.diff_ids)
        try:
            packages, distro = scan(root, self.cancelled)
        finally:
            os.close(root)
        name = names[0].familiar if names else str(image.image.id)
        epoch = self.request.epoch
        time = self.started if epoch is None else datetime.fromtimestamp(epoch, UTC)
        return document(name, time.strftime(_DOCUMENT_TIME), packages, distro)

    def _facts(self, image: PlatformImage) -> Facts:
        heard = self._heard.get(image.asked) or self._heard.get("") or _Heard()
        return Facts(
            invocation=self.invocation,
            started=_time(self.started),
            finished=_time(datetime.now(UTC)),
            platform=host_platform(),
            entry_point=self.request.dockerfile or "Dockerfile",
            source=self.context.source,
            locals=_locals(self.request, self.context),
            args=_arguments(self.request),
            secrets=heard.asked["secret"],
            ssh=heard.asked["ssh"],
            materials=tuple(heard.materials()),
            dockerfile=self.dockerfile,
            steps=_steps(image.image),
        )


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _locals(request: BuildRequest, context: Context) -> tuple[str, ...]:
    """What came from the client. Where it lies there is nobody's business."""
    named = tuple(name for name, value in request.contexts.items() if value.startswith(DIRECTORY))
    if context.source is None:
        return ("context", "dockerfile", *named)
    own = request.dockerfile_text is not None and context.dockerfile is None
    return (*(("dockerfile",) if own else ()), *named)


def _arguments(request: BuildRequest) -> dict[str, str]:
    """As BuildKit's frontend names them."""
    # Proxies say nothing of the result, and may have a password in them.
    given = {
        f"build-arg:{name}": value
        for name, value in request.build_args.items()
        if value is not None and name not in PREDEFINED_ARGS
    }
    given |= {f"label:{name}": value for name, value in request.labels.items()}
    for name, value in request.contexts.items():
        given[f"context:{name}"] = f"local:{name}" if value.startswith(DIRECTORY) else redacted(value)
    if request.target:
        given["target"] = request.target
    if request.no_cache or request.no_cache_stages:
        given["no-cache"] = ",".join(sorted(request.no_cache_stages))
    if request.network not in ("", "default"):
        given["force-network-mode"] = request.network
    if request.extra_hosts:
        given["add-hosts"] = ",".join(entry.replace(":", "=", 1) for entry in request.extra_hosts)
    if request.shm_size:
        given["shm-size"] = str(request.shm_size)
    if request.limits.ulimits:
        given["ulimit"] = ",".join(f"{name}={soft}:{hard}" for name, soft, hard in request.limits.ulimits)
    return given


def _uri(source: UsedSource) -> str:
    """Of an image the package URL, with a digest only where the name has one."""
    if not source.platform:
        return source.uri
    try:
        reference = parse_reference(source.uri)
    except Invalid:
        return f"pkg:docker/{source.uri}"
    named = reference if reference.digest else reference.with_default_tag()
    return package_url(named, source.platform, reference.digest)


def _steps(image: Image) -> tuple[Step, ...]:
    layers = iter(image.diff_ids)
    return tuple(
        Step(entry.created_by or "", None if entry.empty_layer else next(layers, None))
        for entry in image.config.history or ()
    )
