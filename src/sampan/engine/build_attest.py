"""What an engine says about a build's result: facts are gathered while it goes on, statements are made at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sampan.build.attest.options import Attests
from sampan.build.attest.provenance import Facts, Material, Step, Wanted, predicate
from sampan.build.attest.scan import scan
from sampan.build.attest.spdx import document
from sampan.build.attest.statement import SPDX_DOCUMENT, attestation, package_url
from sampan.build.dockerfile.state import PREDEFINED_ARGS
from sampan.build.events import BuildEvent, UsedSecret, UsedSource
from sampan.build.fetch.git_url import redacted
from sampan.build.model import BuildRequest
from sampan.build.result import PlatformImage
from sampan.build.worker import Report
from sampan.engine.model import new_id
from sampan.errors import Invalid
from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest, hex_of
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.image_model import Image

OpenRoot = Callable[[Sequence[Digest]], int]
_DOCUMENT_TIME = "%Y-%m-%dT%H:%M:%SZ"
"""SPDX 2.3, 6.9: whole seconds."""


@dataclass
class Statements:
    """Of one build. `bases` are the images that it stands on, by the name that they were asked for with."""

    request: BuildRequest
    attests: Attests
    dockerfile: bytes
    bases: Callable[[], Mapping[str, Image]]
    open_root: OpenRoot
    cancelled: threading.Event
    context: Material | None = None
    """Where the engine fetched the context."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    invocation: str = field(default_factory=lambda: new_id()[:32])
    _sources: dict[str, UsedSource] = field(default_factory=dict)
    _asked: dict[str, dict[str, bool]] = field(default_factory=lambda: {"secret": {}, "ssh": {}})
    """By kind and id, whether any step can't do without."""

    def listening(self, report: Report) -> Report:
        """`report`, with what only provenance is interested in kept here."""

        def heard(event: BuildEvent) -> None:
            if isinstance(event, UsedSource):
                self._sources[event.uri] = event
            elif isinstance(event, UsedSecret):
                known = self._asked[event.kind]
                known[event.id] = known.get(event.id, False) or event.required
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
        platform = str(image.platform)
        sources = [_material(one) for _, one in sorted(self._sources.items())]
        return Facts(
            invocation=self.invocation,
            started=_time(self.started),
            finished=_time(datetime.now(UTC)),
            platform=platform,
            entry_point=self.request.dockerfile or "Dockerfile",
            source=self.context,
            args=_arguments(self.request),
            secrets=self._asked["secret"],
            ssh=self._asked["ssh"],
            materials=(*_images(self.bases(), platform), *sources),
            dockerfile=self.dockerfile,
            steps=_steps(image.image),
        )


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _arguments(request: BuildRequest) -> dict[str, str]:
    """As BuildKit's frontend names them."""
    # Proxies say nothing of the result, and may have a password in them.
    given = {
        f"build-arg:{name}": value
        for name, value in request.build_args.items()
        if value is not None and name not in PREDEFINED_ARGS
    }
    given |= {f"label:{name}": value for name, value in request.labels.items()}
    given |= {f"context:{name}": redacted(value) for name, value in request.contexts.items()}
    if request.target:
        given["target"] = request.target
    if request.no_cache or request.no_cache_stages:
        given["no-cache"] = ",".join(sorted(request.no_cache_stages))
    return given


def _images(bases: Mapping[str, Image], platform: str) -> list[Material]:
    """With the digest of the manifest they were pulled by, of the configuration for those made here."""
    found = []
    for asked, image in sorted(bases.items()):
        descriptor = image.manifest_descriptor
        digest = descriptor.digest if descriptor is not None else image.id
        try:
            uri = package_url(parse_reference(asked).with_default_tag(), platform, digest)
        except Invalid:
            uri = f"pkg:docker/{asked}"
        found.append(Material(uri, {"sha256": hex_of(digest)}))
    return found


def _material(source: UsedSource) -> Material:
    return Material(source.uri, {source.algorithm: source.digest})


def _steps(image: Image) -> tuple[Step, ...]:
    layers = iter(image.diff_ids)
    return tuple(
        Step(entry.created_by or "", None if entry.empty_layer else next(layers, None))
        for entry in image.config.history or ()
    )
