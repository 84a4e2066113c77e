"""One message per packet on a SOCK_SEQPACKET socket: MessagePack, descriptors beside it.

A packet's first byte says where the message is: in the packet, or, when it is too large for one, in a memory file
that is the last of the descriptors.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from sampan.errors import Internal, Invalid, Unavailable

T = TypeVar("T")

MAX_INLINE = 64 * 1024
MAX_MESSAGE = 32 * 1024 * 1024
MAX_DESCRIPTORS = 128
"""The kernel takes up to 253 (SCM_MAX_FD)."""

_NUMBER_SIZE = array.array("i").itemsize
_INLINE = b"\x00"
_IN_FILE = b"\x01"


class Codec(Generic[T]):
    """Decodes one closed set of messages."""

    def __init__(self, kinds: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kinds)

    def receive(self, sock: socket.socket) -> tuple[T | None, list[int]]:
        """The next message and its descriptors (close-on-exec, owned by the caller); None at the end.

        Raises `Invalid` for what is not such a message (its descriptors are closed), OSError.
        """
        data, descriptors, flags = _receive_packet(sock)
        if not data:
            close_all(descriptors)
            return None, []
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Invalid("a message between sampan's processes was truncated")
            if data[:1] != _IN_FILE:
                return self._decoder.decode(data[1:]), descriptors
            if not descriptors:
                raise Invalid("a message between sampan's processes lacks its body")
            return self._decoder.decode(_read_file(descriptors.pop())), descriptors
        except msgspec.MsgspecError as error:
            close_all(descriptors)
            raise Invalid(f"malformed message between sampan's processes: {error}") from error
        except BaseException:
            close_all(descriptors)
            raise


_encoder = msgspec.msgpack.Encoder()


def send(sock: socket.socket, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
    """Send `message`; the descriptors are duplicated into the packet and stay the caller's.

    Raises `Unavailable` when nobody is at the other end any more.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_MESSAGE:
        raise Invalid(f"the request is too large: {len(body)} bytes, at most {MAX_MESSAGE} are possible")
    try:
        if len(body) < MAX_INLINE:
            _transmit(sock, _INLINE + body, descriptors)
            return
        memory = os.memfd_create("sampan-message", os.MFD_CLOEXEC)
        try:
            _write_all(memory, body)
            _transmit(sock, _IN_FILE, (*descriptors, memory))
        finally:
            os.close(memory)
    except (BrokenPipeError, ConnectionError) as error:
        raise Unavailable("the other process is gone") from error


def _receive_packet(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """`socket.recv_fds` does not pass its flags on (Python 3.11): close-on-exec would not be set."""
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * _NUMBER_SIZE)
    try:
        data, control, flags, _ = sock.recvmsg(MAX_INLINE + 1, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # Told once, and before what the other end had sent, when that has closed without reading all of ours: an
        # init that failed with its start order unread. Its last words are still there.
        data, control, flags, _ = sock.recvmsg(MAX_INLINE + 1, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % _NUMBER_SIZE])
    return data, list(descriptors), flags


def _transmit(sock: socket.socket, packet: bytes, descriptors: Sequence[int]) -> None:
    if descriptors:
        control = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        sock.sendmsg([packet], [control], socket.MSG_NOSIGNAL)
    else:
        sock.send(packet, socket.MSG_NOSIGNAL)


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_file(descriptor: int) -> bytes:
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_MESSAGE:
            raise Invalid(f"a message of {size} bytes is too large")
        body = os.pread(descriptor, size, 0)
        if len(body) != size:
            raise Internal(f"a message of {size} bytes came short: {len(body)} bytes")
        return body
    finally:
        os.close(descriptor)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
