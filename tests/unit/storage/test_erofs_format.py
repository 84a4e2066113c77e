"""The EROFS image's packing; that the kernel reads it is shown by the integration tests."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Invalid
from sampan.storage.erofs import ErofsStats, ErofsWriter
from sampan.storage.erofs_format import crc32c, group_entries, pack_xattrs
from sampan.storage.tar_reader import TarReader

fsck = shutil.which("fsck.erofs")
needs_fsck = pytest.mark.skipif(fsck is None, reason="erofs-utils is not installed")


def image_of(data: bytes, path: Path) -> ErofsStats:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        writer = ErofsWriter(fd)
        writer.write_all(TarReader(iter([data])))
        return writer.finish(bytes(range(16)))
    finally:
        os.close(fd)


def archive(entries: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in entries:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def test_the_checksum_is_castagnolis() -> None:
    # RFC 3720, B.4: the CRC of 32 bytes of zeros is 0x8a9136aa when inverted at the end.
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    assert crc32c(bytes(range(32))) ^ 0xFFFFFFFF == 0x46DD794E


def test_directory_blocks_hold_sorted_names_and_are_never_overfull() -> None:
    names = [b"%d" % number * 20 for number in range(1000)]
    groups, last = group_entries(names)
    assert [name for group in groups for name in group] == sorted(names)
    sizes = [sum(12 + len(name) for name in group) for group in groups]
    assert max(sizes) <= 4096
    assert sizes[-1] == last


def test_attributes_are_packed_with_their_name_space() -> None:
    packed = pack_xattrs({b"user.a": b"12345", b"security.capability": b"c", b"unknown.b": b"x"})
    assert packed[:12] == bytes(12)
    assert (
        packed[12:]
        == struct.pack("<BBH", 10, 6, 1) + b"capabilityc\0" + struct.pack("<BBH", 1, 1, 5) + b"a12345\0\0"
    )
    assert pack_xattrs({b"unknown.b": b"x", b"user.": b""}) == b""
    with pytest.raises(Invalid, match="too large"):
        pack_xattrs({b"user.a": bytes(70000)})


def test_the_superblock_says_what_is_there(tmp_path: Path) -> None:
    stats = image_of(archive([("a", b"x" * 10000), ("b/c", b"y")]), tmp_path / "i")
    data = (tmp_path / "i").read_bytes()
    magic, _, compat, bits, _, root, inodes = struct.unpack_from("<IIIBBHQ", data, 1024)
    assert (magic, compat, bits, root, inodes) == (0xE0F5E1E2, 3, 12, 2, 4)
    blocks, _metadata = struct.unpack_from("<II", data, 1024 + 36)
    assert blocks * 4096 == len(data) == stats.image_size
    assert data[1024 + 48 : 1024 + 64] == bytes(range(16))
    assert (stats.size, stats.entries) == (10001, 3)


def test_the_same_archive_gives_the_same_image(tmp_path: Path) -> None:
    data = archive([(f"d{number}/f", b"z" * number * 100) for number in range(100)])
    image_of(data, tmp_path / "one")
    image_of(data, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_holes_take_no_room(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    if shutil.which("tar") is None:
        pytest.skip("GNU tar is not installed")
    data = subprocess.run(
        ["tar", "-S", "-C", tmp_path, "-cf", "-", "sparse"], check=True, capture_output=True
    ).stdout
    image_of(data, tmp_path / "i")
    status = (tmp_path / "i").stat()
    assert status.st_size > 1 << 30
    assert status.st_blocks * 512 < 1 << 20


@needs_fsck
def test_erofs_utils_find_no_fault_in_an_image_of_everything(tmp_path: Path) -> None:
    rng = random.Random(7)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3000):
            info = tarfile.TarInfo(f"dir{number % 7}/" + "n" * rng.randrange(1, 200) + str(number))
            info.mtime, info.uid, info.mode = rng.randrange(1 << 31), rng.choice([0, 70000]), 0o644
            body = rng.randbytes(rng.choice([0, 1, 1024, 1025, 4095, 4096, 4097, 20000]))
            info.size = len(body)
            if number % 5 == 0:
                info.pax_headers = {"SCHILY.xattr.user.x": "v" * rng.randrange(3900)}
            tar.addfile(info, io.BytesIO(body))
        for number, length in enumerate((1, 3000, 4000, 4095)):
            info = tarfile.TarInfo(f"link{number}")
            info.type, info.linkname = tarfile.SYMTYPE, "t" * length
            tar.addfile(info)
    image_of(out.getvalue(), tmp_path / "i")
    assert fsck is not None
    done = subprocess.run([fsck, "--extract", tmp_path / "i"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_fsck
@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("ab/"), min_size=1, max_size=9), st.integers(0, 9000)), max_size=12
    )
)
def test_erofs_utils_unpack_any_small_tree(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int]]
) -> None:
    top = tmp_path_factory.mktemp("e")
    expected: dict[str, bytes] = {}
    usable = []
    for name, size in entries:
        name = "/".join(part for part in name.split("/") if part) or "x"
        if any(name.startswith(other + "/") or other.startswith(name + "/") for other in expected):
            continue
        expected[name] = b"c" * size
        usable.append((name, expected[name]))
    image_of(archive(usable), top / "i")
    assert fsck is not None
    subprocess.run(
        [fsck, f"--extract={top / 'out'}", "--no-preserve", top / "i"], check=True, capture_output=True
    )
    found = {str(p.relative_to(top / "out")): p.read_bytes() for p in (top / "out").rglob("*") if p.is_file()}
    assert found == expected


def test_a_large_file_passes_through_in_little_memory(tmp_path: Path) -> None:
    head = archive([("big", b"")])[:512]
    block = bytearray(head)
    block[124:136] = b"%011o\0" % (64 << 20)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    chunks = (bytes(block) if number < 0 else bytes(1 << 20) for number in range(-1, 64))
    fd = os.open(tmp_path / "i", os.O_RDWR | os.O_CREAT)
    tracemalloc.start()
    writer = ErofsWriter(fd)
    writer.write_all(TarReader(chunks))
    stats = writer.finish(bytes(16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    os.close(fd)
    assert stats.size == 64 << 20
    assert peak < 8 << 20
