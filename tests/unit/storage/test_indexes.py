"""One name for images of several platforms: looking up, tagging, removing, collecting; and how they are packed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, Invalid, NotFound
from sampan.oci import media
from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import ImageConfig, RootFS
from sampan.oci.manifest import Index, parse_manifest
from sampan.oci.reference import parse_reference
from sampan.storage.archive import load_archive
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore, Use
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layer_forms import LayerForm, layer_blobs
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
from sampan.storage.packing import (
    Annotations,
    Packed,
    index_record,
    pack_attestations,
    pack_image,
    pack_index,
    stored_index,
)

APP, OTHER = parse_reference("app:latest"), parse_reference("other:latest")
STATEMENT = Attestation("https://slsa.dev/provenance/v0.2", b'{"_type":"https://in-toto.io/Statement/v0.1"}')


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.open()

    def open(self) -> None:
        self.metadata = Metadata(self.root)
        content, layers = ContentStore(self.root / "content"), LayerStore(self.root / "layers")
        self.images = ImageStore(content, layers, self.metadata)

    def image(self, architecture: str, content: bytes = b"") -> Image:
        layer = ingest_tar(self.images, [tar_of(content or architecture.encode())]).diff_id
        return self.images.create(ImageConfig(architecture, "linux", RootFS((layer,))))

    def pack(self, *images: Image, attested: bool = False) -> Packed:
        with layer_blobs(self.images, LayerForm()) as blobs:
            members = [pack_image(self.images, one, blobs, oci=True) for one in images]
        attestations = []
        if attested:
            attestations = [pack_attestations(self.images, members[0].descriptor, [STATEMENT])]
        return pack_index(members, attestations)

    def index(self, *images: Image, name: str = "app", attested: bool = False) -> Digest:
        record = index_record(self.pack(*images, attested=attested))
        return self.images.put_index(record, images[0].id, [parse_reference(name)])


def tar_of(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.metadata.close()


def test_a_name_means_its_preferred_image_and_has_the_others_beside_it(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    index = place.index(amd, arm)
    assert place.images.get("app").id == amd.id
    assert [one.id for one in place.images.variants("app")] == [amd.id, arm.id]
    assert place.images.get(index).id == amd.id
    assert [one.part_of for one in place.images.variants("app")] == [(), (APP,)]
    assert not place.images.get(arm.id).dangling
    place.metadata.close()
    place.open()
    found = place.images.index_of("app")
    assert found is not None
    assert found[0] == index
    assert stored_index(place.images, found[1]).raw == found[1].raw.encode()


def test_a_second_name_keeps_all_platforms_when_the_first_goes(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    index = place.index(amd, arm)
    place.images.tag(amd.id, OTHER, index)
    assert place.images.remove("app").deleted == ()
    assert [one.id for one in place.images.variants("other")] == [amd.id, arm.id]
    assert set(place.images.remove("other").deleted) == {amd.id, arm.id}
    assert place.images.index_of is not None
    assert list(place.images.layers.digests()) == []
    assert list(place.images.content.digests()) == []


def test_an_index_takes_its_attestations_along(place: Place) -> None:
    place.index(place.image("amd64"), attested=True)
    place.images.collect(min_age=-1)
    found = place.images.index_of("app")
    assert found is not None
    packed = stored_index(place.images, found[1])
    (layer,) = packed.attestations[0].layers
    assert place.images.content.read(layer.digest) == STATEMENT.statement
    assert layer.media_type == "application/vnd.in-toto+json"
    assert layer.annotations == {"in-toto.io/predicate-type": STATEMENT.predicate_type}
    assert json.loads(packed.attestations[0].config_raw)["rootfs"]["diff_ids"] == [layer.digest]
    index = parse_manifest(packed.raw)
    assert isinstance(index, Index)
    entry = index.manifests[1]
    assert str(entry.platform) == "unknown/unknown"
    assert entry.annotations == {
        "vnd.docker.reference.digest": packed.images[0].descriptor.digest,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    place.images.remove("app")
    assert list(place.images.content.digests()) == []


def test_a_name_that_moves_on_leaves_plain_images_behind(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    place.index(amd, arm)
    new = place.image("amd64", b"new")
    place.images.tag(new.id, APP)
    assert place.images.index_of("app") is None
    assert {one.id for one in place.images.list() if one.dangling} == {amd.id, arm.id}
    assert set(place.images.prune().deleted) == {amd.id, arm.id}


def test_one_platforms_image_does_not_go_alone(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    place.index(amd, arm)
    with pytest.raises(Conflict, match="is one platform's of app:latest"):
        place.images.remove(arm.id, force=True)
    place.images.tag(arm.id, OTHER)
    assert place.images.remove("other").deleted == ()
    assert place.images.prune(dangling=True).deleted == ()
    assert set(place.images.prune(dangling=False).deleted) == {amd.id, arm.id}


def test_an_image_that_a_container_uses_stays_when_its_index_goes(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    place.index(amd, arm)

    def uses(image_id: Digest) -> list[Use]:
        return [Use("c" * 64, running=True)] if image_id == arm.id else []

    assert place.images.prune(dangling=False, uses=uses).deleted == ()
    assert place.images.remove("app", uses=uses).deleted == (amd.id,)
    assert place.images.get(arm.id).dangling


def test_an_index_needs_its_images_and_blobs(place: Place) -> None:
    amd, arm = place.image("amd64"), place.image("arm64")
    packed = index_record(place.pack(amd, arm))
    place.images.remove(arm.id)
    with pytest.raises(NotFound):
        place.images.put_index(packed, amd.id, [APP])


@pytest.mark.parametrize(
    ("form", "kind", "start"),
    [
        (LayerForm("zstd"), media.OCI_LAYER_ZSTD, b"\x28\xb5\x2f\xfd"),
        (LayerForm("uncompressed"), media.OCI_LAYER, b"file"),
        (LayerForm("gzip", 9), media.DOCKER_LAYER_GZIP, b"\x1f\x8b"),
    ],
)
def test_layers_leave_in_the_wanted_form_and_the_store_keeps_its_own(
    place: Place, form: LayerForm, kind: str, start: bytes
) -> None:
    image = place.image("amd64")
    before = set(place.images.content.digests())
    forced = LayerForm(form.compression, form.level, force=True)
    with layer_blobs(place.images, forced) as blobs:
        packed = pack_image(place.images, image, blobs)
        blob = packed.layers[0]
        assert blob.media_type == kind
        with place.images.content.open(blob.digest) as file:
            assert file.read(len(start)) == start
        assert digest_of(packed.raw) == packed.descriptor.digest
    assert set(place.images.content.digests()) == before
    with pytest.raises(Invalid, match="compression-level"):
        LayerForm("gzip", 12)


def test_annotations_need_ocis_media_types(place: Place) -> None:
    image = place.image("amd64")
    with layer_blobs(place.images, LayerForm()) as blobs:
        plain = pack_image(place.images, image, blobs)
        noted = pack_image(place.images, image, blobs, notes=Annotations({"a": "b"}, {"c": "d"}))
    assert plain.descriptor.media_type == media.DOCKER_MANIFEST
    assert noted.descriptor.media_type == media.OCI_MANIFEST
    assert json.loads(noted.raw)["annotations"] == {"a": "b"}
    assert noted.descriptor.annotations == {"c": "d"}


def archive_of(place: Place, config: bytes, statement: bytes | None, manifest: bytes | None = None) -> bytes:
    """An OCI archive of one image with an attestation, made of these parts."""
    image = place.image("amd64")
    packed = place.pack(image)
    digest = digest_of(statement or b"missing")
    raw = (
        manifest
        or json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media.OCI_MANIFEST,
                "config": {"mediaType": media.OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
                "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": digest, "size": 2}],
            }
        ).encode()
    )
    entry = {
        "mediaType": media.OCI_MANIFEST,
        "digest": digest_of(raw),
        "size": len(raw),
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": packed.images[0].descriptor.digest,
        },
    }
    index = json.loads(packed.index)
    index["manifests"].append(entry)
    inner = json.dumps(index).encode()
    top = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [{"mediaType": media.OCI_INDEX, "digest": digest_of(inner), "size": len(inner)}],
        }
    ).encode()
    member = packed.images[0]
    with place.images.content.open(member.layers[0].digest) as file:
        layer = file.read()
    blobs = [member.raw, member.config_raw, raw, config, inner, layer, *([statement] if statement else [])]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        files = {f"blobs/sha256/{digest_of(blob).removeprefix('sha256:')}": blob for blob in blobs}
        for name, data in {**files, "index.json": top}.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    place.images.remove(image.id)
    return out.getvalue()


@pytest.mark.parametrize(
    ("config", "statement", "manifest"),
    [
        (b'{"a":"\xff"}', b"{}", None),
        (b"{}", None, None),
        (b"{}", b"{}", b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media.OCI_INDEX.encode()),
        (b"{}", b"{}", b'{"schemaVersion":2,"layers":[]}'),
    ],
)
def test_a_damaged_attestation_is_refused_and_leaves_nothing(
    place: Place, config: bytes, statement: bytes | None, manifest: bytes | None
) -> None:
    archive = archive_of(place, config, statement, manifest)
    with pytest.raises(Invalid):
        list(load_archive(place.images, io.BytesIO(archive)))
    assert place.images.list() == []
    assert list(place.images.content.digests()) == []


def test_a_whole_attestation_is_loaded(place: Place) -> None:
    archive = archive_of(place, b"{}", b'{"_type":"x"}')
    ((image, names),) = load_archive(place.images, io.BytesIO(archive))
    assert names == ()
    assert image.config.architecture == "amd64"
    # Without a name there is no index of it, so that nothing would keep the statement.
    assert len(list(place.images.content.digests())) == 1
