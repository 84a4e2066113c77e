"""Attestations that a build has: beside the image in the store, in an archive and on a registry, in BuildKit's form."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.build.events import BuildEvent
from sampan.build.output_options import parse_output
from sampan.build.result import PlatformImage
from sampan.engine.build_outputs import BuildOutputs, Surroundings
from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig, RootFS
from sampan.oci.manifest import Platform
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.client import RegistryClient
from sampan.registry.config import Credentials, RegistryConfig
from sampan.storage.archive import load_archive, save_archive
from sampan.storage.content import ContentStore
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
from sampan.testing.fake_client import FakeClient

pytestmark = pytest.mark.root

PREDICATE = "https://slsa.dev/provenance/v0.2"


class Place:
    """A store with images of two platforms, and exports that attest them."""

    def __init__(self, root: Path) -> None:
        self.metadata = Metadata(root)
        self.store = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), self.metadata)
        self.built: list[PlatformImage] = []
        self.asked: list[tuple[str, Digest, list[str]]] = []

    def image(self, architecture: str) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(architecture))
        layer = ingest_tar(self.store, [out.getvalue()]).diff_id
        image = self.store.create(ImageConfig(architecture, "linux", RootFS((layer,))))
        self.built.append(PlatformImage(Platform(architecture, "linux"), image))

    def attest(
        self, image: PlatformImage, manifest: Digest, names: Sequence[Reference]
    ) -> Sequence[Attestation]:
        self.asked.append((str(image.platform), manifest, [name.familiar for name in names]))
        return [Attestation(PREDICATE, statement(manifest))]

    def export(self, client: FakeClient, *outputs: tuple[str, dict[str, str]], tag: str = "") -> BuildOutputs:
        events: list[BuildEvent] = []
        images: Any = SimpleNamespace(
            store=self.store, client=lambda domain, login: RegistryClient(domain, RegistryConfig(), login)
        )
        around = Surroundings(
            images, {"x": Credentials()}, client, events.append, threading.Event(), lambda _layers: -1,
            "linux/amd64", self.attest,
        )  # fmt: skip
        exports = BuildOutputs(around, self.built, [parse_reference(tag)] if tag else [])
        exports.perform([parse_output(*output) for output in outputs])
        return exports


def statement(manifest: Digest) -> bytes:
    return json.dumps({"_type": "https://in-toto.io/Statement/v0.1", "subject": manifest}).encode()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "store")
    yield made
    made.metadata.close()


def skopeo(*arguments: str) -> Any:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else done.stdout


def check_index(index: dict[str, Any], architectures: list[str]) -> list[dict[str, Any]]:
    """What BuildKit's attestation storage says of an index; the attestations' entries."""
    count = len(architectures)
    images, attestations = index["manifests"][:count], index["manifests"][count:]
    assert [one["platform"]["architecture"] for one in images] == architectures
    assert [one["platform"] for one in attestations] == [{"architecture": "unknown", "os": "unknown"}] * count
    assert [one["annotations"] for one in attestations] == [
        {"vnd.docker.reference.digest": one["digest"], "vnd.docker.reference.type": "attestation-manifest"}
        for one in images
    ]
    return list(attestations)


def test_an_archive_has_the_statements_as_layers(place: Place, tmp_path: Path) -> None:
    place.image("amd64")
    place.image("arm64")
    client = FakeClient(outputs=frozenset({"o"}))
    exports = place.export(client, ("oci", {"id": "o"}), tag="app:1")
    assert [one[0] for one in place.asked] == ["linux/amd64", "linux/arm64"]
    assert place.asked[0][2] == ["app:1"]
    with tarfile.open(fileobj=io.BytesIO(client.delivered["o"])) as tar:

        def read(digest: str) -> bytes:
            file = tar.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))
            assert file is not None
            data = file.read()
            assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
            return data

        top = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        assert top["manifests"][0]["digest"] == exports.response["containerimage.digest"]
        index = json.loads(read(top["manifests"][0]["digest"]))
        for entry in check_index(index, ["amd64", "arm64"]):
            manifest = json.loads(read(entry["digest"]))
            (layer,) = manifest["layers"]
            assert layer["mediaType"] == "application/vnd.in-toto+json"
            assert layer["annotations"] == {"in-toto.io/predicate-type": PREDICATE}
            assert read(layer["digest"]) == statement(entry["annotations"]["vnd.docker.reference.digest"])
            config = json.loads(read(manifest["config"]["digest"]))
            assert config["rootfs"] == {"diff_ids": [layer["digest"]], "type": "layers"}


def test_one_platform_has_an_index_too_and_goes_through_registry_and_archives(
    place: Place, tmp_path: Path, session_registry: Any
) -> None:
    place.image("amd64")
    name = f"{session_registry.host}/attested/app:1"
    exports = place.export(FakeClient(), ("image", {"push": "true"}), tag=name)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    (entry,) = check_index(raw, ["amd64"])
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/copy:1")
    found = place.store.index_of(name)
    assert found is not None
    assert found[0] == exports.response["containerimage.digest"]
    assert found[1].complete
    # Saved, removed and loaded again it is the same index.
    image = place.store.get(name)
    archive = io.BytesIO()
    save_archive(place.store, [(image, image.tags[0])], archive)
    for one in (*image.tags, *image.digests):
        if place.store.find(str(one)) is not None:
            place.store.remove(str(one))
    assert list(place.store.content.digests()) == []
    archive.seek(0)
    assert [one.id for one, _ in load_archive(place.store, archive)] == [image.id]
    again = place.store.index_of(name)
    assert again is not None
    assert again[0] == found[0]
    layer = again[1].attestations[0].layers[0].digest
    assert place.store.content.read(layer) == statement(entry["annotations"]["vnd.docker.reference.digest"])
