"""IPsec in the kernel (xfrm): security associations and the policies that ask for them, over netlink.

Formats: include/uapi/linux/xfrm.h, with the padding that C gives its structures on 64-bit machines. Only what is needed
here: ESP in transport mode with AES-GCM (RFC 4106), for the UDP packets between two hosts to one port.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from sampan.errors import Unsupported
from sampan.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    parse_attributes,
)

_NETLINK_XFRM = 6
_NEWSA, _DELSA, _GETSA = 0x10, 0x11, 0x12
_NEWPOLICY, _DELPOLICY, _GETPOLICY = 0x13, 0x14, 0x15
_UPDPOLICY = 0x19
_TMPL, _ALG_AEAD, _REPLAY_ESN = 5, 18, 23
_ESP, _UDP = 50, 17
_TRANSPORT, _STATE_ESN = 0, 128
IN, OUT = 0, 1
_ALGORITHM = "rfc4106(gcm(aes))"
_CHECK_BITS = 128
_WINDOW = 1024
"""Packets that may overtake each other before one counts as sent again."""
_INFINITE = (1 << 64) - 1

_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_LIFETIME = struct.Struct("=8Q")
_CURRENT = struct.Struct("=4Q")
_SA_TAIL = struct.Struct("=3IIIHBBB7x")
_POLICY_TAIL = struct.Struct("=IIBBBB4x")
_TEMPLATE = struct.Struct("=24sH2x16sIBBBxIII")
_SA_ID = struct.Struct("=16s4sHBx")
_POLICY_ID = struct.Struct("=56sIB3x")
_SA_BYTES = 224


@dataclass(frozen=True, slots=True)
class Association:
    """One direction between two hosts. `key`: 32 bytes of AES and 4 of salt; `reqid` says whose it is."""

    source: str
    destination: str
    spi: int
    reqid: int
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Policy:
    """UDP packets to this port between these hosts have to be encrypted. `direction`: IN or OUT."""

    source: str
    destination: str
    port: int
    reqid: int
    direction: int


class XfrmSocket(NetlinkSocket):
    """Of the calling thread's namespace. Not thread-safe."""

    def __init__(self) -> None:
        """Raises `Unsupported` where the kernel has no xfrm."""
        try:
            super().__init__(_NETLINK_XFRM)
        except OSError as error:
            if error.errno == errno.EPROTONOSUPPORT:
                raise Unsupported("this host's kernel has no IPsec (CONFIG_XFRM_USER)") from error
            raise

    def __enter__(self) -> XfrmSocket:
        return self

    def add(self, association: Association) -> bool:
        """False when there is one with this number already. Raises `Unsupported` without ESP or AES-GCM."""
        try:
            self.request([_new_association(association)])
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                return False
            if error.errno in (errno.EPROTONOSUPPORT, errno.EPROTOTYPE, errno.ENOSYS, errno.ENOENT):
                raise Unsupported(
                    "this host's kernel can not encrypt with ESP and AES-GCM",
                    hint="CONFIG_INET_ESP is needed",
                ) from error
            raise
        return True

    def delete(self, association: Association) -> None:
        """Idempotent."""
        packed, family = _packed(association.destination)
        body = _SA_ID.pack(packed, association.spi.to_bytes(4, "big"), family, _ESP)
        self._forget(Message(_DELSA, body, 0, f"delete the security association {association.spi:#x}"))

    def set_policy(self, policy: Policy) -> None:
        body = _selector(policy) + _LIFETIME.pack(*(_INFINITE,) * 4, *(0,) * 4) + _CURRENT.pack(0, 0, 0, 0)
        body += _POLICY_TAIL.pack(0, 0, policy.direction, 0, 0, 0)
        body += attribute(_TMPL, _template(policy))
        between = f"{policy.source} and {policy.destination}"
        self.request([Message(_UPDPOLICY, body, 0, f"set the policy between {between}")])

    def delete_policy(self, policy: Policy) -> None:
        """Idempotent."""
        body = _POLICY_ID.pack(_selector(policy), 0, policy.direction)
        self._forget(Message(_DELPOLICY, body, 0, "delete a security policy"))

    def associations(self, reqid: int) -> list[Association]:
        """Without their keys."""
        found = []
        for reply in self.dump(Message(_GETSA, b"", 0, "list security associations")):
            spi = int.from_bytes(reply.payload[72:76], "big")
            of, family = struct.unpack_from("=IH", reply.payload, 208)
            if of == reqid:
                source = _address(reply.payload[80:96], family)
                found.append(Association(source, _address(reply.payload[56:72], family), spi, reqid))
        return found

    def policies(self, reqid: int) -> list[Policy]:
        found = []
        for reply in self.dump(Message(_GETPOLICY, b"", 0, "list security policies")):
            template = parse_attributes(reply.payload[168:]).get(_TMPL, b"")
            if len(template) < _TEMPLATE.size or _TEMPLATE.unpack_from(template)[3] != reqid:
                continue
            selector = _SELECTOR.unpack_from(reply.payload)
            destination, source = (_address(one, selector[6]) for one in selector[:2])
            found.append(
                Policy(source, destination, int.from_bytes(selector[2], "big"), reqid, reply.payload[160])
            )
        return found

    def _forget(self, message: Message) -> None:
        try:
            self.request([message])
        except NetlinkError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise


def _new_association(association: Association) -> Message:
    destination, family = _packed(association.destination)
    source, _ = _packed(association.source)
    body = _SELECTOR.pack(bytes(16), bytes(16), *(b"\0\0",) * 4, family, 0, 0, 0, 0, 0)
    body += _ID.pack(destination, association.spi.to_bytes(4, "big"), _ESP) + source
    body += _LIFETIME.pack(*(_INFINITE,) * 4, *(0,) * 4) + _CURRENT.pack(0, 0, 0, 0)
    body += _SA_TAIL.pack(0, 0, 0, 0, association.reqid, family, _TRANSPORT, 0, _STATE_ESN)
    words = _WINDOW // 32
    body += attribute(
        _ALG_AEAD,
        _ALGORITHM.encode().ljust(64, b"\0")
        + struct.pack("=II", len(association.key) * 8, _CHECK_BITS)
        + association.key,
    )
    body += attribute(_REPLAY_ESN, struct.pack("=6I", words, 0, 0, 0, 0, _WINDOW) + bytes(words * 4))
    what = f"add the security association {association.spi:#x}"
    return Message(_NEWSA, body, NLM_F_CREATE | NLM_F_EXCL, what)


def _selector(policy: Policy) -> bytes:
    source, family = _packed(policy.source)
    destination, _ = _packed(policy.destination)
    bits = 32 if family == socket.AF_INET else 128
    port = policy.port.to_bytes(2, "big")
    return _SELECTOR.pack(
        destination, source, port, b"\xff\xff", b"\0\0", b"\0\0", family, bits, bits, _UDP, 0, 0
    )


def _template(policy: Policy) -> bytes:
    source, family = _packed(policy.source)
    destination, _ = _packed(policy.destination)
    identity = _ID.pack(destination, bytes(4), _ESP)
    every = 0xFFFFFFFF
    return _TEMPLATE.pack(identity, family, source, policy.reqid, _TRANSPORT, 0, 0, every, every, every)


def _packed(text: str) -> tuple[bytes, int]:
    address = ip_address(text)
    return address.packed.ljust(16, b"\0"), socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(packed: bytes, family: int) -> str:
    return str(ip_address(packed[:4] if family == socket.AF_INET else packed[:16]))
