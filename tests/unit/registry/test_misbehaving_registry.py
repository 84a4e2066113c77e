"""Pulls from a registry that misbehaves: a clear error, nothing half-made, and the next try succeeds."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.errors import Denied, Invalid, NotFound, SampanError, Unauthorized, Unavailable
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import ImageConfig, RootFS, encode_image_config
from sampan.oci.manifest import Descriptor, Index, Manifest, Platform, encode_manifest
from sampan.oci.reference import parse_reference
from sampan.registry import transport
from sampan.registry.client import RegistryClient
from sampan.registry.config import Credentials, RegistryConfig
from sampan.registry.progress import Progress
from sampan.registry.pull import pull
from sampan.registry.transport import Cancel
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
from sampan.testing.misbehaving_registry import Fault, MisbehavingRegistry

ANN = Credentials("ann", "secret")


@dataclass
class Rig:
    """A registry with one image of one layer, and a store to pull into."""

    registry: MisbehavingRegistry
    images: ImageStore
    layer: bytes
    layer_digest: Digest
    manifest: bytes
    reports: list[Progress]

    def pull(
        self,
        name: str = "team/app:1",
        credentials: Credentials | None = None,
        cancelled: threading.Event | None = None,
        **config: object,
    ) -> Image:
        client = RegistryClient(self.registry.host, RegistryConfig(**config), credentials)  # type: ignore[arg-type]
        try:
            return pull(
                client,
                parse_reference(f"{self.registry.host}/{name}"),
                self.images,
                platform=Platform("amd64", "linux"),
                report=self.reports.append,
                cancelled=cancelled or threading.Event(),
            )
        finally:
            client.close()

    def blob_requests(self) -> list[str]:
        """The Range header of each request for the layer."""
        return [one.headers.get("range", "") for one in self.registry.asked_for(self.layer_digest)]

    def fault(self, **fields: object) -> None:
        self.registry.blob_faults[self.layer_digest] = Fault(**fields)  # type: ignore[arg-type]

    def assert_nothing_visible(self) -> None:
        assert self.images.list() == []
        assert list(self.images.layers.digests()) == []


def make_layer() -> bytes:
    """A tar that does not compress, so that the blob is large enough to be cut."""
    out = io.BytesIO()
    content = b"".join(digest_of(str(number).encode())[7:].encode() for number in range(20_000))
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


TAR = make_layer()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)
    registry = MisbehavingRegistry()
    layer = gzip.compress(TAR, 1, mtime=0)
    layer_digest = registry.add_blob(layer)
    config = encode_image_config(ImageConfig("amd64", "linux", RootFS((digest_of(TAR),))))
    config_digest = registry.add_blob(config)
    manifest = encode_manifest(
        Manifest(
            Descriptor(media.OCI_CONFIG, config_digest, len(config)),
            (Descriptor(media.OCI_LAYER_GZIP, layer_digest, len(layer)),),
        )
    )
    registry.add_manifest("team/app", "1", manifest)
    metadata = Metadata(tmp_path)
    images = ImageStore(ContentStore(tmp_path / "content"), LayerStore(tmp_path / "layers"), metadata)
    with registry:
        yield Rig(registry, images, layer, layer_digest, manifest, [])
    metadata.close()


def test_a_good_registry_gives_the_image_and_the_progress_that_docker_shows(rig: Rig) -> None:
    image = rig.pull()
    assert image.diff_ids == (digest_of(TAR),)
    short = rig.layer_digest[7:19]
    shown = [(one.id, one.status) for one in rig.reports if one.status != "Downloading"]
    assert shown == [
        ("1", "Pulling from team/app"),
        (short, "Pulling fs layer"),
        (short, "Verifying Checksum"),
        (short, "Download complete"),
        (short, "Extracting"),
        (short, "Pull complete"),
        ("", f"Digest: {digest_of(rig.manifest)}"),
        ("", f"Status: Downloaded newer image for {rig.registry.host}/team/app:1"),
    ]
    assert any(one.status == "Downloading" and one.total == len(rig.layer) for one in rig.reports)


def test_a_connection_that_breaks_is_taken_up_by_range(rig: Rig) -> None:
    rig.fault(cut_at=100_000, times=3)
    rig.pull()
    assert rig.blob_requests() == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_a_partial_blob_is_kept_and_the_next_pull_goes_on_from_it(rig: Rig) -> None:
    rig.fault(cut_at=150_000, times=1)
    stopping = threading.Event()

    def stop_after_the_cut(progress: Progress) -> None:
        if progress.status == "Downloading":
            stopping.set()

    with pytest.raises(Cancel):
        client = RegistryClient(rig.registry.host, RegistryConfig())
        pull(
            client,
            parse_reference(f"{rig.registry.host}/team/app:1"),
            rig.images,
            platform=Platform(),
            report=stop_after_the_cut,
            cancelled=stopping,
        )
    rig.assert_nothing_visible()
    assert rig.images.content.partials() == {rig.layer_digest: 150_000}
    # Another daemon on the same root.
    rig.images.content = ContentStore(rig.images.content.root)
    rig.pull()
    assert rig.blob_requests()[-1] == "bytes=150000-"


def test_a_server_without_ranges_makes_the_download_begin_anew(rig: Rig) -> None:
    with rig.images.content.ingest(rig.layer_digest, len(rig.layer)) as ingest:
        ingest.write(rig.layer[:100_000])
    rig.fault(ignore_range=True)
    rig.pull()
    assert rig.blob_requests() == ["bytes=100000-"]


def test_an_answer_from_another_position_is_not_believed(rig: Rig) -> None:
    with rig.images.content.ingest(rig.layer_digest, len(rig.layer)) as ingest:
        ingest.write(rig.layer[:100_000])
    rig.fault(wrong_range=True)
    rig.pull()
    assert rig.blob_requests() == ["bytes=100000-", ""]


def test_a_partial_blob_that_was_damaged_is_fetched_again(rig: Rig) -> None:
    with rig.images.content.ingest(rig.layer_digest, len(rig.layer)) as ingest:
        ingest.write(bytes(100_000))
    rig.pull()
    assert rig.images.content.has(rig.layer_digest)


@pytest.mark.parametrize("how", ["other bytes", "too long", "endless"])
def test_wrong_bytes_are_refused_nothing_is_visible_and_the_next_try_succeeds(rig: Rig, how: str) -> None:
    if how == "other bytes":
        rig.fault(data=gzip.compress(b"x" * 100, mtime=0).ljust(len(rig.layer), b"\0"))
    elif how == "too long":
        rig.fault(data=rig.layer + b"more")
    else:
        rig.fault(endless=True)
    with pytest.raises(Invalid):
        rig.pull()
    rig.assert_nothing_visible()
    rig.registry.blob_faults.clear()
    assert rig.pull().diff_ids == (digest_of(TAR),)


def test_a_blob_shorter_than_its_descriptor_is_given_up_after_bounded_attempts(rig: Rig) -> None:
    rig.fault(data=rig.layer[:-1])
    with pytest.raises((Unavailable, Invalid)):
        rig.pull()
    rig.assert_nothing_visible()
    assert len(rig.blob_requests()) < 20
    rig.registry.blob_faults.clear()
    rig.pull()


def test_layers_of_a_manifest_that_are_not_those_of_the_configuration_are_refused(rig: Rig) -> None:
    other = gzip.compress(TAR[:-10240], mtime=0)
    digest = rig.registry.add_blob(other)
    config = encode_image_config(ImageConfig("amd64", "linux", RootFS((digest_of(b"something else"),))))
    raw = encode_manifest(
        Manifest(
            Descriptor(media.OCI_CONFIG, rig.registry.add_blob(config), len(config)),
            (Descriptor(media.OCI_LAYER_GZIP, digest, len(other)),),
        )
    )
    rig.registry.add_manifest("team/app", "lying", raw)
    with pytest.raises(Invalid, match=r"wrong diff id|unexpected|ends"):
        rig.pull("team/app:lying")
    rig.assert_nothing_visible()


def test_busy_and_failing_answers_are_tried_again(rig: Rig) -> None:
    rig.fault(status=503, times=2)
    rig.pull()
    assert len(rig.blob_requests()) == 3


def test_retry_after_is_heeded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str | None] = []
    monkeypatch.setattr(transport, "pause", lambda _attempt, after, _cancelled: waits.append(after))
    rig.fault(status=429, retry_after="7", times=1)
    rig.pull()
    assert waits == ["7"]


def test_a_manifest_with_another_digest_than_was_asked_for_is_refused(rig: Rig) -> None:
    wanted = digest_of(b"what was asked for")
    rig.registry.manifests[f"/v2/team/app/manifests/{wanted}"] = (media.OCI_MANIFEST, rig.manifest)
    with pytest.raises(Invalid, match=f"manifest verification failed for digest {wanted}"):
        rig.pull(f"team/app@{wanted}")


def test_a_manifest_that_is_too_large_is_refused(rig: Rig) -> None:
    rig.registry.add_manifest("team/app", "huge", b'{"a":"' + bytes(5 << 20) + b'"}')
    with pytest.raises(Invalid, match="larger than 4194304 bytes"):
        rig.pull("team/app:huge")


def test_foreign_layers_and_old_manifests_are_refused(rig: Rig) -> None:
    foreign = rig.manifest.replace(
        media.OCI_LAYER_GZIP.encode(), b"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
    rig.registry.add_manifest("team/app", "foreign", foreign)
    with pytest.raises(Invalid, match=r"foreign\.diff\.tar\.gzip are not supported"):
        rig.pull("team/app:foreign")
    rig.registry.add_manifest("team/app", "old", b'{"schemaVersion":1,"name":"x","fsLayers":[]}')
    with pytest.raises(Invalid, match="schema version 1"):
        rig.pull("team/app:old")


def test_an_index_leads_to_the_platforms_manifest_and_gives_its_digest(rig: Rig) -> None:
    inner = digest_of(rig.manifest)
    index = Index(
        (
            Descriptor(media.OCI_MANIFEST, digest_of(b"other"), 5, Platform("arm64", "linux")),
            Descriptor(media.OCI_MANIFEST, inner, len(rig.manifest), Platform("amd64", "linux")),
        )
    )
    digest = rig.registry.add_manifest("team/app", "multi", encode_manifest(index), media.OCI_INDEX)
    image = rig.pull("team/app:multi")
    assert image.manifest_descriptor is not None
    assert image.manifest_descriptor.digest == inner
    assert [one.digest for one in image.digests] == [digest]


def test_an_unknown_tag_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound, match=r"manifest for .*/team/app:2 not found: manifest unknown"):
        rig.pull("team/app:2")


def test_a_blob_on_another_host_is_fetched_without_the_credentials(rig: Rig) -> None:
    rig.registry.basic = True
    with MisbehavingRegistry() as storage:
        storage.blobs = rig.registry.blobs
        rig.fault(redirect=f"http://{storage.host}/elsewhere/blobs/{rig.layer_digest}")
        rig.pull(credentials=ANN)
        (asked,) = storage.asked
    assert "authorization" not in asked.headers
    assert rig.registry.asked_for("/blobs/")[-1].headers["authorization"].startswith("Basic ")


def test_redirects_end_somewhere(rig: Rig) -> None:
    rig.fault(redirect=f"http://{rig.registry.host}/v2/team/app/blobs/{rig.layer_digest}")
    with pytest.raises(Invalid, match="too many redirects"):
        rig.pull()


@pytest.mark.parametrize("url", ["http://[::1", "http://host:99999/", "ftp://host/", "file:///etc/passwd"])
def test_places_that_are_no_urls_are_refused_in_words(rig: Rig, url: str) -> None:
    rig.fault(redirect=url)
    with pytest.raises((Invalid, Denied, Unavailable), match=r"not a usable URL"):
        rig.pull()
    rig.registry.blob_faults.clear()
    rig.registry.token_realm = url
    with pytest.raises((Invalid, Denied, Unavailable), match=r"not a usable URL"):
        rig.pull()


def test_a_port_that_cannot_be_is_said_in_words() -> None:
    client = RegistryClient("127.0.0.1:99999", RegistryConfig())
    with pytest.raises(Unavailable, match=r'^Get "http://127.0.0.1:99999/v2/": .* invalid host or port$'):
        client.resolve(parse_reference("127.0.0.1:99999/x:1"))


def test_a_bearer_token_is_fetched_once_for_all_requests_of_a_scope(rig: Rig) -> None:
    rig.registry.token_realm = "own"
    rig.pull(credentials=ANN)
    (asked,) = rig.registry.asked_for("/token")
    assert "scope=repository%3Ateam%2Fapp%3Apull" in asked.path
    assert "service=test" in asked.path


def test_a_token_that_expires_during_a_pull_is_renewed(rig: Rig) -> None:
    rig.registry.token_realm = "own"

    def expire(progress: Progress) -> None:
        if progress.status == "Pulling fs layer":
            rig.registry.token = "another"

    client = RegistryClient(rig.registry.host, RegistryConfig(), ANN)
    reference = parse_reference(f"{rig.registry.host}/team/app:1")
    image = pull(
        client,
        reference,
        rig.images,
        platform=Platform("amd64", "linux"),
        report=expire,
        cancelled=threading.Event(),
    )
    client.close()
    assert image.diff_ids == (digest_of(TAR),)
    given = [one.headers["authorization"] for one in rig.registry.asked_for(rig.layer_digest)]
    assert given == ["Bearer the-token", "Bearer another"]


def test_an_identity_token_is_posted_and_its_password_is_never_needed(rig: Rig) -> None:
    rig.registry.token_realm = "own"
    rig.registry.identity_token = "the-identity"
    rig.pull(credentials=Credentials(identity_token="the-identity"))
    assert [one.method for one in rig.registry.asked_for("/token")] == ["POST"]


def test_login_gives_the_identity_token_of_a_token_service(rig: Rig) -> None:
    rig.registry.token_realm = "own"
    client = RegistryClient(rig.registry.host, RegistryConfig(), ANN)
    assert client.check_credentials() == "the-identity"
    wrong = RegistryClient(rig.registry.host, RegistryConfig(), Credentials("ann", "guess"))
    with pytest.raises(Unauthorized):
        wrong.check_credentials()


def test_a_token_service_elsewhere_gets_no_credentials(rig: Rig) -> None:
    with MisbehavingRegistry() as elsewhere:
        # Another address of this machine: another host, as far as names go.
        realm = f"http://localhost:{elsewhere.host.rpartition(':')[2]}/token"
        rig.registry.token_realm = realm
        with pytest.raises(Denied, match="does not belong to"):
            rig.pull(credentials=ANN)
        assert elsewhere.asked == []


def test_a_mirror_never_sees_the_registrys_credentials(rig: Rig) -> None:
    rig.registry.basic = True
    with MisbehavingRegistry(basic=True) as mirror:
        rig.pull(credentials=ANN, mirrors={rig.registry.host: (f"http://{mirror.host}/prefix",)})
        assert mirror.asked
        assert all("authorization" not in one.headers for one in mirror.asked)
        assert all(one.path.startswith("/prefix/v2/") for one in mirror.asked)


def test_a_mirror_that_has_a_part_only_is_completed_by_the_registry(rig: Rig) -> None:
    with MisbehavingRegistry() as mirror:
        mirror.manifests = dict(rig.registry.manifests)
        mirror.blobs = rig.registry.blobs
        mirror.blob_faults[rig.layer_digest] = Fault(status=404)
        rig.pull(mirrors={rig.registry.host: (f"http://{mirror.host}",)})
        assert rig.registry.asked_for("/manifests/") == []
        assert len(rig.blob_requests()) == 1


def test_a_mirror_with_wrong_bytes_is_left_for_the_registry(rig: Rig) -> None:
    with MisbehavingRegistry() as mirror:
        mirror.manifests = dict(rig.registry.manifests)
        mirror.blobs = rig.registry.blobs
        mirror.blob_faults[rig.layer_digest] = Fault(data=bytes(len(rig.layer)))
        image = rig.pull(mirrors={rig.registry.host: (f"http://{mirror.host}",)})
    assert image.diff_ids == (digest_of(TAR),)
    assert len(rig.blob_requests()) == 1


def test_a_mirror_that_keeps_failing_is_asked_no_more(rig: Rig) -> None:
    with MisbehavingRegistry() as mirror:
        mirror.manifests = dict(rig.registry.manifests)
        mirror.blobs = rig.registry.blobs
        for digest in mirror.blobs:
            mirror.blob_faults[digest] = Fault(status=503)
        rig.pull(mirrors={rig.registry.host: (f"http://{mirror.host}",)})
        assert len(mirror.asked_for("/blobs/")) == transport.ATTEMPTS


def test_a_pull_that_is_cancelled_says_so(rig: Rig) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SampanError):
        rig.pull(cancelled=stop)
    rig.assert_nothing_visible()


PULL = """
import sys, threading
from pathlib import Path
from sampan.oci.manifest import Platform
from sampan.oci.reference import parse_reference
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.registry.pull import pull
from sampan.storage.content import ContentStore
from sampan.storage.images import ImageStore
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
root, host = Path(sys.argv[1]), sys.argv[2]
images = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), Metadata(root))
pull(
    RegistryClient(host, RegistryConfig()), parse_reference(f"{host}/team/app:large"), images,
    platform=Platform(), cancelled=threading.Event(),
    report=lambda one: print(one.status, one.current, flush=True) if one.current else None,
)
"""


def test_a_pull_whose_process_is_killed_is_taken_up_by_the_next_one(rig: Rig, tmp_path: Path) -> None:
    tar = tar_of_random(3 << 20)
    layer = gzip.compress(tar, 0, mtime=0)
    digest = rig.registry.add_blob(layer)
    config = encode_image_config(ImageConfig("amd64", "linux", RootFS((digest_of(tar),))))
    manifest = Manifest(
        Descriptor(media.OCI_CONFIG, rig.registry.add_blob(config), len(config)),
        (Descriptor(media.OCI_LAYER_GZIP, digest, len(layer)),),
    )
    rig.registry.add_manifest("team/app", "large", encode_manifest(manifest))
    rig.registry.blob_faults[digest] = Fault(cut_at=5 << 19, stall=True, times=1)
    killed = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", PULL, killed, rig.registry.host], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"Downloading")
        child.kill()
    metadata = Metadata(killed)
    rig.images = ImageStore(ContentStore(killed / "content"), LayerStore(killed / "layers"), metadata)
    rig.images.layers.sweep()
    rig.assert_nothing_visible()
    assert rig.pull("team/app:large").diff_ids == (digest_of(tar),)
    resumed = rig.registry.asked_for(digest)[-1].headers["range"]
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= 1 << 20
    metadata.close()


def tar_of_random(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("random")
        entry.size = size
        archive.addfile(entry, io.BytesIO(random.Random(1).randbytes(size)))
    return out.getvalue()
