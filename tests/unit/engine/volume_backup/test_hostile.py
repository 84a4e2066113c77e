"""Backups that somebody made to do harm: refused, and nothing is outside of where they were unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from sampan.engine.volume_backup.placing import Limits
from sampan.engine.volume_backup.reading import unpack
from sampan.errors import Invalid

Added = tuple[tarfile.TarInfo, bytes]
ME = {"uid": os.getuid(), "gid": os.getgid(), "mtime": 1}


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode = kind, 0o755
    for key, value in {**ME, **fields}.items():
        setattr(made, key, value)
    return made


def regular(name: str, content: bytes = b"content") -> Added:
    return info(name, size=len(content)), content


def directory(name: str) -> Added:
    return info(name, tarfile.DIRTYPE), b""


HEAD = regular("sampan-backup.json", b'{"format":1,"volume":"v","created":"2026-11-25T15:00:00Z"}')
TOP = directory("data/")


def line(added: Added) -> bytes:
    """The manifest's line of an entry, as docs/volumes.md has it."""
    one, content = added
    entry: dict[str, object] = {"path": one.name.removeprefix("data").strip("/")}
    entry["type"] = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink"}[one.type]
    if one.type != tarfile.SYMTYPE:
        entry["mode"] = one.mode
    for key in ("uid", "gid"):
        if getattr(one, key):
            entry[key] = getattr(one, key)
    entry["mtime"] = int(one.mtime * 10**9)
    if one.type == tarfile.REGTYPE:
        if content:
            entry["size"] = len(content)
        entry["sha256"] = hashlib.sha256(content).hexdigest()
    elif one.type == tarfile.SYMTYPE:
        entry["target"] = one.linkname
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def archive(members: Sequence[Added]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one, content in members:
            tar.addfile(one, io.BytesIO(content))
    return zstandard.compress(out.getvalue())


def whole(
    entries: Sequence[Added],
    *,
    lines: Callable[[list[bytes]], list[bytes]] = lambda lines: lines,
    backup_id: str = "",
) -> bytes:
    """A complete backup of these entries; `lines` changes its manifest."""
    manifest = b"".join(lines([line(one) for one in entries]))
    summary = json.dumps({"id": backup_id or hashlib.sha256(manifest).hexdigest()}).encode()
    ending = [regular("sampan-manifest.ndjson", manifest), regular("sampan-summary.json", summary)]
    return archive([HEAD, *entries, *ending])


def unpacked(data: bytes, tmp_path: Path, **limits: object) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack([[data]], root, tmp_path, limits=Limits(**limits))  # type: ignore[arg-type]
    finally:
        os.close(root)
    return place


def test_the_archives_of_this_suite_are_backups_when_nothing_is_wrong_with_them(tmp_path: Path) -> None:
    link = info("data/link", tarfile.SYMTYPE, linkname="/etc/passwd"), b""
    place = unpacked(whole([TOP, directory("data/d"), regular("data/d/f"), link]), tmp_path)
    assert (place / "d/f").read_bytes() == b"content"
    assert os.readlink(place / "link") == "/etc/passwd"


LINK_OUT = info("data/out", tarfile.SYMTYPE, linkname=".."), b""


@pytest.mark.parametrize(
    "entries",
    [
        [TOP, regular("data/../escaped")],
        [TOP, regular("data/d/../../escaped")],
        [TOP, regular("../escaped")],
        [TOP, regular("/escaped")],
        [TOP, regular("data//f")],
        [TOP, regular("data/./f")],
        [TOP, regular("elsewhere/f")],
        [TOP, regular("dataf")],
        [TOP, LINK_OUT, regular("data/out/escaped")],
        [TOP, (info("data/out", tarfile.SYMTYPE, linkname="/tmp"), b""), regular("data/out/escaped")],
        [TOP, directory("data/d"), LINK_OUT, directory("data/out"), regular("data/out/escaped")],
        [TOP, regular("data/d/f")],
        [regular("data/f")],
        [TOP, TOP],
        [TOP, regular("data/f"), regular("data/f")],
        [TOP, directory("data/d"), directory("data/d")],
        [TOP, directory("data/d"), regular("data/e"), regular("data/d/late")],
        [TOP, (info("data/h", tarfile.LNKTYPE, linkname="/etc/passwd"), b"")],
        [TOP, (info("data/h", tarfile.LNKTYPE, linkname="data/../../etc/passwd"), b"")],
        [TOP, (info("data/h", tarfile.LNKTYPE, linkname="data/none"), b"")],
        [TOP, (info("data/h", tarfile.LNKTYPE, linkname="data"), b"")],
        [TOP, directory("data/d"), (info("data/h", tarfile.LNKTYPE, linkname="data/d"), b"")],
        [TOP, LINK_OUT, (info("data/h", tarfile.LNKTYPE, linkname="data/out/tree"), b"")],
        [TOP, (info("data/h", tarfile.LNKTYPE, linkname="base/f"), b"")],
        [TOP, (info("data/c", b"7", size=0), b""), (info("data/x", b"Z"), b"")],
        [TOP, (info("data/sda", tarfile.BLKTYPE, devmajor=8, devminor=0), b"")],
        [TOP, (info("data/mem", tarfile.CHRTYPE, devmajor=1, devminor=1), b"")],
        [TOP, (info("data/a", pax_headers={"SCHILY.xattr.security.selinux": "x"}), b"")],
        [TOP, (info("data/" + "n" * 300), b"")],
    ],
)
def test_entries_that_no_backup_has_are_refused(entries: list[Added], tmp_path: Path) -> None:
    (tmp_path / "tree").write_text("outside")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(Invalid):
        unpacked(archive([HEAD, *entries]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before | {"place"}
    assert (tmp_path / "tree").read_text() == "outside"
    assert (tmp_path / "tree").stat().st_nlink == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive at all",
        zstandard.compress(b"\0" * 1024),
        archive([TOP, regular("data/f")]),
        archive([regular("sampan-backup.json", b"{}"), TOP]),
        archive([regular("sampan-backup.json", b'{"format":99,"volume":"v","created":"x"}'), TOP]),
        archive([HEAD]),
        archive([HEAD, TOP]),
        archive([HEAD, HEAD, TOP]),
        archive([HEAD, TOP, regular("sampan-summary.json", b'{"id":""}')]),
        archive([HEAD, TOP, regular("sampan-manifest.ndjson", line(TOP))]),
        whole([TOP], backup_id="0" * 64),
        whole([TOP, regular("data/f")], lines=lambda lines: lines[:1]),
        whole([TOP, regular("data/f")], lines=lambda lines: [*lines, line(regular("data/g"))]),
        whole([TOP, regular("data/f")], lines=lambda lines: [lines[0], line(regular("data/f", b"other!!"))]),
        whole([TOP, regular("data/f")], lines=lambda lines: [lines[0], lines[1].replace(b"493", b"420")]),
        whole([TOP], lines=lambda _lines: [b"\xff\xfe"]),
    ],
)
def test_a_backup_that_is_none_or_contradicts_itself_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        unpacked(data, tmp_path)


def test_something_behind_the_end_is_refused(tmp_path: Path) -> None:
    manifest = line(TOP)
    summary = json.dumps({"id": hashlib.sha256(manifest).hexdigest()}).encode()
    ending = [regular("sampan-manifest.ndjson", manifest), regular("sampan-summary.json", summary)]
    with pytest.raises(Invalid, match="behind its end"):
        unpacked(archive([HEAD, TOP, *ending, regular("data/late")]), tmp_path)


def test_what_is_small_compressed_and_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    data = whole([TOP, regular("data/zeros", bytes(64 << 20))])
    assert len(data) < 100_000
    with pytest.raises(Invalid, match="larger than"):
        unpacked(data, tmp_path, size=32 << 20)
    assert (tmp_path / "place/zeros").exists() is False


def test_a_sparse_file_counts_with_its_holes(tmp_path: Path) -> None:
    huge = info(
        "data/huge",
        size=512,
        pax_headers={
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "data/huge",
            "GNU.sparse.realsize": str(1 << 40),
        },
    )
    content = f"1\n{1 << 40}\n0\n".encode().ljust(512, b"\0")
    with pytest.raises(Invalid, match="larger than"):
        unpacked(archive([HEAD, TOP, (huge, content)]), tmp_path, size=1 << 30)


def test_more_entries_than_allowed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="more than 100 "):
        unpacked(whole([TOP, *(regular(f"data/{n:05}", b"") for n in range(200))]), tmp_path, entries=100)


def test_directories_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    names = ["data"]
    for _ in range(600):
        names.append(f"{names[-1]}/d")
    with pytest.raises(Invalid, match="nested more than"):
        unpacked(archive([HEAD, *(directory(f"{name}/") for name in names)]), tmp_path)
