"""Uploads to a registry that misbehaves: they go on where they were, and what arrives is the blob."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sampan.errors import Denied, Invalid, Unavailable
from sampan.oci import media
from sampan.oci.digest import digest_of
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import parse_reference
from sampan.registry import transport, upload
from sampan.registry.answers import received
from sampan.registry.client import RegistryClient
from sampan.registry.config import Credentials, RegistryConfig
from sampan.testing.misbehaving_registry import Asked, MisbehavingRegistry, UploadFault

KIB = 1 << 10
DATA = random.Random(7).randbytes(1000 * KIB)
BLOB = Descriptor(media.OCI_LAYER_GZIP, digest_of(DATA), len(DATA))
ANN = Credentials("ann", "secret")


class Source:
    """Counts the bytes that were read to be sent."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        for at in range(offset, offset + length, 10 * KIB):
            piece = DATA[at : min(at + 10 * KIB, offset + length)]
            self.read_bytes += len(piece)
            yield piece


class Rig:
    def __init__(self, registry: MisbehavingRegistry) -> None:
        self.registry = registry
        self.source = Source()
        self.progress: list[int] = []
        self.reference = parse_reference(f"{registry.host}/team/app:1")

    def push(self, credentials: Credentials | None = None, *, mount_from: str = "") -> str:
        client = RegistryClient(self.registry.host, RegistryConfig(), credentials)
        try:
            return client.push_blob(
                self.reference, BLOB, self.source, mount_from=mount_from, progress=self.progress.append
            )
        finally:
            client.close()

    def assert_arrived(self) -> None:
        assert self.registry.blobs[BLOB.digest] == DATA
        assert max(self.progress) == self.progress[-1] == len(DATA)
        assert min(self.progress) >= 0

    def asked(self) -> list[Asked]:
        """Without the search for the endpoint, which is not about uploads."""
        return [one for one in self.registry.asked if "/uploads/" in one.path]

    def steps(self) -> list[str]:
        """ "PATCH 0-9", "POST", ... ; each in the order in which it was asked."""
        return [f"{one.method} {one.headers.get('content-range', '')}".strip() for one in self.asked()]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(upload, "CHUNK", 400 * KIB)
    monkeypatch.setattr(upload, "SMALLEST_CHUNK", 50 * KIB)
    monkeypatch.setattr(upload, "MONOLITHIC", 300 * KIB)
    with MisbehavingRegistry() as registry:
        yield Rig(registry)


def chunk(start: int, end: int) -> str:
    """A PATCH of the bytes from `start` up to `end`, in KiB."""
    return f"PATCH {start * KIB}-{end * KIB - 1}"


def test_a_blob_goes_in_bounded_chunks_and_is_closed_by_its_digest(rig: Rig) -> None:
    rig.push()
    rig.assert_arrived()
    assert rig.steps() == ["POST", chunk(0, 400), chunk(400, 800), chunk(800, 1000), "PUT"]
    assert rig.asked()[-1].path.endswith("digest=" + BLOB.digest.replace(":", "%3A"))
    assert rig.source.read_bytes == len(DATA)
    assert rig.progress == sorted(rig.progress)


def test_a_small_blob_needs_two_requests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MONOLITHIC", len(DATA))
    rig.push()
    rig.assert_arrived()
    assert rig.steps() == ["POST", "PUT"]


def test_the_registrys_smallest_chunk_is_kept_to(rig: Rig) -> None:
    rig.registry.chunk_minimum = 600 * KIB
    rig.registry.upload_faults = [UploadFault(cut_at=0)]
    rig.push()
    rig.assert_arrived()
    assert [step for step in rig.steps() if step.startswith("PATCH")][1:] == [chunk(0, 600), chunk(600, 1000)]


def test_a_chunk_that_breaks_off_is_taken_up_where_the_registry_has_it(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(cut_at=150 * KIB)]
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[:4] == ["POST", chunk(0, 400), "GET", chunk(150, 250)]
    assert rig.steps().count("POST") == 1
    # Only what the registry did not get of the broken chunk was read a second time.
    assert rig.source.read_bytes <= len(DATA) + 250 * KIB


def test_chunks_get_smaller_after_a_failure_so_that_a_bad_connection_gets_through(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(cut_at=0), UploadFault(cut_at=0)]
    rig.push()
    rig.assert_arrived()
    patches = [step for step in rig.steps() if step.startswith("PATCH")]
    assert patches[:4] == [chunk(0, 400), chunk(0, 100), chunk(0, 50), chunk(50, 100)]


def test_a_chunk_whose_answer_is_lost_is_not_sent_again(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(silent=True)]
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[:4] == ["POST", chunk(0, 400), "GET", chunk(400, 500)]
    assert rig.source.read_bytes == len(DATA)


def test_a_registry_that_keeps_less_than_was_sent_gets_the_rest(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(short=100 * KIB)]
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[1:3] == [chunk(0, 400), chunk(300, 700)]


def test_an_upload_that_the_registry_has_lost_begins_anew(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(method="NONE"), UploadFault(cut_at=20 * KIB)]
    rig.registry.upload_faults += [UploadFault(method="GET", forget=True)]
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[:5] == ["POST", chunk(0, 400), "GET", "POST", chunk(0, 100)]


def test_a_registry_that_loses_every_upload_is_given_up(rig: Rig) -> None:
    rig.registry.upload_faults = [
        UploadFault(method=one, forget=True) for one in ("PATCH", "PUT") for _ in range(9)
    ]
    with pytest.raises(Invalid, match="blob upload unknown"):
        rig.push()
    assert rig.steps().count("POST") == upload.SESSIONS


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
def test_busy_and_failing_answers_are_tried_again_without_losing_what_is_there(rig: Rig, method: str) -> None:
    rig.registry.upload_faults = [
        UploadFault(method=method, status=503),
        UploadFault(method=method, status=500),
    ]
    rig.push()
    rig.assert_arrived()
    assert len(rig.registry.uploads) == 0


def test_retry_after_is_heeded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str | None] = []
    monkeypatch.setattr(upload, "pause", lambda _attempt, after, _cancelled: waits.append(after))
    rig.registry.upload_faults = [UploadFault(status=429, retry_after="7")]
    rig.push()
    assert waits == ["7"]


def test_a_registry_that_keeps_failing_is_given_up(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(status=503) for _ in range(50)]
    with pytest.raises(Unavailable, match=f"upload of {BLOB.digest}: .* HTTP status 503"):
        rig.push()
    assert sum(step.startswith("PATCH") for step in rig.steps()) == upload.ATTEMPTS


def test_a_token_that_expires_in_the_middle_is_renewed_and_the_upload_goes_on(rig: Rig) -> None:
    rig.registry.token_realm = "own"
    rig.registry.upload_faults = [UploadFault(method="NONE"), UploadFault(expire=True)]
    rig.push(ANN)
    rig.assert_arrived()
    assert rig.steps().count("POST") == 2  # the first one is the question how to log in
    assert len([one for one in rig.registry.asked if one.path.startswith("/token")]) == 2
    assert rig.steps()[-4:] == [chunk(0, 400), chunk(400, 800), chunk(800, 1000), "PUT"]


def test_a_connection_that_is_closed_because_the_token_expired_is_taken_up_with_a_new_one(rig: Rig) -> None:
    rig.registry.token_realm = "own"
    rig.registry.upload_faults = [UploadFault(expire=True, cut_at=70 * KIB)]
    rig.push(ANN)
    rig.assert_arrived()
    assert rig.steps()[-1] == "PUT"
    assert chunk(70, 170) in rig.steps()
    assert len(rig.registry.uploads) == 0


def test_a_registry_that_takes_no_second_chunk_gets_the_blob_in_one_piece_at_last(rig: Rig) -> None:
    rig.registry.one_chunk_only = True
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[-2:] == ["POST", "PUT"]


def test_a_closing_request_whose_answer_is_lost_is_not_repeated(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(method="PUT", silent=True)]
    rig.push()
    rig.assert_arrived()
    assert rig.steps().count("POST") == 1
    assert rig.source.read_bytes == len(DATA)


def test_a_limit_on_the_way_makes_the_chunks_smaller(rig: Rig) -> None:
    rig.registry.body_limit = 120 * KIB
    rig.push()
    rig.assert_arrived()
    assert rig.steps().count("POST") == 1
    assert chunk(0, 100) in rig.steps()


def test_a_limit_below_a_small_blob_makes_chunks_of_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MONOLITHIC", len(DATA))
    rig.registry.body_limit = 300 * KIB
    rig.push()
    rig.assert_arrived()
    assert chunk(0, 100) in rig.steps()


def test_a_registry_without_chunks_gets_the_blob_in_one_piece(rig: Rig) -> None:
    rig.registry.no_chunks = True
    rig.push()
    rig.assert_arrived()
    assert rig.steps()[-2:] == ["POST", "PUT"]


def test_wrong_credentials_end_an_upload_at_once(rig: Rig) -> None:
    rig.registry.upload_faults = [UploadFault(status=403)]
    with pytest.raises(Denied, match=r"^denied: requested access to the resource is denied$"):
        rig.push()
    assert len(rig.steps()) == 2


@pytest.mark.parametrize(
    ("header", "have"),
    [
        ("0-99", 100),
        ("bytes=0-99", 100),
        ("0-0", 0),
        ("", 55),
        ("0-999", 1000),
        ("0-1000", None),
        ("5-99", None),
        ("0-" + "9" * 50, None),
        ("nonsense", None),
    ],
)
def test_a_range_says_how_much_is_there_or_is_not_believed(header: str, have: int | None) -> None:
    assert received(header, 55, 1000) == have
