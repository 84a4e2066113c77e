"""ADD of archives made to do harm: what is unpacked stays in the image, or the build ends and leaves nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sampan.errors import Invalid
from sampan.testing.build_bench import BuildBench

pytestmark = pytest.mark.root

FILE, DIR, SYM, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Entry = tuple[str, bytes, str]


class Bench(BuildBench):
    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.outside = top / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("untouched")
        self.worker.add_image("base", {"/etc/passwd": "root", "/lib/real": "real"})

    def add(self, data: bytes, line: str = "ADD a.tar /d/") -> Path:
        (self.context / "a.tar").write_bytes(data)
        try:
            return self.tree(f"FROM base\n{line}\n")
        finally:
            assert self.worker.open_snapshots == []
            assert os.listdir(self.outside) == ["secret"]
            assert (self.outside / "secret").read_text() == "untouched"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def tar_of(*entries: Entry, xattrs: dict[str, str] | None = None) -> bytes:
    """Of files the third value is the content, of links the target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, what in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == DIR else 0o644
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
            if kind == FILE:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what.encode()))
            else:
                info.linkname = what
                tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("name", ["../evil", "../../../../evil", "a/../../evil", "./../evil"])
def test_a_name_that_climbs_ends_the_build(bench: Bench, name: str) -> None:
    with pytest.raises(Invalid):
        bench.add(tar_of((name, FILE, "evil")))


def test_an_absolute_name_is_one_below_the_destination(bench: Bench) -> None:
    tree = bench.add(tar_of(("/etc/passwd", FILE, "new")))
    assert (tree / "d/etc/passwd").read_text() == "new" and (tree / "etc/passwd").read_text() == "root"


@pytest.mark.parametrize(
    "climb", ["{outside}", "../../../../../../../..{outside}", "/proc/self/root{outside}", "/proc/1/cwd"]
)
def test_a_link_and_a_file_through_it_stay_in_the_image(bench: Bench, climb: str) -> None:
    target = climb.format(outside=bench.outside)
    try:
        tree = bench.add(
            tar_of(("link", SYM, target), ("link/secret", FILE, "evil"), ("link/new", FILE, "evil"))
        )
    except Invalid:
        return
    assert all(path.resolve().is_relative_to(tree) for path in tree.rglob("secret") if not path.is_symlink())


def test_a_link_is_replaced_and_not_written_through(bench: Bench) -> None:
    tree = bench.add(tar_of(("x", SYM, str(bench.outside / "secret")), ("x", FILE, "evil")))
    assert (tree / "d/x").read_text() == "evil" and not (tree / "d/x").is_symlink()


@pytest.mark.parametrize(
    "target", ["{outside}/secret", "../../../../../../{outside}/secret", "../etc/passwd", "x", "d"]
)
def test_a_hard_link_to_the_outside_or_to_nothing_ends_the_build(bench: Bench, target: str) -> None:
    with pytest.raises(Invalid):
        bench.add(
            tar_of(("d", DIR, ""), ("d/x", HARD, target.format(outside=str(bench.outside).lstrip("/"))))
        )


def test_a_link_of_the_image_is_followed_inside_it(bench: Bench) -> None:
    (bench.context / "links").mkdir()
    os.symlink(bench.outside, bench.context / "links/out")
    tree = bench.add(tar_of(("x", FILE, "x")), "COPY links /links\nADD a.tar /links/out/")
    assert (tree / str(bench.outside).lstrip("/") / "x").read_text() == "x"


def test_attributes_that_steer_overlayfs_are_not_taken_over(bench: Bench) -> None:
    marks = {
        "trusted.overlay.opaque": "y",
        "trusted.overlay.redirect": "/etc",
        "user.overlay.opaque": "y",
        "user.a": "b",
    }
    tree = bench.add(tar_of(("sub", DIR, ""), ("sub/f", FILE, "f"), xattrs=marks))
    for path in (tree / "d/sub", tree / "d/sub/f"):
        assert os.listxattr(path) == ["user.a"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
@pytest.mark.parametrize("damage", ["cut", "flipped", "tail"])
def test_a_damaged_archive_is_refused_or_copied_as_a_file(
    bench: Bench, pack: Callable[[bytes], bytes], damage: str
) -> None:
    whole = pack(tar_of(*((f"f{number}", FILE, f"{number}" * 3000) for number in range(40))))
    middle = len(whole) // 2
    data = {
        "cut": whole[:middle],
        "flipped": whole[:middle]
        + bytes(byte ^ 0xFF for byte in whole[middle : middle + 600])
        + whole[middle + 600 :],
        "tail": whole[: len(whole) - 900] + b"\xff" * 900,
    }[damage]
    try:
        tree = bench.add(data)
    except Invalid:
        return
    if (tree / "d/a.tar").exists():
        # Nothing of its first block can be read: it is no archive then, as for Docker.
        assert (tree / "d/a.tar").read_bytes() == data and pack is bz2.compress
    else:
        assert (tree / "d/f0").read_text() == "0" * 3000


@pytest.mark.parametrize(
    "pack", [bz2.compress, lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress]
)
def test_a_compressed_archive_that_barely_shrinks_is_known_for_one(
    bench: Bench, pack: Callable[[bytes], bytes]
) -> None:
    noise = random.Random(1).randbytes(1 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("noise")
        info.size = len(noise)
        tar.addfile(info, io.BytesIO(noise))
    assert (bench.add(pack(out.getvalue())) / "d/noise").read_bytes() == noise


def test_an_archive_in_an_archive_is_unpacked_once(bench: Bench) -> None:
    inner = gzip.compress(tar_of(("x", FILE, "x")))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("inner.tar.gz")
        info.size = len(inner)
        tar.addfile(info, io.BytesIO(inner))
    tree = bench.add(gzip.compress(out.getvalue()))
    assert os.listdir(tree / "d") == ["a.tar"]  # gzip of gzip: no archive
    assert os.listdir(bench.add(out.getvalue()) / "d") == ["inner.tar.gz"]


def test_a_sparse_file_of_a_petabyte_takes_no_space_or_is_refused(bench: Bench) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str(1 << 50),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    try:
        tree = bench.add(out.getvalue())
    except Invalid:
        return
    assert (tree / "d/huge").stat().st_blocks < 1000
