"""Archives of images: what is written, what is read back, and what a hostile archive can't do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Invalid, SampanError, Unsupported
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import History, ImageConfig, RootFS, encode_image_config
from sampan.oci.manifest import Descriptor, Manifest, encode_manifest
from sampan.oci.reference import parse_reference
from sampan.storage import archive_load
from sampan.storage.archive import load_archive, save_archive
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata

Members = dict[str, bytes | str]
"""Name -> content, or (a str) the target of a symbolic link."""


def tar_of(members: Members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def members_of(raw: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            if file is not None:
                found[entry.name] = file.read()
    return found


ONE, TWO = tar_of({"one": b"1" * 5000}), tar_of({"two": b"2" * 70_000})
CONFIG = encode_image_config(
    ImageConfig(
        "amd64", "linux", RootFS((digest_of(ONE), digest_of(TWO))),
        history=(History(created_by="a"), History(created_by="b")),
    )
)  # fmt: skip


def new_store(root: Path) -> tuple[ImageStore, Metadata]:
    metadata = Metadata(root)
    return ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), metadata), metadata


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    images, metadata = new_store(tmp_path / "store")
    yield images
    metadata.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ImageStore]:
    images, metadata = new_store(tmp_path / "other")
    yield images
    metadata.close()


def load(store: ImageStore, raw: bytes) -> list[tuple[Image, list[str]]]:
    return [
        (image, [name.familiar for name in names]) for image, names in load_archive(store, io.BytesIO(raw))
    ]


def assert_empty(store: ImageStore) -> None:
    assert store.list() == []
    assert list(store.layers.digests()) == []
    assert list(store.content.digests()) == []


def docker_archive(**changes: object) -> Members:
    """As `docker save` of 20.10 lays it out: ids with VERSION, json and layer.tar, the index last."""
    members: Members = {
        "aaaa/VERSION": b"1.0",
        "aaaa/json": b'{"id":"aaaa"}',
        "aaaa/layer.tar": ONE,
        "bbbb/VERSION": b"1.0",
        "bbbb/json": b'{"id":"bbbb"}',
        "bbbb/layer.tar": TWO,
        "config.json": CONFIG,
        "manifest.json": json.dumps(
            [
                {
                    "Config": "config.json",
                    "RepoTags": ["app:v1"],
                    "Layers": ["aaaa/layer.tar", "bbbb/layer.tar"],
                }
            ]
        ).encode(),
        "repositories": b'{"app":{"v1":"bbbb"}}',
    }
    members.update(changes)  # type: ignore[arg-type]
    return members


def oci_archive(*, name: str = "docker.io/library/app:v1", gz: bool = True) -> tuple[Members, Digest]:
    layers = [gzip.compress(one, mtime=0) if gz else one for one in (ONE, TWO)]
    kind = media.OCI_LAYER_GZIP if gz else media.OCI_LAYER
    manifest = encode_manifest(
        Manifest(
            Descriptor(media.OCI_CONFIG, digest_of(CONFIG), len(CONFIG)),
            tuple(Descriptor(kind, digest_of(one), len(one)) for one in layers),
        )
    )
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": media.OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        ],
    }  # fmt: skip
    members: Members = {f"blobs/sha256/{digest_of(one)[7:]}": one for one in (*layers, manifest, CONFIG)}
    members["index.json"] = json.dumps(index).encode()
    members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return members, digest_of(manifest)


def test_an_archive_of_docker_save_is_loaded_with_its_names(store: ImageStore) -> None:
    ((image, names),) = load(store, tar_of(docker_archive()))
    assert image.id == digest_of(CONFIG)
    assert names == ["app:v1"]
    assert store.get("app:v1").diff_ids == (digest_of(ONE), digest_of(TWO))


def test_layers_that_are_links_to_others_are_followed(store: ImageStore) -> None:
    # docker save of 20.10 writes a layer once and links to it where it comes again.
    config = encode_image_config(ImageConfig("amd64", "linux", RootFS((digest_of(ONE), digest_of(ONE)))))
    archive = docker_archive(**{"bbbb/layer.tar": "../aaaa/layer.tar", "config.json": config})
    ((image, _),) = load(store, tar_of(archive))
    assert image.diff_ids == (digest_of(ONE), digest_of(ONE))


@pytest.mark.parametrize("compress", [gzip.compress, lambda raw: raw], ids=["gzip", "plain"])
def test_layers_and_the_archive_itself_may_be_compressed(store: ImageStore, compress: object) -> None:
    assert callable(compress)
    archive = docker_archive(**{"aaaa/layer.tar": gzip.compress(ONE)})
    ((image, _),) = load(store, compress(tar_of(archive)))
    assert image.id == digest_of(CONFIG)


def test_several_images_share_their_layers(store: ImageStore) -> None:
    second = encode_image_config(ImageConfig("amd64", "linux", RootFS((digest_of(ONE),))))
    items = json.loads(bytes(docker_archive()["manifest.json"]))  # type: ignore[arg-type]
    items.append({"Config": "second.json", "RepoTags": None, "Layers": ["aaaa/layer.tar"]})
    archive = docker_archive(**{"manifest.json": json.dumps(items).encode(), "second.json": second})
    loaded = load(store, tar_of(archive))
    assert [(image.id, names) for image, names in loaded] == [
        (digest_of(CONFIG), ["app:v1"]),
        (digest_of(second), []),
    ]
    assert len(list(store.layers.digests())) == 2


def test_an_oci_archive_keeps_blobs_and_manifest_so_that_a_push_keeps_the_digest(store: ImageStore) -> None:
    members, digest = oci_archive()
    ((image, names),) = load(store, tar_of(members))
    assert names == ["app:v1"]
    assert image.manifest_descriptor is not None
    assert image.manifest_descriptor.digest == digest
    assert set(store.content.digests()) == {digest_of(gzip.compress(one, mtime=0)) for one in (ONE, TWO)}


def test_a_tag_alone_in_an_oci_archive_names_nothing(store: ImageStore) -> None:
    ((_, names),) = load(store, tar_of(oci_archive(name="v1")[0]))
    assert names == []


def test_an_oci_archive_of_plain_layers_is_loaded(store: ImageStore) -> None:
    ((image, _),) = load(store, tar_of(oci_archive(gz=False)[0]))
    assert image.diff_ids == (digest_of(ONE), digest_of(TWO))
    assert image.manifest_descriptor is None  # its blobs are kept compressed: another manifest


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_what_was_saved_is_loaded_the_same(store: ImageStore, other: ImageStore, form: str) -> None:
    for raw in (ONE, TWO):
        ingest_tar(store, [raw])
    image = store.register(CONFIG, names=[parse_reference("app:v1"), parse_reference("app:v2")])
    out = io.BytesIO()
    save_archive(store, [(image, name) for name in image.tags], out, form=form)  # type: ignore[arg-type]
    ((loaded, names),) = load(other, out.getvalue())
    assert (loaded.id, names) == (image.id, ["app:v1", "app:v2"])
    again = io.BytesIO()
    save_archive(other, [(loaded, name) for name in loaded.tags], again, form=form)  # type: ignore[arg-type]
    assert again.getvalue() == out.getvalue()


def test_a_saved_archive_has_dockers_members_and_an_oci_layout(store: ImageStore) -> None:
    for raw in (ONE, TWO):
        ingest_tar(store, [raw])
    image = store.register(CONFIG)
    out = io.BytesIO()
    save_archive(store, [(image, parse_reference("app:v1"))], out)
    members = members_of(out.getvalue())
    (item,) = json.loads(members["manifest.json"])
    assert item["RepoTags"] == ["app:v1"]
    assert members[item["Config"]] == CONFIG
    assert [members[name] for name in item["Layers"]] == [ONE, TWO]
    for name, content in members.items():
        if name.startswith("blobs/sha256/"):
            assert digest_of(content) == "sha256:" + name.rpartition("/")[2]
    (entry,) = json.loads(members["index.json"])["manifests"]
    assert "blobs/sha256/" + entry["digest"][7:] in members


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aaaa/layer.tar": ONE[:3000]}, r"aaaa/layer\.tar"),
        ({"aaaa/layer.tar": TWO}, "not those that its configuration names"),
        ({"aaaa/layer.tar": "../../../etc/passwd"}, "has no layer"),
        ({"aaaa/layer.tar": "../bbbb/layer.tar", "bbbb/layer.tar": "../aaaa/layer.tar"}, "leads nowhere"),
        ({"config.json": b"{}"}, "malformed image configuration"),
        ({"config.json": "/etc/hostname"}, "has no"),
        ({"manifest.json": b"{nonsense"}, "manifest.json is malformed"),
        ({"manifest.json": b'[{"Config":"../x","Layers":[]}]'}, "has no"),
        (
            {"manifest.json": b'[{"Config":"config.json","Layers":["aaaa/layer.tar"]}]'},
            "layers length mismatch: expected 2, got 1",
        ),
        (
            {
                "manifest.json": b'[{"Config":"config.json","RepoTags":["Not Valid"],'
                b'"Layers":["aaaa/layer.tar","bbbb/layer.tar"]}]'
            },
            "invalid reference format",
        ),
        ({"manifest.json": b'[{"Config":"\xff","Layers":[]}]'}, "manifest.json is malformed"),
        ({"config.json": b'{"author":"\xff"}'}, "malformed image configuration"),
        ({"config.json": b'{"unknown":' + b"[" * 100_000}, "malformed image configuration"),
        (
            {
                "manifest.json": b'[{"Config":"config.json","Layers":['
                + b'"aaaa/layer.tar",' * 127
                + b'"x"]}]'
            },
            "has 128 layers, more than 127",
        ),
    ],
)
def test_a_bad_archive_is_refused_and_nothing_of_it_stays(
    store: ImageStore, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SampanError, match=message):
        load(store, tar_of(docker_archive(**changes)))
    assert_empty(store)
    assert len(load(store, tar_of(docker_archive()))) == 1


def test_an_archive_that_is_cut_off_leaves_nothing(store: ImageStore) -> None:
    raw = tar_of(docker_archive())
    for size in (100, 600, len(ONE) + 3000, len(raw) // 2):
        with pytest.raises(Invalid):
            load(store, raw[:size])
        assert_empty(store)


def test_what_is_no_archive_of_images_is_told_apart(store: ImageStore) -> None:
    with pytest.raises(Invalid, match=r"neither manifest\.json nor index\.json"):
        load(store, tar_of({"etc/passwd": b"root"}))
    with pytest.raises(Unsupported, match="first format"):
        load(store, tar_of({"repositories": b'{"app":{"v1":"aaaa"}}', "aaaa/layer.tar": ONE}))
    assert_empty(store)


def test_blobs_of_an_oci_archive_are_checked_against_their_names(store: ImageStore) -> None:
    members, _ = oci_archive()
    name = f"blobs/sha256/{digest_of(CONFIG)[7:]}"
    with pytest.raises(Invalid, match="other bytes than its name says"):
        load(store, tar_of({**members, name: CONFIG + b" "}))
    name = f"blobs/sha256/{digest_of(gzip.compress(ONE, mtime=0))[7:]}"
    with pytest.raises(Invalid, match="other bytes than its name says"):
        load(store, tar_of({**members, name: gzip.compress(ONE, mtime=5)}))
    assert_empty(store)


def test_documents_are_bounded(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_load, "MAX_DOCUMENT", 1000)
    with pytest.raises(Invalid, match="too large: 2000 bytes"):
        load(store, tar_of({"a.json": b"{" + b" " * 1999}))
    monkeypatch.undo()
    monkeypatch.setattr(archive_load, "MAX_DOCUMENTS", 1000)
    with pytest.raises(Invalid, match="too large"):
        load(store, tar_of({f"{number}.json": b"{" + b" " * 99 for number in range(20)}))


def test_layers_that_no_image_of_the_archive_needs_are_not_kept(store: ImageStore) -> None:
    load(store, tar_of(docker_archive(**{"cccc/layer.tar": tar_of({"x": b"unused"})})))
    assert set(store.layers.digests()) == {digest_of(ONE), digest_of(TWO)}
