from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc

import pytest
import zstandard

from sampan.errors import Invalid
from sampan.storage.decompress import Decompressor, decompressed

PLAIN = random.Random(1).randbytes(300_000) + b"text " * 100_000


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress, lzma.compress, bytes])
@pytest.mark.parametrize("chunk", [1000, 65536, 1 << 30])
def test_the_kind_is_told_by_the_first_bytes(compress: object, chunk: int) -> None:
    assert callable(compress)
    data = compress(PLAIN)
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    assert b"".join(decompressed(chunks, 1 << 30)) == PLAIN


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_several_members_are_one_stream(compress: object) -> None:
    assert callable(compress)
    data = compress(b"one") + compress(b"") + compress(PLAIN)
    for chunk in (5, 4096, len(data)):
        chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
        assert b"".join(decompressed(chunks, 1 << 30)) == b"one" + PLAIN


@pytest.mark.parametrize("compress", [gzip.compress, zstd, lzma.compress])
def test_a_stream_cut_short_or_damaged_is_refused(compress: object) -> None:
    assert callable(compress)
    data = compress(PLAIN)
    with pytest.raises(Invalid, match="ends before its end"):
        list(decompressed([data[:-3]], 1 << 30))
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    if compress is not zstd:  # without a checksum in the frame a changed literal is nothing that can be seen
        with pytest.raises(Invalid, match=r"corrupt|ends before its end"):
            list(decompressed([bytes(damaged)], 1 << 30))


def test_garbage_after_a_gzip_member_is_refused_and_zeros_are_not() -> None:
    assert b"".join(decompressed([gzip.compress(b"x") + bytes(100)], 100)) == b"x"
    with pytest.raises(Invalid, match=r"corrupt|garbage"):
        list(decompressed([gzip.compress(b"x") + b"garbage"], 100))
    with pytest.raises(Invalid, match="garbage"):
        list(decompressed([gzip.compress(b"x") + bytes(10), gzip.compress(b"y")], 100))


def test_an_empty_stream_is_empty() -> None:
    assert list(decompressed([], 1)) == []
    assert list(decompressed([b"", b"ab"], 10)) == [b"ab"]


def test_skippable_zstd_frames_are_passed_over() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    data = skippable + zstd(PLAIN) + skippable + zstd(b"tail") + skippable
    for chunk in (3, 1000, len(data)):
        chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
        assert b"".join(decompressed(chunks, 1 << 30)) == PLAIN + b"tail"
    with pytest.raises(Invalid, match="ends before its end"):
        list(decompressed([data[:-1]], 1 << 30))


@pytest.mark.parametrize("level", [1, 19])
@pytest.mark.parametrize("checksum", [True, False])
def test_zstd_frames_of_every_header_are_read(level: int, checksum: bool) -> None:
    for size in (0, 1, 255, 256, 70_000, len(PLAIN)):
        for known in (True, False):
            compressor = zstandard.ZstdCompressor(
                level=level, write_checksum=checksum, write_content_size=known
            )
            data = compressor.compress(PLAIN[:size])
            assert b"".join(decompressed([data[:7], data[7:]], 1 << 30)) == PLAIN[:size]


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress, lzma.compress])
def test_a_bomb_is_stopped_at_the_limit_in_little_memory(compress: object) -> None:
    assert callable(compress)
    bomb = compress(bytes(40 << 20))
    decompressor = Decompressor(8 << 20)
    largest = 0
    tracemalloc.start()
    with pytest.raises(Invalid, match="larger than"):
        for at in range(0, len(bomb), 256 << 10):
            for piece in decompressor.feed(bomb[at : at + (256 << 10)]):
                largest = max(largest, len(piece))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decompressor.size <= (8 << 20) + largest
    assert peak < 12 << 20


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_many_little_members_are_one_stream_whatever_pieces_it_comes_in(compress: object) -> None:
    assert callable(compress)
    data = b"".join(compress(b"%d " % number) for number in range(5000))
    wanted = b"".join(b"%d " % number for number in range(5000))
    for chunk in (7, 20_000, 1 << 16, len(data)):
        chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
        assert b"".join(decompressed(chunks, 1 << 30)) == wanted
    with pytest.raises(Invalid, match="unexpected EOF"):
        list(decompressed([data[:-3]], 1 << 30))


def test_endlessly_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bytes of nothing (a skippable frame, RFC 8878, 3.1.2) take as long as a file."""
    monkeypatch.setattr("sampan.storage.decompress._MANY", 1000)
    with pytest.raises(Invalid, match="more than 1000 members"):
        list(decompressed([b"\x50\x2a\x4d\x18\0\0\0\0" * 5000], 1 << 30))
