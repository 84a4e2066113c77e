"""Pull and push against Debian's docker-registry; what it holds is checked with skopeo."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Denied, NotFound, SampanError, Unauthorized, Unavailable
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS
from sampan.oci.manifest import Platform
from sampan.oci.reference import Reference, parse_reference
from sampan.registry import transport, upload
from sampan.registry.client import RegistryClient
from sampan.registry.config import Credentials, RegistryConfig
from sampan.registry.progress import Progress
from sampan.registry.pull import pull
from sampan.registry.push import push
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
from sampan.testing.misbehaving_registry import MisbehavingRegistry, UploadFault
from sampan.testing.proxy import CuttingProxy
from sampan.testing.registry import RealRegistry

pytestmark = pytest.mark.root

AMD64 = Platform("amd64", "linux")


class Stores:
    def __init__(self, root: Path) -> None:
        self.metadata = Metadata(root)
        self.images = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), self.metadata)
        self.reports: list[Progress] = []

    def make_image(self, *contents: bytes) -> Image:
        layers = [ingest_tar(self.images, [layer_tar(content)]) for content in contents]
        rootfs = RootFS(tuple(layer.diff_id for layer in layers))
        return self.images.create(
            ImageConfig(
                "amd64", "linux", rootfs, ContainerDefaults(cmd=("true",)), created="2024-01-01T00:00:00Z"
            )
        )

    def push(self, client: RegistryClient, reference: Reference, image: Image) -> str:
        descriptor = push(
            client, reference, image, self.images, report=self.reports.append, cancelled=threading.Event()
        )
        return descriptor.digest

    def pull(self, client: RegistryClient, reference: Reference) -> Image:
        return pull(
            client,
            reference,
            self.images,
            platform=AMD64,
            report=self.reports.append,
            cancelled=threading.Event(),
        )

    def statuses(self) -> list[str]:
        return [report.status for report in self.reports]


def layer_tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(f"file-{len(content)}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path / "here")
    yield stores
    stores.metadata.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path / "there")
    yield stores
    stores.metadata.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    with RealRegistry(tmp_path / "registry") as started:
        yield started


def client_of(
    registry: RealRegistry, credentials: Credentials | None = None, **config: object
) -> RegistryClient:
    return RegistryClient(registry.host, RegistryConfig(**config), credentials)  # type: ignore[arg-type]


def name(registry: RealRegistry, rest: str = "team/app:v1") -> Reference:
    return parse_reference(f"{registry.host}/{rest}")


def test_an_image_that_is_pushed_is_pulled_back_the_same(
    registry: RealRegistry, here: Stores, there: Stores
) -> None:
    image = here.make_image(b"one", b"two" * 100_000)
    digest = here.push(client_of(registry), name(registry), image)
    pulled = there.pull(client_of(registry), name(registry))
    assert pulled.id == image.id
    assert pulled.diff_ids == image.diff_ids
    assert [str(tag) for tag in pulled.tags] == [str(name(registry))]
    assert [found.digest for found in pulled.digests] == [digest]
    assert f"Status: Downloaded newer image for {registry.host}/team/app:v1" in there.statuses()
    shown = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/team/app:v1"],
            check=True,
            capture_output=True,
        ).stdout
    )
    assert shown["Digest"] == digest
    assert len(shown["Layers"]) == 2


def test_an_image_from_skopeo_is_pulled_and_pushed_on_with_its_digest(
    registry: RealRegistry, here: Stores, there: Stores, tmp_path: Path
) -> None:
    here.push(client_of(registry), name(registry), here.make_image(b"x" * 5000))
    for kind in ("oci", "v2s2"):
        other = f"docker://{registry.host}/copied/{kind}:1"
        subprocess.run(
            ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", f"--format={kind}",
             f"docker://{registry.host}/team/app:v1", other],
            check=True, capture_output=True,
        )  # fmt: skip
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", other], check=True, capture_output=True
        ).stdout
        pulled = there.pull(client_of(registry), name(registry, f"copied/{kind}:1"))
        assert pulled.manifest_raw == raw
        again = there.push(client_of(registry), name(registry, f"again/{kind}:1"), pulled)
        assert again == pulled.digests[0].digest


def test_a_second_pull_loads_nothing_and_says_so(registry: RealRegistry, here: Stores) -> None:
    here.push(client_of(registry), name(registry), here.make_image(b"one"))
    here.pull(client_of(registry), name(registry))
    here.reports.clear()
    here.pull(client_of(registry), name(registry))
    assert here.statuses()[0] == "Pulling from team/app"
    assert here.statuses()[1].startswith("Digest: ")
    assert here.statuses()[2:] == [f"Status: Image is up to date for {registry.host}/team/app:v1"]


def test_a_layer_that_is_here_already_is_not_loaded_again(
    registry: RealRegistry, here: Stores, there: Stores
) -> None:
    here.push(client_of(registry), name(registry, "team/app:1"), here.make_image(b"base"))
    here.push(client_of(registry), name(registry, "team/app:2"), here.make_image(b"base", b"more"))
    there.pull(client_of(registry), name(registry, "team/app:1"))
    there.reports.clear()
    there.pull(client_of(registry), name(registry, "team/app:2"))
    assert there.statuses().count("Already exists") == 1
    assert there.statuses().count("Pull complete") == 1


def test_layers_that_another_repository_has_are_mounted_and_not_sent(
    registry: RealRegistry, here: Stores
) -> None:
    image = here.make_image(b"shared" * 1000)
    here.push(client_of(registry), name(registry, "first/app:1"), image)
    here.reports.clear()
    here.push(client_of(registry), name(registry, "second/app:1"), image)
    assert "Mounted from first/app" in here.statuses()


def test_an_unknown_tag_is_not_found_in_dockers_words(registry: RealRegistry, here: Stores) -> None:
    here.push(client_of(registry), name(registry), here.make_image(b"one"))
    with pytest.raises(NotFound, match=r"manifest for .*/team/app:v2 not found: manifest unknown"):
        here.pull(client_of(registry), name(registry, "team/app:v2"))


def test_a_registry_that_is_not_there_is_unavailable(registry: RealRegistry, here: Stores) -> None:
    registry.stop()
    with pytest.raises(Unavailable, match="connection refused"):
        here.pull(client_of(registry), name(registry))


def test_a_registry_with_tls_is_trusted_by_the_ca_in_certs_d_only(tmp_path: Path, here: Stores) -> None:
    with RealRegistry(tmp_path / "registry", tls=True) as registry:
        certs = tmp_path / "certs.d"
        image = here.make_image(b"one")
        with pytest.raises(Unavailable, match="x509: certificate signed by unknown authority"):
            here.push(client_of(registry, certs_dir=certs, loopback_is_insecure=False), name(registry), image)
        registry.install_ca(certs)
        strict = client_of(registry, certs_dir=certs, loopback_is_insecure=False)
        here.push(strict, name(registry), image)
        assert here.pull(strict, name(registry)).id == image.id


def test_basic_credentials_are_needed_and_checked(tmp_path: Path, here: Stores) -> None:
    with RealRegistry(tmp_path / "registry", htpasswd={"anna": "s3cret"}) as registry:
        image = here.make_image(b"one")
        right, wrong = Credentials("anna", "s3cret"), Credentials("anna", "guess")
        with pytest.raises((Unauthorized, Denied)):
            here.push(client_of(registry), name(registry), image)
        with pytest.raises((Unauthorized, Denied)):
            here.push(client_of(registry, wrong), name(registry), image)
        here.push(client_of(registry, right), name(registry), image)
        assert here.pull(client_of(registry, right), name(registry)).id == image.id
        assert client_of(registry, right).check_credentials() == ""
        with pytest.raises(Unauthorized):
            client_of(registry, wrong).check_credentials()


def test_a_mirror_is_asked_first_and_the_registry_when_the_mirror_fails(
    tmp_path: Path, registry: RealRegistry, here: Stores, there: Stores
) -> None:
    with RealRegistry(tmp_path / "mirror") as mirror:
        image = here.make_image(b"only at the mirror")
        here.push(client_of(mirror), name(mirror), image)
        mirrors = {registry.host: (f"http://{mirror.host}",)}
        assert there.pull(client_of(registry, mirrors=mirrors), name(registry)).id == image.id
        other = here.make_image(b"only at the registry")
        here.push(client_of(registry), name(registry, "team/other:1"), other)
        assert there.pull(client_of(registry, mirrors=mirrors), name(registry, "team/other:1")).id == other.id
    with pytest.raises(SampanError):
        there.pull(client_of(registry), name(registry, "team/app:v1"))


def test_pulls_of_one_image_at_the_same_time_all_succeed(
    registry: RealRegistry, here: Stores, there: Stores
) -> None:
    image = here.make_image(b"a" * 2_000_000, b"b" * 3_000_000)
    here.push(client_of(registry), name(registry), image)
    found: list[object] = []

    def one() -> None:
        try:
            found.append(there.pull(client_of(registry), name(registry)).id)
        except SampanError as error:
            found.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [image.id] * 4


def test_a_push_that_is_denied_for_one_layer_leaves_no_manifest(here: Stores) -> None:
    image = here.make_image(b"first", b"second", b"third")
    with MisbehavingRegistry() as refusing:
        refusing.upload_faults = [UploadFault(method="PUT", status=403)]
        client = RegistryClient(refusing.host, RegistryConfig())
        with pytest.raises(Denied, match="requested access to the resource is denied"):
            here.push(client, parse_reference(f"{refusing.host}/team/app:1"), image)
        assert refusing.manifests == {}
        here.push(client, parse_reference(f"{refusing.host}/team/app:1"), image)
        assert "/v2/team/app/manifests/1" in refusing.manifests


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1 << 20)
    monkeypatch.setattr(upload, "MONOLITHIC", 1 << 19)
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.01)


def push_through(proxy: CuttingProxy, here: Stores, contents: bytes) -> str:
    client = RegistryClient(proxy.host, RegistryConfig())
    return here.push(client, parse_reference(f"{proxy.host}/team/app:v1"), here.make_image(contents))


def sent_of(here: Stores) -> list[int]:
    return [one.current for one in here.reports if one.status == "Pushing"]


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_whose_chunk_never_arrives_goes_on_from_the_last_one(
    registry: RealRegistry, here: Stores, there: Stores
) -> None:
    contents = random.Random(3).randbytes(6 << 20)
    with CuttingProxy(registry.port) as proxy:
        # The registry sees nothing of the chunk, as behind a proxy that takes requests whole.
        proxy.cut_before = b"PATCH"
        whole = len(contents)
        push_through(proxy, here, contents)
        assert proxy.cuts == 1
        assert proxy.up < whole + (1 << 20)
    assert there.pull(client_of(registry), name(registry)).id == here.images.list()[0].id
    assert max(sent_of(here)) <= whole + (1 << 16)


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_that_is_cut_inside_a_chunk_arrives_all_the_same(
    registry: RealRegistry, here: Stores, there: Stores
) -> None:
    """distribution 2.8 drops an upload that breaks off inside a chunk; later ones keep it. Both must do."""
    contents = random.Random(4).randbytes(6 << 20)
    with CuttingProxy(registry.port) as proxy:
        proxy.cut_up_at = (3 << 20) + 77_777
        push_through(proxy, here, contents)
        assert proxy.cuts == 1
    assert there.pull(client_of(registry), name(registry)).id == here.images.list()[0].id


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_outlives_a_restart_of_the_registry(
    registry: RealRegistry, here: Stores, there: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.registry.progress.INTERVAL", 0.0)
    contents = random.Random(5).randbytes(6 << 20)

    def report(progress: Progress) -> None:
        if progress.status == "Pushing" and progress.current > 2 << 20 and not here.reports:
            here.reports.append(progress)
            registry.stop()
            registry.start()

    image = here.make_image(contents)
    push(client_of(registry), name(registry), image, here.images, report=report, cancelled=threading.Event())
    assert here.reports
    assert there.pull(client_of(registry), name(registry)).id == image.id
