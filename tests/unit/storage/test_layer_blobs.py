"""Compressed blobs of layers: what they are made of alone decides their bytes."""

from __future__ import annotations

import gzip
import hashlib
import random

import pytest

from sampan.storage.layer_blobs import GzipSink


class _Out:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def _compressed(content: bytes, sizes: list[int]) -> bytes:
    out, at = _Out(), 0
    sink = GzipSink(out)
    for size in sizes:
        sink.write(content[at : at + size])
        at += size
    sink.write(content[at:])
    sink.finish()
    return bytes(out.data)


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 3_000_000])
def test_a_blob_is_the_same_in_whatever_pieces_its_layer_came(length: int) -> None:
    source = random.Random(7)
    words = [source.randbytes(source.randrange(1, 40)) for _ in range(200)]
    content = b"".join(source.choice(words) for _ in range(length // 10 + 1))[:length]
    whole = _compressed(content, [])
    assert gzip.decompress(whole) == content
    for sizes in (
        [512] * 6000,
        [1, (1 << 20) - 1, 5, 1 << 20],
        [source.randrange(99_999) for _ in range(40)],
    ):
        assert hashlib.sha256(_compressed(content, sizes)).digest() == hashlib.sha256(whole).digest()
