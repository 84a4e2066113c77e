"""Unpacking below a directory: nothing leaves it, Docker's rules for what replaces what."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Conflict, Invalid, SampanError
from sampan.storage.extract import CALLER, Extracted, ExtractOptions, extract_tar

MINE = ExtractOptions(owner=CALLER)
Entry = tuple[str, bytes, str | bytes]


def archive(*entries: Entry, mode: int = 0o644, mtime: int = 1_500_000_000) -> bytes:
    """Entries are (name, type, link target or content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, what in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, mtime
            info.mode = 0o755 if kind == tarfile.DIRTYPE else mode
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.linkname = what
                tar.addfile(info)
    return out.getvalue()


FILE, DIR, SYM, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("untouched")
    top = tmp_path / "root"
    top.mkdir()
    return top


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def unpack(root: Path, data: bytes, options: ExtractOptions = MINE, directory: str = "") -> Extracted:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return extract_tar(io.BytesIO(data), fd, options, directory=directory)
    finally:
        os.close(fd)


def test_directories_that_an_archive_does_not_list_can_get_its_time(root: Path) -> None:
    (root / "there").mkdir()
    for name in ("there", "."):
        os.utime(root / name, (1, 1))
    data = archive(
        ("listed", DIR, ""), ("listed/not/f", FILE, b"x"), ("there/f", FILE, b"y"), mtime=1_000_000
    )
    assert unpack(root, data, ExtractOptions(settle=True)).newest == 1_000_000
    times = {name: (root / name).stat().st_mtime for name in ("listed", "listed/not", "there")}
    assert set(times.values()) == {1_000_000}


def test_content_modes_times_and_links_are_restored(root: Path) -> None:
    data = archive(
        ("d", DIR, ""), ("d/f", FILE, b"body" * 999), ("d/s", SYM, "f"), ("h", HARD, "d/f"), mode=0o640
    )
    unpacked = unpack(root, gzip.compress(data))
    assert (unpacked.entries, unpacked.size) == (4, 3996)
    assert (root / "d/f").read_bytes() == b"body" * 999
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o640
    assert os.readlink(root / "d/s") == "f"
    assert (root / "h").samefile(root / "d/f")
    assert {(root / name).lstat().st_mtime for name in ("d", "d/f", "d/s")} == {1_500_000_000}


@pytest.mark.parametrize("name", ["../outside", "/../outside", "a/../../outside", "a/../.."])
def test_a_name_that_climbs_out_is_refused(root: Path, name: str) -> None:
    with pytest.raises(Invalid, match="is outside"):
        unpack(root, archive((name, FILE, b"evil")))
    assert (root.parent / "outside").read_text() == "untouched"


def test_an_absolute_name_lands_below_the_root(root: Path) -> None:
    unpack(root, archive(("/etc/passwd", FILE, b"x")))
    assert (root / "etc/passwd").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["..", "../..", "/", "/..", "a/../../.."])
def test_a_symlink_leads_no_further_than_the_root(root: Path, target: str) -> None:
    unpack(root, archive(("a", DIR, ""), ("link", SYM, target), ("link/outside", FILE, b"inside")))
    assert (root.parent / "outside").read_text() == "untouched"
    assert (root / "outside").read_bytes() == b"inside"


def test_a_symlink_at_the_last_part_is_replaced_not_written_through(root: Path) -> None:
    (root / "target").write_text("kept")
    unpack(root, archive(("l", SYM, "target"), ("l", FILE, b"new")))
    assert ((root / "target").read_text(), (root / "l").read_text()) == ("kept", "new")
    assert not (root / "l").is_symlink()


def test_a_directory_replaces_a_symlink(root: Path) -> None:
    (root / "real").mkdir()
    (root / "l").symlink_to("real")
    unpack(root, archive(("l", DIR, ""), ("l/x", FILE, b"")))
    assert not (root / "l").is_symlink()
    assert (root / "l/x").exists()
    assert not (root / "real/x").exists()


@pytest.mark.parametrize("target", ["../outside", "/../outside", "link/outside", "missing", "", "d"])
def test_a_hard_link_to_the_outside_to_nothing_or_to_a_directory_is_refused(root: Path, target: str) -> None:
    with pytest.raises(Invalid):
        unpack(root, archive(("d", DIR, ""), ("link", SYM, "../.."), ("h", HARD, target)))
    assert (root.parent / "outside").stat().st_nlink == 1


def test_a_parent_that_was_replaced_is_not_used_any_more(root: Path) -> None:
    unpack(root, archive(("d/x", FILE, b"1"), ("e", DIR, ""), ("d", SYM, "e"), ("d/x", FILE, b"2")))
    assert (root / "e/x").read_bytes() == b"2"


def test_a_file_replaces_a_tree_and_back(root: Path) -> None:
    unpack(root, archive(("d/deep/x", FILE, b""), ("d", FILE, b"file"), ("d", DIR, ""), ("d/y", FILE, b"")))
    assert os.listdir(root / "d") == ["y"]


def test_a_hard_link_to_its_own_name_keeps_the_file(root: Path) -> None:
    unpack(root, archive(("f", FILE, b"data"), ("f", HARD, "f"), ("g", HARD, "f"), ("g", HARD, "f")))
    assert (root / "f").read_bytes() == b"data"
    assert (root / "f").stat().st_nlink == 2


def test_docker_cps_rule_refuses_to_exchange_directories_and_files(root: Path) -> None:
    (root / "d").mkdir()
    (root / "f").write_text("")
    options = ExtractOptions(owner=CALLER, no_overwrite_dir_non_dir=True)
    with pytest.raises(Conflict, match='cannot overwrite directory "d" with non-directory'):
        unpack(root, archive(("d", FILE, b"")), options)
    with pytest.raises(Conflict, match='cannot overwrite non-directory "f" with directory'):
        unpack(root, archive(("f", DIR, "")), options)
    unpack(root, archive(("f", FILE, b"new")), options)
    assert (root / "f").read_text() == "new"


def test_unpacks_into_a_directory_inside_the_root_through_its_symlinks(root: Path) -> None:
    (root / "real").mkdir()
    (root / "link").symlink_to("/real")
    unpack(root, archive(("x/y", FILE, b"1"), ("z", HARD, "x/y")), directory="/link")
    assert (root / "real/z").samefile(root / "real/x/y")


def test_the_target_directorys_own_attributes_stay(root: Path) -> None:
    root.chmod(0o711)
    unpack(root, archive(("./", DIR, ""), ("./a", FILE, b"")))
    assert stat.S_IMODE(root.stat().st_mode) == 0o711


def test_set_id_bits_are_kept_unless_refused(root: Path) -> None:
    data = archive(("f", FILE, b""), mode=0o6755)
    unpack(root, data)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o6755
    unpack(root, data, ExtractOptions(owner=CALLER, keep_set_id=False))
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755


def test_device_nodes_can_be_refused_and_unknown_types_always_are(root: Path) -> None:
    options = ExtractOptions(owner=CALLER, devices=False)
    with pytest.raises(Invalid, match="not accepted"):
        unpack(root, archive(("p", tarfile.FIFOTYPE, "")), options)
    unpack(root, archive(("p", tarfile.FIFOTYPE, "")))
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    with pytest.raises(Invalid, match="unhandled tar header type"):
        unpack(root, archive(("m", b"M", b"x")))


def test_sparse_files_keep_their_holes(root: Path, tmp_path: Path) -> None:
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(9 << 20)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("s")
        info.pax_headers = records
        body = (b"1\n%d\n4\n" % (8 << 20)).ljust(512, b"\0") + b"tail"
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    unpack(root, out.getvalue())
    status = (root / "s").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (9 << 20, True)
    with open(root / "s", "rb") as file:
        file.seek(8 << 20)
        assert file.read(4) == b"tail"


def test_sizes_and_numbers_are_bounded(root: Path) -> None:
    with pytest.raises(Invalid, match="larger than"):
        unpack(root, archive(("f", FILE, bytes(100_000))), ExtractOptions(owner=CALLER, max_bytes=50_000))
    with pytest.raises(Invalid, match="more than 2 members"):
        unpack(
            root,
            archive(*((str(n), FILE, b"") for n in range(3))),
            ExtractOptions(owner=CALLER, max_entries=2),
        )


def test_a_name_too_long_for_the_file_system_is_the_archives_fault(root: Path) -> None:
    with pytest.raises(Invalid, match="File name too long"):
        unpack(root, archive(("n" * 300, FILE, b"")))


NAMES = st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from([FILE, DIR, SYM, HARD]), NAMES.map(lambda n: n), st.booleans()),
        max_size=8,
    )
)
def test_no_archive_touches_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, str, bool]]
) -> None:
    top = tmp_path_factory.mktemp("x")
    (top / "outside").write_text("untouched")
    (top / "root").mkdir()
    made: list[Entry] = [
        (
            name,
            kind,
            ("/" if absolute else "") + link if kind in (SYM, HARD) else (b"" if kind == FILE else ""),
        )
        for name, kind, link, absolute in entries
    ]
    try:
        unpack(top / "root", archive(*made))
    except SampanError:
        pass
    assert sorted(os.listdir(top)) == ["outside", "root"]
    assert (top / "outside").read_text() == "untouched"
    assert (top / "outside").stat().st_nlink == 1


def test_who_looks_at_unpacking_can_end_it(root: Path) -> None:
    """A few kilobytes that unpack to more than the disk has: who asked for it must be able to give up."""
    data = gzip.compress(archive(*((str(number), FILE, bytes(8 << 20)) for number in range(8))))
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks > 20:
            raise Conflict("enough")

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(Conflict, match="enough"):
            extract_tar(io.BytesIO(data), fd, MINE, look=look)
    finally:
        os.close(fd)
    assert sum(path.stat().st_size for path in root.iterdir()) < 32 << 20


def test_a_directory_that_was_replaced_leaves_no_time_for_another_of_its_name(root: Path) -> None:
    inner: list[Entry] = [("d", DIR, ""), ("d/a", DIR, ""), ("d/a/b", DIR, ""), ("d/x/y", DIR, "")]
    unpack(
        root, archive(*inner, ("d", FILE, b""), ("d", DIR, ""), ("d/a/b/c", FILE, b""), ("d/x/z", FILE, b""))
    )
    past = 1_500_000_000
    assert root.joinpath("d").stat().st_mtime == past
    for name in ("d/a", "d/a/b", "d/x"):  # made on the way: nothing says when
        assert root.joinpath(name).stat().st_mtime > past
