"""Where a build's result goes: into the image store, to registries, and to the client as archive or files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sampan.build.output_options import Annotation, Output, Target
from sampan.build.result import PlatformImage
from sampan.build.session import ClientSession, Sink
from sampan.build.solver.voice import Voice, internal
from sampan.build.worker import Report
from sampan.engine.file_statements import NOBODY, statement_files
from sampan.engine.images import Images
from sampan.errors import Invalid
from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.platforms import parse_platform, serves
from sampan.registry.progress import Progress
from sampan.storage import tar_format as tf
from sampan.storage.archive_save import save_packed
from sampan.storage.layer_forms import LayerForm, layer_blobs
from sampan.storage.packing import (
    Annotations,
    Packed,
    PackedManifest,
    index_record,
    pack_attestations,
    pack_image,
    pack_index,
)
from sampan.storage.tar_header import pack_header
from sampan.storage.tar_writer import write_tree

Response = dict[str, object]
"""What came out, with BuildKit's keys."""
Attest = Callable[[PlatformImage, Digest, Sequence[Reference]], Sequence[Attestation]]
"""The statements about an image, given its manifest's digest and the names that it will have."""

_END = bytes(2 * tf.BLOCK)
_PIECE = 1 << 20
"""Bytes that are gathered before they go to the client."""


def no_attestations(
    _image: PlatformImage, _manifest: Digest, _names: Sequence[Reference]
) -> Sequence[Attestation]:
    return ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the exports of one build use. `open_root`: a descriptor of the root of these layers."""

    images: Images
    credentials: Mapping[str, Credentials]
    client: ClientSession
    report: Report
    cancelled: threading.Event
    open_root: Callable[[Sequence[Digest]], int]
    preferred: str
    """The platform that a name means by itself."""
    attest: Attest = no_attestations


class BuildOutputs:
    """Of one build. Blocking; used by its thread, which keeps layers and blobs from being collected meanwhile."""

    def __init__(
        self, around: Surroundings, built: Sequence[PlatformImage], tags: Sequence[Reference]
    ) -> None:
        self._around = around
        self._store = around.images.store
        self._built = tuple(built)
        self._tags = tuple(tags)
        self.response: Response = {}
        self.result = Digest("")
        """What the build is called by: an image's id, an index's digest, "" for files alone."""

    def perform(self, outputs: Sequence[Output]) -> None:
        """One after the other; nothing half-made is left of one that fails. Raises `SampanError`."""
        for output in outputs:
            if output.kind == "cacheonly":
                continue
            with internal(self._around.report, _VERTICES[output.kind]) as voice:
                if output.kind == "image":
                    self._to_image(output, voice)
                elif output.kind in ("oci", "docker"):
                    self._to_archive(output, voice)
                else:
                    self._to_files(output, voice)

    def names_of(self, output: Output) -> tuple[Reference, ...]:
        """What the image store has under a name after this output."""
        return (output.names or self._tags) if output.kind == "image" and output.store else ()

    # Packing

    def _pack(self, output: Output, form: LayerForm, voice: Voice, names: Sequence[Reference]) -> _Packing:
        return _Packing(self._around, self._built, output, form, voice, names)

    # image

    def _to_image(self, output: Output, voice: Voice) -> None:
        names = output.names or self._tags
        packed = self._stored(output, voice, names) if output.store else None
        if output.push:
            digest = self._push(output, voice, names, packed)
            self.response["containerimage.digest"] = digest
        elif packed is not None:
            self._tell(packed)
        else:
            self.response["containerimage.digest"] = self._built[0].image.id
        self._tell_names(names)

    def _tell_names(self, names: Sequence[Reference]) -> None:
        if len(self._built) == 1:
            self.result = self._built[0].image.id
            self.response["containerimage.config.digest"] = self.result
        else:
            self.result = Digest(str(self.response["containerimage.digest"]))
        if names:
            self.response["image.name"] = ",".join(str(name) for name in names)

    def _stored(self, output: Output, voice: Voice, names: Sequence[Reference]) -> Packed | None:
        """What the store has of it in the store's own form; None for a single image without manifest."""
        plain = len(self._built) == 1 and not output.annotations and output.oci is None
        if plain and not output.canonical and self._around.attest is no_attestations:
            self._name(self._built[0].image.id, names, None, voice)
            return None
        with self._pack(output, LayerForm(), voice, names) as packing:
            packed = packing.packed()
            for built, manifest in zip(self._built, packed.images, strict=True):
                self._store.register(
                    built.image.config_raw, manifest_raw=manifest.raw, manifest_descriptor=_bare(manifest)
                )
            preferred = self._preferred().image.id
            index: Digest | None = None
            if packed.index and names:
                index = self._store.put_index(index_record(packed), preferred, names)
            self._name(preferred, names, index, voice)
            if output.canonical:
                self._name(preferred, _canonical(names, packed.descriptor.digest), index, voice)
        return packed

    def _name(self, image_id: Digest, names: Sequence[Reference], index: Digest | None, voice: Voice) -> None:
        for name in names:
            self._store.tag(image_id, name, index)
            voice.did(f"naming to {name}")

    def _preferred(self) -> PlatformImage:
        wanted = parse_platform(self._around.preferred)
        same = [
            one
            for one in self._built
            if (one.platform.os, one.platform.architecture) == (wanted.os, wanted.architecture)
        ]
        return (same or self._built)[0]

    def _push(
        self, output: Output, voice: Voice, names: Sequence[Reference], stored: Packed | None
    ) -> Digest:
        """The digest that it has there."""
        form = output.form or LayerForm()
        digest = self._built[0].image.id
        with self._pack(output, form, voice, names) as packing:
            packed = stored if stored is not None and form.is_own else packing.packed()
            for name in names:
                digest = self._push_one(name, packed, output, voice)
            self._tell(packed)
        if output.store:
            index = self._store.index_of(str(names[0]))
            for known in _canonical(names, digest):
                self._store.tag(self._preferred().image.id, known, index[0] if index else None)
        return digest

    def _push_one(self, name: Reference, packed: Packed, output: Output, voice: Voice) -> Digest:
        from sampan.registry.push import push_packed

        credentials = self._around.credentials.get(name.domain, Credentials())
        client = self._around.images.client(name.domain, credentials)
        try:
            digest = push_packed(
                client,
                name,
                packed,
                self._store,
                by_digest=output.by_digest,
                report=_transfers(voice),
                cancelled=self._around.cancelled,
            )
        finally:
            client.close()
        voice.did(f"pushing manifest for {name}@{digest}")
        return digest

    def _tell(self, packed: Packed) -> None:
        descriptor = packed.descriptor
        told: Response = {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        }
        if descriptor.annotations:
            told["annotations"] = descriptor.annotations
        if not packed.index:
            told["platform"] = descriptor.platform
        self.response["containerimage.descriptor"] = told
        self.response["containerimage.digest"] = descriptor.digest

    # oci, docker

    def _to_archive(self, output: Output, voice: Voice) -> None:
        names = output.names or self._tags
        docker = output.kind == "docker"
        with (
            _Delivery(self._around.client, output.id) as sink,
            self._pack(output, output.form or LayerForm(), voice, names) as packing,
        ):
            packed = packing.packed(oci=output.oci is not False)
            save_packed(self._store, packed, names, sink, docker=docker)
            sink.commit()
        self._tell(packed)
        self._tell_names(names)
        voice.did("sending tarball")

    # tar, local

    def _to_files(self, output: Output, voice: Voice) -> None:
        split = output.platform_split
        split = len(self._built) > 1 if split is None else split
        with _Delivery(self._around.client, output.id) as sink:
            for built in self._built:
                if split:
                    sink.write(_directory(built.directory))
                directory = built.directory if split else ""
                root = self._around.open_root(built.image.diff_ids)
                try:
                    write_tree(root, sink, prefix=directory, end=False)
                    statements = self._around.attest(built, NOBODY, output.names or self._tags)
                    if statements:
                        for name, content in statement_files(root, statements):
                            sink.write(_file(f"{directory}/{name}" if split else name, content))
                finally:
                    os.close(root)
            sink.write(_END)
            sink.commit()
        voice.did("sending tarball" if output.kind == "tar" else "copying files")


class _Packing:
    """The result in the form that one output wants; a context manager: blobs made for it alone go at its end."""

    def __init__(
        self,
        around: Surroundings,
        built: Sequence[PlatformImage],
        output: Output,
        form: LayerForm,
        voice: Voice,
        names: Sequence[Reference],
    ) -> None:
        self._around = around
        self._store = around.images.store
        self._built = built
        self._output = output
        self._voice = voice
        self._names = names
        self._context = layer_blobs(self._store, form)

    def __enter__(self) -> _Packing:
        self._blobs = self._context.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._context.__exit__(None, None, None)

    def packed(self, *, oci: bool | None = None) -> Packed:
        """`oci`: what the exporter does where the output does not say. Raises `Invalid`."""
        wish = self._output.oci if self._output.oci is not None else oci
        several = len(self._built) > 1
        # An index names what was made for it: one kind of manifests, whatever a base came with.
        members = [self._member(built, True if several and wish is None else wish) for built in self._built]
        attestations = self._attestations(members)
        if not several and not attestations:
            if self._notes("index") or self._notes("index-descriptor"):
                raise Invalid("index annotations not supported for single platform export")
            return Packed(tuple(members))
        packed = pack_index(
            members,
            attestations,
            oci=wish is not False,
            annotations=self._notes("index"),
            descriptor_annotations=self._notes("index-descriptor"),
        )
        self._voice.did(f"exporting manifest list {packed.descriptor.digest}")
        return packed

    def _member(self, built: PlatformImage, oci: bool | None) -> PackedManifest:
        if self._attested():
            oci = True
        notes = Annotations(self._notes("manifest", built), self._notes("manifest-descriptor", built))
        packed = pack_image(self._store, built.image, self._blobs, oci=oci, notes=notes)
        self._voice.did(f"exporting manifest {packed.descriptor.digest}")
        self._voice.did(f"exporting config {packed.config.digest}")
        return packed

    def _attested(self) -> bool:
        """A docker archive has no place for attestations: what it is loaded into would take them for images."""
        return self._around.attest is not no_attestations and self._output.kind != "docker"

    def _attestations(self, members: Sequence[PackedManifest]) -> list[PackedManifest]:
        found: list[PackedManifest] = []
        if not self._attested():
            return found
        for built, member in zip(self._built, members, strict=True):
            statements = self._around.attest(built, member.descriptor.digest, self._names)
            if statements:
                packed = pack_attestations(self._store, member.descriptor, statements)
                self._voice.did(f"exporting attestation manifest {packed.descriptor.digest}")
                found.append(packed)
        return found

    def _notes(self, target: Target, built: PlatformImage | None = None) -> dict[str, str]:
        return {one.name: one.value for one in self._output.annotations if _is_for(one, target, built)}


def _canonical(names: Sequence[Reference], digest: Digest) -> Sequence[Reference]:
    return [replace(name, tag=None, digest=digest) for name in names]


def _is_for(annotation: Annotation, target: Target, built: PlatformImage | None) -> bool:
    if annotation.target != target:
        return False
    if not annotation.platform or built is None:
        return True
    return serves(built.platform, parse_platform(annotation.platform))


class _Delivery:
    """What is written goes to the client in large pieces; without `commit` the client throws it away."""

    def __init__(self, client: ClientSession, name: str) -> None:
        self._client = client
        self._name = name
        self._gathered = bytearray()

    def __enter__(self) -> _Delivery:
        self._sink: Sink = self._client.deliver(self._name)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sink.close()

    def write(self, data: bytes, /) -> int:
        self._gathered += data
        if len(self._gathered) >= _PIECE:
            self._flush()
        return len(data)

    def commit(self) -> None:
        self._flush()
        self._sink.commit()

    def _flush(self) -> None:
        if self._gathered:
            self._sink.write(bytes(self._gathered))
            self._gathered.clear()


_VERTICES = {
    "image": "exporting to image",
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
}
"""As BuildKit names them."""


def _transfers(voice: Voice) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.status:
            voice.transfer(progress)

    return report


def _bare(manifest: PackedManifest) -> Descriptor:
    own = manifest.descriptor
    return Descriptor(own.media_type, own.digest, own.size)


def _file(name: str, content: bytes) -> bytes:
    header = pack_header(name.encode(), tf.REGULAR, mode=0o644, uid=0, gid=0, mtime=0, size=len(content))
    return header + content + bytes(-len(content) % tf.BLOCK)


def _directory(name: str) -> bytes:
    return pack_header(f"{name}/".encode(), tf.DIRECTORY, mode=0o755, uid=0, gid=0, mtime=0)
