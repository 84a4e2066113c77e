"""The frames of a link, as bytes. Pure.

A frame is a header of nine bytes (kind, stream, length; big-endian) and up to `MAX_PAYLOAD` bytes:

    OPEN    the opener asks for a new stream; the payload says what it is wanted for
    DATA    bytes of the stream; never more in all than the receiver has given credit for
    CREDIT  four bytes: so many bytes more may be sent (each side begins with `WINDOW`)
    END     the sender has no more bytes for this stream; the other direction goes on
    ERROR   the stream is over in both directions: a kind of `sampan.errors`, a zero byte, a message in UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from sampan.errors import Invalid, SampanError, from_kind

MAX_PAYLOAD = 64 * 1024
WINDOW = 512 * 1024
"""Bytes of one stream and direction that may be under way."""
MAX_OPEN = 4096
"""Bytes of an OPEN's payload."""
MAX_ERROR = 8192
"""Bytes of an ERROR's payload; longer messages are cut."""
_HEADER = struct.Struct(">BII")
_CREDIT = struct.Struct(">I")


class Kind(IntEnum):
    OPEN = 1
    DATA = 2
    CREDIT = 3
    END = 4
    ERROR = 5


_MAX = {Kind.OPEN: MAX_OPEN, Kind.DATA: MAX_PAYLOAD, Kind.CREDIT: 4, Kind.END: 0, Kind.ERROR: MAX_ERROR}


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    stream: int
    payload: bytes = b""

    @property
    def credit(self) -> int:
        """Raises `Invalid`."""
        if len(self.payload) != _CREDIT.size:
            raise Invalid("a credit of a build session has no number")
        return int(_CREDIT.unpack(self.payload)[0])

    @property
    def error(self) -> SampanError:
        kind, _, message = self.payload.decode("utf-8", "replace").partition("\0")
        return from_kind(kind, message)


class FrameReader:
    """Frames out of pieces of a byte stream; bounded by one frame and what was fed last."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames completed by `data`. Raises `Invalid` at what is none, before its payload is waited for."""
        self._pending += data
        start = 0
        while len(self._pending) - start >= _HEADER.size:
            number, stream, length = _HEADER.unpack_from(self._pending, start)
            kind = _kind(number)
            if length > _MAX[kind]:
                raise Invalid(f"a frame of a build session is too long: {length} bytes")
            end = start + _HEADER.size + length
            if len(self._pending) < end:
                break
            payload = bytes(self._pending[start + _HEADER.size : end])
            start = end
            yield Frame(kind, stream, payload)
        del self._pending[:start]


def encode(frame: Frame) -> bytes:
    return _HEADER.pack(frame.kind, frame.stream, len(frame.payload)) + frame.payload


def header(kind: Kind, stream: int, length: int) -> bytes:
    return _HEADER.pack(kind, stream, length)


def credit(stream: int, count: int) -> Frame:
    return Frame(Kind.CREDIT, stream, _CREDIT.pack(count))


def refusal(stream: int, error: SampanError) -> Frame:
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    payload = f"{error.kind}\0{text}".encode("utf-8", "replace")
    return Frame(Kind.ERROR, stream, payload[:MAX_ERROR])


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise Invalid(f"a frame of a build session has the unknown kind {number}") from None
