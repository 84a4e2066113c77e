"""The content store: partial blobs, their verification, and what a crash or a full disk leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from sampan.errors import Invalid, NotFound, Unavailable
from sampan.oci.digest import Digest
from sampan.storage import content as content_module
from sampan.storage.content import ContentStore

DATA = bytes(range(256)) * 1000


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def test_the_directory_is_an_oci_image_layout(store: ContentStore) -> None:
    # image-spec image-layout.md: oci-layout with its version, index.json, blobs/<algorithm>/<hex>
    assert (store.root / "oci-layout").read_text() == '{"imageLayoutVersion":"1.0.0"}'
    assert (store.root / "index.json").exists()
    digest = store.put(DATA)
    assert (store.root / "blobs/sha256" / digest[7:]).read_bytes() == DATA


def test_the_content_of_images_is_for_the_engine_alone(store: ContentStore) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_a_blob_is_visible_only_after_its_commit(store: ContentStore) -> None:
    digest = sha256(DATA)
    with store.ingest(digest, len(DATA)) as ingest:
        ingest.write(DATA)
        assert not store.has(digest)
        ingest.commit()
    assert store.read(digest) == DATA
    assert list(store.digests()) == [digest]
    assert store.partials() == {}


def test_a_partial_blob_is_taken_up_where_it_was_left_by_another_process(store: ContentStore) -> None:
    digest = sha256(DATA)
    with store.ingest(digest, len(DATA)) as ingest:
        ingest.write(DATA[:100_000])
    again = ContentStore(store.root)
    assert again.partials() == {digest: 100_000}
    with again.ingest(digest, len(DATA)) as ingest:
        assert ingest.offset == 100_000
        assert b"".join(ingest.existing()) == DATA[:100_000]
        ingest.write(DATA[100_000:])
        ingest.commit()
    assert again.read(digest) == DATA


def test_other_bytes_than_the_digest_names_are_thrown_away_and_the_next_try_succeeds(
    store: ContentStore,
) -> None:
    digest = sha256(DATA)
    with store.ingest(digest, len(DATA)) as ingest:
        ingest.write(b"x" * len(DATA))
        with pytest.raises(Invalid, match=f"filesystem layer verification failed for digest {digest}"):
            ingest.commit()
    assert not store.has(digest)
    with store.ingest(digest, len(DATA)) as ingest:
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()
    assert store.has(digest)


def test_a_blob_that_is_too_short_is_not_published_and_is_kept(store: ContentStore) -> None:
    with store.ingest(sha256(DATA), len(DATA)) as ingest:
        ingest.write(DATA[:-1])
        with pytest.raises(Invalid, match="255999 bytes, expected 256000"):
            ingest.commit()
    assert store.partials() == {sha256(DATA): len(DATA) - 1}


def test_more_bytes_than_the_size_are_refused(store: ContentStore) -> None:
    with store.ingest(sha256(DATA), len(DATA)) as ingest:
        ingest.write(DATA)
        with pytest.raises(Invalid, match="more than the expected 256000 bytes"):
            ingest.write(b"!")
        assert ingest.offset == len(DATA)


def test_a_partial_file_longer_than_the_blob_is_begun_anew(store: ContentStore) -> None:
    digest = sha256(b"short")
    (store.root / "ingest" / digest[7:]).write_bytes(DATA)
    with store.ingest(digest, 5) as ingest:
        assert ingest.offset == 0


def test_a_second_ingest_waits_for_the_first_and_finds_the_blob_complete(store: ContentStore) -> None:
    digest = sha256(DATA)
    found: list[tuple[int, bool]] = []

    def second() -> None:
        with store.ingest(digest, len(DATA)) as ingest:
            found.append((ingest.offset, ingest.complete))
            ingest.commit()

    thread = threading.Thread(target=second)
    with store.ingest(digest, len(DATA)) as first:
        thread.start()
        first.write(DATA)
        first.commit()
        assert found == []
    thread.join(10)
    assert found == [(len(DATA), True)]


def test_a_present_blob_of_another_size_than_the_descriptor_says_is_refused(store: ContentStore) -> None:
    digest = store.put(DATA)
    with pytest.raises(Invalid, match="has 256000 bytes, not 7"):
        store.ingest(digest, 7)
    with store.ingest(digest, len(DATA)) as ingest:  # and the refusal has left no lock behind
        assert ingest.complete


def test_reading_is_bounded(store: ContentStore) -> None:
    digest = store.put(DATA)
    assert store.read(digest, limit=len(DATA)) == DATA
    with pytest.raises(Invalid, match="larger than 255999 bytes"):
        store.read(digest, limit=len(DATA) - 1)


def test_a_missing_blob_is_not_found(store: ContentStore) -> None:
    for call in (store.size, store.open, store.read):
        with pytest.raises(NotFound):
            call(sha256(b"nothing"))
    assert store.delete(sha256(b"nothing")) == 0


def test_a_digest_cannot_lead_out_of_the_store(store: ContentStore) -> None:
    with pytest.raises(Invalid):
        store.path(Digest("sha256:../../../../etc/passwd"))


def test_sweeping_takes_dead_writers_and_old_partials_but_not_what_is_under_way(store: ContentStore) -> None:
    ingests = store.root / "ingest"
    (ingests / "tmp-dead").write_bytes(DATA)
    old, young = sha256(b"old"), sha256(b"young")
    for digest in (old, young):
        (ingests / digest[7:]).write_bytes(b"o")
    os.utime(ingests / old[7:], (1, 1))
    with store.writer() as writer, store.ingest(sha256(DATA), len(DATA)) as ingest:
        writer.write(b"alive")
        ingest.write(b"alive")
        os.utime(ingests / sha256(DATA)[7:], (1, 1))
        assert store.sweep() == len(DATA) + 1
        assert writer.commit() == sha256(b"alive")
    assert set(store.partials()) == {young, sha256(DATA)}


def test_a_writer_that_is_left_without_commit_leaves_nothing(store: ContentStore) -> None:
    with store.writer() as writer:
        writer.write(DATA)
    assert list((store.root / "ingest").iterdir()) == []
    assert list(store.digests()) == []


def test_a_full_disk_is_unavailable_and_keeps_what_was_written(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256(DATA)
    with store.ingest(digest, len(DATA)) as ingest:
        ingest.write(DATA[:1000])

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(content_module, "_write_all", full)
        with pytest.raises(Unavailable, match="no space left on device"):
            ingest.write(DATA[1000:])
    monkeypatch.undo()
    with store.ingest(digest, len(DATA)) as ingest:
        assert ingest.offset == 1000
        ingest.write(DATA[1000:])
        ingest.commit()
    assert store.has(digest)
