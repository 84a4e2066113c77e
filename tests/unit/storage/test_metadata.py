"""The metadata database: transactions, one daemon per root, and errors in words."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, Internal, Unavailable
from sampan.storage.metadata import Metadata, Table


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    opened = Metadata(tmp_path)
    yield opened
    opened.close()


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Metadata(tmp_path)
    first.put(Table.TAGS, "b", b"2")
    first.put(Table.TAGS, "a", b"1")
    first.put(Table.TAGS, "a", b"one")
    first.put(Table.IMAGES, "gone", b"x")
    first.delete(Table.IMAGES, "gone")
    first.delete(Table.IMAGES, "never there")
    first.close()
    second = Metadata(tmp_path)
    assert second.items(Table.TAGS) == [("a", b"one"), ("b", b"2")]
    assert second.items(Table.TAGS, prefix="b") == [("b", b"2")]
    assert second.get(Table.IMAGES, "gone") is None
    second.close()


def test_nobody_else_can_read_what_containers_were_given(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / "metadata.db").touch(mode=0o644)  # of a version that did not mind
    metadata = Metadata(root)
    metadata.put(Table.CONTAINERS, "c", b"PASSWORD=x")
    assert stat.S_IMODE(root.stat().st_mode) == 0o710
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.glob("metadata.db*")}
    metadata.close()
    assert files == {"metadata.db": 0o600, "metadata.db-wal": 0o600, "metadata.db-shm": 0o600}


def test_a_directory_with_somebody_elses_files_keeps_its_mode_as_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / "letter").touch()
    for _ in range(2):
        metadata = Metadata(root)
        assert stat.S_IMODE(root.stat().st_mode) == 0o755
        assert stat.S_IMODE((root / "metadata.db").stat().st_mode) == 0o600
        metadata.close()


def test_a_transaction_that_fails_leaves_nothing(metadata: Metadata) -> None:
    metadata.put(Table.TAGS, "a", b"before")
    with pytest.raises(RuntimeError):
        with metadata.transaction():
            metadata.put(Table.TAGS, "a", b"after")
            with metadata.transaction():
                metadata.put(Table.IMAGES, "i", b"1")
            assert metadata.get(Table.TAGS, "a") == b"after"
            raise RuntimeError
    assert metadata.get(Table.TAGS, "a") == b"before"
    assert metadata.get(Table.IMAGES, "i") is None


def test_others_see_a_transaction_only_when_it_is_complete(metadata: Metadata) -> None:
    seen: list[bytes | None] = []
    with metadata.transaction():
        metadata.put(Table.TAGS, "a", b"1")
        reader = threading.Thread(target=lambda: seen.append(metadata.get(Table.TAGS, "a")))
        reader.start()
        reader.join(10)
    assert seen == [None]
    assert metadata.get(Table.TAGS, "a") == b"1"


def test_threads_write_at_the_same_time_without_losing_anything(metadata: Metadata) -> None:
    def write(number: int) -> None:
        for step in range(50):
            with metadata.transaction(durable=False):
                metadata.put(Table.CONTAINERS, f"{number}-{step}", b"x")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(metadata.items(Table.CONTAINERS)) == 200


def test_a_second_daemon_on_the_same_root_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path)
    code = (
        "import sys, pathlib\nfrom sampan.storage.metadata import Metadata\n"
        "try: Metadata(pathlib.Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__, e)"
    )
    shown = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert "Conflict" in shown.stdout
    assert f"pid {os.getpid()}" in shown.stdout
    metadata.close()
    shown = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert shown.stdout == ""


def test_a_refusal_leaves_the_holder_undisturbed(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path)
    with pytest.raises(Conflict):
        Metadata(tmp_path)
    metadata.put(Table.TAGS, "a", b"1")
    with pytest.raises(Conflict):
        Metadata(tmp_path)
    metadata.close()


def test_acknowledged_writes_survive_the_death_of_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, os, pathlib\nfrom sampan.storage.metadata import Metadata, Table\n"
        "m = Metadata(pathlib.Path(sys.argv[1]))\n"
        "m.put(Table.CONTAINERS, 'c', b'1', durable=False)\nm.put(Table.TAGS, 't', b'2')\n"
        "t = m.transaction(); t.__enter__(); m.put(Table.TAGS, 'half', b'3')\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    metadata = Metadata(tmp_path)
    assert metadata.get(Table.CONTAINERS, "c") == b"1"
    assert metadata.get(Table.TAGS, "t") == b"2"
    assert metadata.get(Table.TAGS, "half") is None
    metadata.close()


def test_a_full_database_is_unavailable_and_the_next_write_succeeds(metadata: Metadata) -> None:
    writer = metadata._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(Unavailable, match="no space left on device"):
        metadata.put(Table.TAGS, "a", bytes(1 << 20))
    with pytest.raises(Unavailable, match="no space left on device"):
        with metadata.transaction():
            metadata.put(Table.TAGS, "b", b"small")
            metadata.put(Table.TAGS, "a", bytes(1 << 20))
    assert metadata.items(Table.TAGS) == []
    writer.execute("PRAGMA max_page_count = 1000000")
    metadata.put(Table.TAGS, "a", bytes(1 << 20))


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Metadata(tmp_path).close()
    with sqlite3.connect(tmp_path / "metadata.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(Internal, match="newer sampan"):
        Metadata(tmp_path)
    (tmp_path / "metadata.db").unlink()
    Metadata(tmp_path).close()  # and the root is not locked


def test_a_damaged_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(Internal, match="damaged"):
        Metadata(tmp_path)


def test_the_journal_has_its_blocks_before_the_disk_is_full(tmp_path: Path) -> None:
    with contextlib.closing(Metadata(tmp_path)) as metadata:
        assert (tmp_path / "metadata.db-wal").stat().st_blocks * 512 >= 6 << 20
        metadata.put(Table.SETTINGS, "a", b"1")
        shutil.copytree(tmp_path, tmp_path / "killed")
    # What a process killed at this moment leaves: frames, and the space behind them.
    with contextlib.closing(Metadata(tmp_path / "killed")) as metadata:
        assert metadata.get(Table.SETTINGS, "a") == b"1"
