"""What a backup's place is, frames of its stream, chains of files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sampan.cli.failure import Failure
from sampan.cli.volume_archive import BackupFile, frames, in_order, parse_place, upload


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-", "stream"),
        ("pg.tar.zst", "file"),
        ("backups/pg.tar.zst", "file"),
        ("/srv/registry.example/pg", "file"),
        ("./registry.example/pg", "file"),
        ("registry.example/pg", "registry"),
        ("registry.example/pg:monday", "registry"),
        ("localhost/pg", "registry"),
        ("localhost:5000/backups/pg", "registry"),
        ("registry.example/pg@sha256:" + "0" * 64, "registry"),
        ("oci://anything", "registry"),
        ("pg@monday", "snapshot"),
        ("./pg@monday", "file"),
    ],
)
def test_a_place_is_told_by_how_it_is_written(
    text: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_place(text).kind == kind


def test_a_directory_that_is_there_is_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.backups").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_place("old.backups/pg").kind == "file"
    assert parse_place("oci://old.backups/pg").kind == "registry"


def test_a_name_is_a_volumes_where_volumes_are_compared() -> None:
    assert parse_place("pg", volumes=True).kind == "volume"
    assert parse_place("./pg", volumes=True).kind == "file"
    assert parse_place("some/pg", volumes=True).kind == "file"


@pytest.mark.parametrize("size", [1, 3, 8, 9, 1000])
def test_frames_are_found_however_they_arrive(size: int) -> None:
    stream = b"".join(
        bytes((number, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
        for number, data in ((1, b"archive"), (2, b'{"a":1}'), (1, b""), (1, b"x" * 20), (2, b"{}"))
    )
    found = list(frames(stream[at : at + size] for at in range(0, len(stream), size)))
    assert b"".join(data for number, data in found if number == 1) == b"archive" + b"x" * 20
    assert [data for number, data in found if number == 2] == [b'{"a":1}', b"{}"]


def test_an_upload_is_pieces_with_their_lengths() -> None:
    sent: list[int] = []
    body = b"".join(upload([(io.BytesIO(b"first"), "1"), (io.BytesIO(b""), "2")], sent.append))
    assert body == b"\0\0\0\5first\0\0\0\0" + b"\0\0\0\0"
    assert sent == [5]


def made(path: Path, backup_id: str, base: str) -> BackupFile:
    body = f'{{"id":"{backup_id}","base":"{base}","at":0,"len":4}}'.encode()
    path.write_bytes(b"data" + b"\x5a\x2a\x4d\x18" + (248).to_bytes(4, "little") + body.ljust(248))
    return BackupFile(str(path))


def test_bases_are_put_in_order_by_what_they_say(tmp_path: Path) -> None:
    full, one, two = (
        made(tmp_path / name, name, base) for name, base in (("full", ""), ("one", "full"), ("two", "one"))
    )
    assert in_order(two, [one, full]) == [full, one]
    assert in_order(None, [two, full, one]) == [full, one, two]
    assert in_order(full, []) == []
    with pytest.raises(Failure, match=r"two is no base"):
        in_order(one, [full, two])


def test_a_file_without_a_backups_end_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"short", b"x" * 1000):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(Failure, match="no backup of a volume"):
            BackupFile(str(tmp_path / "file"))


def test_a_manifest_is_where_the_end_says_and_nowhere_else(tmp_path: Path) -> None:
    assert made(tmp_path / "good", "x", "").manifest() == b"data"
    body = b'{"id":"x","base":"","at":0,"len":99999}'
    (tmp_path / "bad").write_bytes(
        b"data" + b"\x5a\x2a\x4d\x18" + (248).to_bytes(4, "little") + body.ljust(248)
    )
    with pytest.raises(Failure, match="damaged"):
        BackupFile(str(tmp_path / "bad")).manifest()
