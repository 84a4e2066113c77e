"""Which snapshots a retention removes; names of snapshots; what differs between entries."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sampan.engine.model import epoch_ns
from sampan.engine.volume_backup.differences import Difference, Side, changed_fields, compare
from sampan.engine.volume_backup.format import Entry, bytes_of, text_of
from sampan.engine.volume_backup.snapshots import (
    Keep,
    Snapshot,
    SnapshotStore,
    Source,
    expired,
    parse_keep,
    parse_source,
)
from sampan.errors import Internal, Invalid, NotFound

NOW = datetime(2026, 11, 25, 15, tzinfo=UTC)


def taken(days: float, *, automatic: bool = True) -> Snapshot:
    created = (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Snapshot("pg", f"{days}-days-ago", created, automatic)


def removed(ages: list[Snapshot], keep: str) -> list[str]:
    now = epoch_ns(NOW.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return [one.tag for one in expired(ages, parse_keep(keep), now)]


def test_a_keep_of_an_age_removes_what_is_older() -> None:
    assert removed([taken(0), taken(6.9), taken(7.1), taken(30)], "7d") == ["30-days-ago", "7.1-days-ago"]
    assert removed([taken(0), taken(0.4), taken(0.6)], "12h") == ["0.6-days-ago"]
    assert removed([taken(0), taken(13), taken(15)], "2w") == ["15-days-ago"]


def test_a_keep_of_a_count_removes_all_but_the_newest() -> None:
    assert removed([taken(3), taken(1), taken(2)], "2") == ["3-days-ago"]
    assert removed([taken(3), taken(1)], "5") == []


def test_the_newest_stays_however_old_and_a_name_given_by_a_person_protects() -> None:
    assert removed([taken(30)], "7d") == []
    assert removed([taken(40), taken(30)], "7d") == ["40-days-ago"]
    assert removed([taken(90, automatic=False), taken(0)], "7d") == []
    assert removed([taken(90, automatic=False), taken(80, automatic=False), taken(0)], "1") == []


@pytest.mark.parametrize(
    ("text", "keep"), [("5", Keep(count=5)), ("90s", Keep(seconds=90)), ("3m", Keep(seconds=180))]
)
def test_a_keep_is_a_count_or_an_age(text: str, keep: Keep) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["0", "0d", "-1", "d", "7y", "7 d", "1.5d", "9999999"])
def test_another_keep_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_keep(text)


def test_a_source_is_a_volume_or_a_snapshot_of_one() -> None:
    assert parse_source("pg") == Source("pg")
    assert parse_source("pg@monday") == Source("pg", "monday")
    for text in ("pg@", "pg@..", "pg@../x", "pg@a/b", "pg@.hidden", "pg@a b"):
        with pytest.raises(Invalid):
            parse_source(text)


@pytest.mark.parametrize(
    "name", [b"plain", b"back\\slash", b"\xff\xfe", "ü€".encode(), b"\\xff", b"\\\\", b"\xff\\x41", b"a\\x4"]
)
def test_every_name_of_a_file_has_a_text_of_its_own(name: bytes) -> None:
    assert bytes_of(text_of(name)) == name


def test_trees_are_compared_in_their_own_order() -> None:
    """`a.b` sorts before `a/b` as a text, and after it in a tree."""
    first = [Entry("", "dir"), Entry("a", "dir"), Entry("a/b", "file"), Entry("a.b", "file")]
    second = [Entry("", "dir"), Entry("a", "dir"), Entry("a.b", "file", size=3), Entry("c", "file")]
    found = list(compare(Side(entries=first), Side(entries=second)))
    assert found == [
        Difference("D", "/a/b"),
        Difference("C", "/a.b", ("content",), 3),
        Difference("A", "/c"),
    ]


def test_what_changed_of_an_entry_is_named() -> None:
    before = Entry("f", "file", 0o644, 1, 1, 10, 3, "aa")
    assert changed_fields(before, before) == ()
    assert changed_fields(before, Entry("f", "file", 0o600, 2, 1, 11, 3, "bb")) == (
        "content",
        "mode",
        "owner",
        "time",
    )
    assert changed_fields(before, Entry("f", "dir", 0o644, 1, 1, 10)) == ("type",)
    assert changed_fields(Entry("d", "dir", mtime=1), Entry("d", "dir", mtime=2)) == ()


def test_a_snapshot_is_never_looked_for_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "outside/_snapshots/monday"
    place.mkdir(parents=True)
    (place / "snapshot.json").write_text('{"volume":"x","tag":"monday","created":"2026-11-25T15:00:00Z"}')
    (tmp_path / "volumes").mkdir()
    store = SnapshotStore(tmp_path / "volumes")
    for volume in ("../outside", f"{tmp_path}/outside", "..", "", "none"):
        with pytest.raises((Invalid, NotFound)):
            store.tree(Source(volume, "monday"))


def test_snapshots_that_are_damaged_or_just_removed_keep_nobody_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg").mkdir()
    store = SnapshotStore(tmp_path)
    for tag in ("good", "empty", "going"):
        store.publish(store.begin(), Snapshot("pg", tag, "2026-11-25T15:00:00Z"))
    record = tmp_path / "pg/_snapshots/empty/snapshot.json"
    look = store.get

    def going(snapshot: Source) -> Snapshot:
        if snapshot.tag == "going":
            raise NotFound("No such snapshot: pg@going")
        return look(snapshot)

    monkeypatch.setattr(store, "get", going)
    for damage in (b"", b'{"volume":"\xff"}'):  # as after a power failure
        record.write_bytes(damage)
        assert [one.tag for one in store.list("pg")] == ["good"]
        with pytest.raises(Internal, match="pg@empty is damaged"):
            store.tree(Source("pg", "empty"))
    store.remove(Source("pg", "empty"))
    assert not record.parent.exists()


def test_a_snapshot_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg").mkdir()
    store = SnapshotStore(tmp_path)
    flushed: list[tuple[list[str], bool]] = []
    place = store.directory(Source("pg", "one"))

    def syncfs(descriptor: int, _subject: str) -> None:
        flushed.append((sorted(os.listdir(descriptor)), place.exists()))

    monkeypatch.setattr("sampan.linux.durability.syncfs", syncfs)
    store.publish(store.begin(), Snapshot("pg", "one", "2026-11-25T15:00:00Z"))
    assert flushed == [(["data", "snapshot.json"], False)]
    assert place.exists()
