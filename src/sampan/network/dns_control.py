"""What the daemon tells the name server's process, over a SOCK_SEQPACKET socket: one message each, MessagePack.

A message that has to bring more than fits a packet comes as a memory file instead ("Filed").
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import msgspec

from sampan.network.model import Member, Outlook

_PACKET = 64 * 1024  # bytes; larger messages go into a file
_MAX_DESCRIPTORS = 4


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """`resolvers`: whom the host asks; None: what its resolv.conf says, followed as it changes. `timeout`: seconds."""

    resolvers: tuple[str, ...] | None
    timeout: float


class Open(msgspec.Struct, frozen=True, tag="open"):
    """With two descriptors: the datagram and the listening stream socket of a container. `namespace`: inode."""

    key: int
    namespace: int
    outlook: Outlook


class Look(msgspec.Struct, frozen=True, tag="look"):
    key: int
    outlook: Outlook


class Close(msgspec.Struct, frozen=True, tag="close"):
    key: int


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """A member of a network; None: it is gone."""

    network: str
    container: str
    member: Member | None


class Sync(msgspec.Struct, frozen=True, tag="sync"):
    """Answered with the same message when all that came before is in force."""

    number: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End at once."""


class Filed(msgspec.Struct, frozen=True, tag="filed"):
    """The message is in the memory file that comes as the first descriptor."""


class HandedOver(msgspec.Struct, frozen=True, tag="handed-over"):
    """The two sockets of a namespace, from a process whose daemon is gone to the next daemon."""

    namespace: int


Message = Configure | Open | Look | Close | Tell | Sync | Stop | Filed | HandedOver
_decoder = msgspec.msgpack.Decoder(Message)
TAKE_OVER = b"take over"
"""What the next daemon says at the door; answered with a HandedOver for each namespace and the end of the stream."""


def send(control: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Raises OSError (BlockingIOError when a non-blocking socket is full)."""
    data = msgspec.msgpack.encode(message)
    if len(data) <= _PACKET:
        socket.send_fds(control, [data], descriptors)
        return
    file = os.memfd_create("sampan-names", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
        socket.send_fds(control, [msgspec.msgpack.encode(Filed())], [file, *descriptors])
    finally:
        os.close(file)


def receive(control: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which are the caller's; None at the end.

    Raises OSError (BlockingIOError when there is none yet), msgspec.DecodeError.
    """
    data, descriptors, _, _ = socket.recv_fds(control, _PACKET, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    message = _decoder.decode(data)
    if isinstance(message, Filed):
        file, *descriptors = descriptors
        with open(file, "rb") as stream:
            stream.seek(0)
            message = _decoder.decode(stream.read())
    return message, list(descriptors)
