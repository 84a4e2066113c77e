"""Trees as tars, read back by GNU tar and Python's tarfile."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Invalid
from sampan.storage import tar_format as tf
from sampan.storage.tar_header import pack_header
from sampan.storage.tar_writer import DEPTH_MAX, TreeStats, write_tree


def written(root: Path, **options: object) -> tuple[bytes, TreeStats]:
    out = io.BytesIO()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        stats = write_tree(fd, out, **options)  # type: ignore[arg-type]
    finally:
        os.close(fd)
    return out.getvalue(), stats


def listing(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "b" / "c").mkdir(parents=True)
    (top / "b" / "file").write_bytes(b"content" * 1000)
    (top / "b" / "file").chmod(0o640)
    (top / "a").symlink_to("b/file")
    os.link(top / "b" / "file", top / "z")
    os.utime(top / "b" / "file", ns=(0, 1_600_000_000_999_999_999))
    (top / ("long" * 40)).write_bytes(b"")
    os.mkfifo(top / "pipe")
    return top


def test_members_are_sorted_and_a_directory_precedes_its_content(tree: Path) -> None:
    data, stats = written(tree)
    assert list(listing(data)) == ["a", "b", "b/c", "b/file", "long" * 40, "pipe", "z"]
    assert stats == TreeStats(entries=7, size=7000)


def test_a_second_name_of_a_file_is_a_hard_link(tree: Path) -> None:
    info = listing(written(tree)[0])["z"]
    assert (info.type, info.linkname, info.size) == (tarfile.LNKTYPE, "b/file", 0)


def test_times_are_cut_to_seconds_and_owners_are_numbers(tree: Path) -> None:
    info = listing(written(tree)[0])["b/file"]
    assert (info.mtime, info.uname, info.mode, info.pax_headers) == (1_600_000_000, "", 0o640, {})


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    first, _ = written(tree)
    os.rename(tree, tmp_path / "moved")
    assert written(tmp_path / "moved")[0] == first


def test_the_top_can_get_a_name_and_entries_an_owner(tree: Path) -> None:
    data, _ = written(tree, prefix="app", owner=(7, 8))
    infos = listing(data)
    assert infos["app"].isdir()
    assert infos["app/z"].linkname == "app/b/file"
    assert {(info.uid, info.gid) for info in infos.values()} == {(7, 8)}


def test_a_part_of_the_tree_or_one_file_can_be_asked_for(tree: Path) -> None:
    assert list(listing(written(tree, path="b", prefix="x")[0])) == ["x", "x/c", "x/file"]
    data, stats = written(tree, path="b/file", prefix="renamed")
    assert [(info.name, info.size) for info in listing(data).values()] == [("renamed", 7000)]
    assert stats.entries == 1


def test_a_link_that_is_asked_for_by_name_is_not_followed(tree: Path) -> None:
    (info,) = listing(written(tree, path="a", prefix="a")[0]).values()
    assert (info.issym(), info.linkname) == (True, "b/file")


def test_a_path_can_not_leave_the_root(tree: Path) -> None:
    (tree / "out").symlink_to("/../../../..")
    data, _ = written(tree, path="out/b/../../b", prefix="x")
    assert list(listing(data)) == ["x", "x/c", "x/file"]


def test_excluded_entries_are_left_out_with_what_is_below(tree: Path) -> None:
    data, _ = written(tree, exclude=lambda name: name in ("b", "pipe"))
    assert list(listing(data)) == ["a", "long" * 40, "z"]


def test_what_vanishes_while_the_tree_is_read_is_left_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def vanishing(path: object, flags: int, *arguments: object, **options: object) -> int:
        if path == b"file":
            raise FileNotFoundError
        return real_open(path, flags, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", vanishing)
    infos = listing(written(tree)[0])
    assert "b/file" not in infos
    assert (infos["z"].isreg(), infos["z"].size) == (True, 7000)


def test_directories_nested_too_deeply_are_refused_and_no_descriptor_stays_open(tmp_path: Path) -> None:
    fds = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(DEPTH_MAX + 1):
        os.mkdir("d", dir_fd=fds[-1])
        fds.append(os.open("d", os.O_RDONLY, dir_fd=fds[-1]))
        os.close(fds.pop(-2))
    os.close(fds[0])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Invalid, match="nested more than"):
        written(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    shutil.rmtree(tmp_path / "d")


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
def test_gnu_tar_unpacks_the_same_tree(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", target], input=written(tree)[0], check=True)
    assert written(target)[0] == written(tree)[0]
    assert (target / "z").samefile(target / "b" / "file")


@settings(max_examples=200, deadline=None)
@given(
    name=st.text(st.sampled_from("ab/ü"), min_size=1, max_size=320).map(lambda t: "n/" + t.strip("/") + "x"),
    size=st.sampled_from([0, 1, 0o77777777777, 0o100000000000, 1 << 50]),
    uid=st.sampled_from([0, 0o7777777, 0o10000000, 2**32 - 2]),
    mtime=st.integers(-(2**40), 2**40),
    link=st.text(st.sampled_from("l/"), max_size=150),
    value=st.binary(max_size=40),
)
def test_any_value_comes_back_by_tarfile(
    name: str, size: int, uid: int, mtime: int, link: str, value: bytes
) -> None:
    kind = tf.SYMLINK if link else tf.REGULAR
    data = pack_header(
        name.encode(), kind, mode=0o4755, uid=uid, gid=1, mtime=mtime, size=size, link=link.encode(),
        xattrs={b"user.x": value},
    )  # fmt: skip
    info = tarfile.TarFile(fileobj=io.BytesIO(data + bytes(1024)), mode="r").firstmember
    assert info is not None
    assert (info.name, info.size, info.uid, info.mtime, info.mode) == (name, size, uid, mtime, 0o4755)
    assert info.linkname == link
    assert info.pax_headers["SCHILY.xattr.user.x"].encode("utf-8", "surrogateescape") == value
