"""Netlink: messages, attributes, and a socket that sends requests and collects their answers.

Formats: include/uapi/linux/netlink.h. A message is a 16-byte header (length, type, flags, sequence
number, port) and a payload; attributes are (length, type) pairs with padding to 4 bytes. All of it
in the host's byte order, except where a protocol says otherwise (nf_tables uses network order).
"""

from __future__ import annotations

import errno as errno_numbers
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sampan.errors import Internal

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
_NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300  # ROOT | MATCH; the same bits as REPLACE and EXCL, told apart by the message type

NLMSG_ERROR = 2
NLMSG_DONE = 3
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 16  # the kernel fills at most 32 KiB of a dump into one datagram
_DUMP_ATTEMPTS = 5
_TIMEOUT = 20.0  # seconds; the kernel answers while sending, so this only guards against a bug


class NetlinkError(Internal):
    """The kernel refused a request. `errno` is its number, `operation` what was asked for."""

    def __init__(self, operation: str, errno: int, detail: str = "") -> None:
        text = f"{operation}: {os.strerror(errno)}"
        super().__init__(f"{text} ({detail})" if detail else text)
        self.operation = operation
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Message:
    """A request to send: `flags` without NLM_F_REQUEST, which is always set."""

    type: int
    payload: bytes
    flags: int = 0
    operation: str = "netlink request"


@dataclass(frozen=True, slots=True)
class Reply:
    type: int
    payload: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded. ValueError when the value is longer than the 16-bit length can say."""
    length = 4 + len(value)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} of {len(value)} bytes is too long")
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs of a run of attributes; a malformed end is an end."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_attributes(data: bytes) -> dict[int, bytes]:
    return dict(iterate_attributes(data))


def decode_text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("utf-8", "replace")


class NetlinkSocket:
    """A netlink socket of the network namespace in which the calling thread is.

    It stays with that namespace whatever the thread does afterwards. Not thread-safe.
    """

    def __init__(self, protocol: int, *, buffer: int = 0) -> None:
        """`buffer`: bytes for the send and receive buffer, when large batches are to be sent."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        if buffer:
            self._grow(_SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer)
            self._grow(_SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer)
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """The port id that the kernel gave to this socket; notifications of what it changed carry it."""
        port: int = self._socket.getsockname()[0]
        return port

    def request(self, messages: Sequence[Message]) -> list[Reply]:
        """Send messages in one write, wait for the acknowledgement of each; returns what else was answered.

        Every message is performed by the kernel even when an earlier one failed. Raises NetlinkError of
        the first that failed.
        """
        if not messages:
            return []
        first = self._sequence + 1
        self._send(messages, NLM_F_ACK)
        waiting = {first + index: message for index, message in enumerate(messages)}
        replies: list[Reply] = []
        failure: NetlinkError | None = None
        while waiting:
            for kind, flags, sequence, payload in self._receive():
                message = waiting.get(sequence)
                if message is None:
                    continue  # the answer of an earlier request that was given up
                if kind != NLMSG_ERROR:
                    replies.append(Reply(kind, payload))
                    continue
                del waiting[sequence]
                code, detail = decode_error(flags, payload)
                if code and failure is None:
                    failure = NetlinkError(message.operation, code, detail)
        if failure is not None:
            raise failure
        return replies

    def dump(self, message: Message) -> list[Reply]:
        """All objects that a dump request lists, from one moment. Raises NetlinkError (EINTR: it kept changing)."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                replies, consistent = self._dump_once(message)
            except NetlinkError as exc:
                if exc.errno != errno_numbers.EINTR:
                    raise
                continue
            if consistent:
                return replies
        raise NetlinkError(message.operation, errno_numbers.EINTR, "it changes all the time")

    def _dump_once(self, message: Message) -> tuple[list[Reply], bool]:
        self._send([message], NLM_F_DUMP)
        sequence = self._sequence
        replies: list[Reply] = []
        consistent = True
        while True:
            for kind, flags, answered, payload in self._receive():
                if answered != sequence:
                    continue
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code, detail = (
                        decode_error(flags, payload) if kind == NLMSG_ERROR else decode_done(payload)
                    )
                    if code:
                        raise NetlinkError(message.operation, code, detail)
                    return replies, consistent
                replies.append(Reply(kind, payload))

    def transaction(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """Send a batch between `begin` and `end` (nfnetlink): all of it is done, or nothing.

        Only the last message asks for an acknowledgement; the kernel reports errors of the others all
        the same, before that. Raises NetlinkError of the first that failed.
        """
        if not messages:
            return
        first = self._sequence + 1
        last = Message(messages[-1].type, messages[-1].payload, messages[-1].flags | NLM_F_ACK)
        self._send([begin, *messages[:-1], last, end], 0)
        last_sequence = first + len(messages)
        failure: NetlinkError | None = None
        while True:
            for kind, flags, sequence, payload in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence <= last_sequence + 1:
                    continue
                code, detail = decode_error(flags, payload)
                if code and failure is None:
                    index = min(max(sequence - first - 1, 0), len(messages) - 1)
                    failure = NetlinkError(messages[index].operation, code, detail)
                if sequence == last_sequence or (sequence == first and code):
                    if failure is not None:
                        raise failure
                    return

    def _send(self, messages: Sequence[Message], flags: int) -> None:
        parts = []
        for message in messages:
            self._sequence += 1
            length = _HEADER.size + len(message.payload)
            header = _HEADER.pack(
                length, message.type, message.flags | flags | NLM_F_REQUEST, self._sequence, 0
            )
            parts.append(header + message.payload + b"\0" * (-length & 3))
        try:
            self._socket.send(b"".join(parts))
        except OSError as exc:
            self._fail(messages[0].operation, exc)

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """The (type, flags, sequence, payload) of the messages in one datagram."""
        try:
            data = self._socket.recv(_RECEIVE)
        except OSError as exc:
            self._fail("receive from netlink", exc)
        found = []
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size or offset + length > len(data):
                break
            found.append((kind, flags, sequence, data[offset + _HEADER.size : offset + length]))
            offset += (length + 3) & ~3
        return found

    def _fail(self, operation: str, exc: OSError) -> NoReturn:
        number = errno_numbers.ETIMEDOUT if isinstance(exc, TimeoutError) else exc.errno
        raise NetlinkError(operation, number or errno_numbers.EIO) from exc

    def _grow(self, force: int, plain: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, size)


def decode_error(flags: int, payload: bytes) -> tuple[int, str]:
    """(errno or 0, the kernel's own explanation) of an NLMSG_ERROR payload."""
    (negative,) = struct.unpack_from("=i", payload)
    if not flags & _NLM_F_ACK_TLVS:
        return -negative, ""
    offset = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:  # the request itself is echoed in full before the attributes
        (length,) = struct.unpack_from("=I", payload, 4)
        offset = 4 + ((length + 3) & ~3)
    attributes = parse_attributes(payload[offset:])
    return -negative, decode_text(attributes.get(_NLMSGERR_ATTR_MSG, b""))


def decode_done(payload: bytes) -> tuple[int, str]:
    """(errno or 0, explanation) of an NLMSG_DONE payload, which may carry the error of a dump."""
    if len(payload) < 4:
        return 0, ""
    (negative,) = struct.unpack_from("=i", payload)
    return -min(negative, 0), decode_text(parse_attributes(payload[4:]).get(_NLMSGERR_ATTR_MSG, b""))
