"""What the name server says to a query: pure, bytes in, bytes out (RFC 1035; EDNS RFC 6891).

A query is answered here when its name is one of the network's; everything else is to be forwarded. Only the
question of a message is ever read, and a reply repeats it byte for byte, so there is little for a hostile packet
to play with: no compression is followed, lengths are bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from sampan.network.model import NameRecords

TTL = 600  # seconds, Docker's
MAX_QUERY = 4096  # bytes; a question is much smaller
_HEADER = struct.Struct(
    "!HHHHHH"
)  # id, flags, numbers of questions, answers, authorities, additional records
_QUESTION_END = struct.Struct("!HH")  # type, class
_RECORD = struct.Struct("!HHHIH")  # name (a pointer), type, class, TTL, length of the data
_POINTER_TO_QUESTION = 0xC000 | _HEADER.size
_PLAIN_UDP = 512  # bytes that every client takes (RFC 1035)
_MAX_UDP = 1232  # bytes that pass without fragmentation (DNS flag day 2020)
_MAX_NAME, _MAX_LABEL = 255, 63

_RESPONSE, _OPCODE, _TRUNCATED = 0x8000, 0x7800, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE, _CODE = 0x0100, 0x0080, 0x000F
_SERVFAIL, _REFUSED = 2, 5
_A, _PTR, _AAAA, _OPT, _ANY = 1, 12, 28, 41, 255
_INTERNET = 1
_IPV4_REVERSE, _IPV6_REVERSE = ".in-addr.arpa", ".ip6.arpa"


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query with its one question.

    `name` is lower-case, without the last dot. `udp_size`: bytes that the client takes over UDP.
    """

    raw: bytes
    id: int
    flags: int
    question: bytes
    name: str
    type: int
    internet: bool
    udp_size: int


def parse_query(data: bytes) -> Query | None:
    """None for what is no query: it gets no answer, so that two servers can't be made to talk to each other."""
    if not _HEADER.size <= len(data) <= MAX_QUERY:
        return None
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & (_RESPONSE | _OPCODE) or questions != 1 or answers or authorities:
        return None
    question = _question_bytes(data)
    if question is None:
        return None
    kind, category = _QUESTION_END.unpack(question[-_QUESTION_END.size :])
    size = _edns_size(data, _HEADER.size + len(question)) if additional else _PLAIN_UDP
    name = _name(question)
    return Query(data, number, flags, question, name, kind, category == _INTERNET, size)


def _question_bytes(message: bytes) -> bytes | None:
    """The first question as it stands in the message; compression has no place there."""
    offset = _HEADER.size
    while offset < len(message):
        length = message[offset]
        offset += length + 1
        if length > _MAX_LABEL or offset - _HEADER.size > _MAX_NAME:
            return None
        if length == 0:
            end = offset + _QUESTION_END.size
            return message[_HEADER.size : end] if end <= len(message) else None
    return None


def _name(question: bytes) -> str:
    """Labels joined by dots. A label that has a dot in it yields a name that no record can have."""
    labels = []
    offset = 0
    while question[offset]:
        label = question[offset + 1 : offset + 1 + question[offset]]
        labels.append(label.replace(b".", b"\0").decode("latin-1").lower())
        offset += question[offset] + 1
    return ".".join(labels)


def _edns_size(message: bytes, offset: int) -> int:
    """What the client takes over UDP, from an OPT record right after the question."""
    if len(message) < offset + 11 or message[offset] != 0:
        return _PLAIN_UDP
    kind, size = _QUESTION_END.unpack_from(message, offset + 1)
    return max(_PLAIN_UDP, min(size, _MAX_UDP)) if kind == _OPT else _PLAIN_UDP


def answer(query: Query, records: NameRecords, turn: int) -> bytes | None:
    """The answer from the records; None when they don't know the name. `turn` rotates shared names' addresses.

    A known name without a record of the type asked for has an empty answer: other resolvers know nothing of it.
    """
    if not query.internet:
        return None
    if query.name.endswith((_IPV4_REVERSE, _IPV6_REVERSE)):
        target = _pointer(query.name, records)
        if target is None:
            return None
        return _reply(query, [(_PTR, _encode_name(target))] if query.type in (_PTR, _ANY) else [])
    addresses = records.addresses.get(query.name)
    if addresses is None:
        return None
    packed = [(_AAAA if ":" in address else _A, ip_address(address).packed) for address in addresses]
    chosen = [(kind, data) for kind, data in packed if query.type in (kind, _ANY)]
    shift = turn % len(chosen) if chosen else 0
    return _reply(query, chosen[shift:] + chosen[:shift])


def _pointer(name: str, records: NameRecords) -> str | None:
    address = _reverse_address(name)
    return records.pointers.get(address) if address is not None else None


def _reverse_address(name: str) -> str | None:
    """The address that a name below in-addr.arpa or ip6.arpa means."""
    try:
        if name.endswith(_IPV4_REVERSE):
            return str(ip_address(".".join(reversed(name.removesuffix(_IPV4_REVERSE).split(".")))))
        digits = "".join(reversed(name.removesuffix(_IPV6_REVERSE).split(".")))
        return str(ip_address(bytes.fromhex(digits)))
    except ValueError:
        return None


def _encode_name(name: str) -> bytes:
    labels = [label.encode()[:_MAX_LABEL] for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _reply(query: Query, records: Sequence[tuple[int, bytes]], code: int = 0) -> bytes:
    flags = _RESPONSE | query.flags & _RECURSION_DESIRED | _RECURSION_AVAILABLE | code
    head = _HEADER.pack(query.id, flags, 1, len(records), 0, 0) + query.question
    return head + b"".join(
        _RECORD.pack(_POINTER_TO_QUESTION, kind, _INTERNET, TTL, len(data)) + data for kind, data in records
    )


def failure(query: Query) -> bytes:
    """SERVFAIL: no resolver answered, or none may be asked."""
    return _reply(query, [], _SERVFAIL)


def refusal(query: Query) -> bytes:
    """REFUSED: too many queries of this container are under way."""
    return _reply(query, [], _REFUSED)


def fit(reply: bytes, query: Query) -> bytes:
    """The reply as it may go over UDP: without its records and marked as truncated when it is too long."""
    if len(reply) <= query.udp_size:
        return reply
    flags = _HEADER.unpack_from(reply)[1] | _TRUNCATED
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question


def with_id(message: bytes, number: int) -> bytes:
    return struct.pack("!H", number) + message[2:]


def is_reply_to(reply: bytes, query: Query, number: int) -> bool:
    """A response with this id and the same question (case aside): anything else may be forged."""
    if len(reply) < _HEADER.size:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(reply)
    if found != number or not flags & _RESPONSE:
        return False
    if questions == 0:  # some servers repeat no question when they refuse or truncate
        return bool(flags & (_CODE | _TRUNCATED))
    asked = _question_bytes(reply)
    return questions == 1 and asked is not None and asked.lower() == query.question.lower()


def passed_on(reply: bytes, query: Query) -> bytes:
    """A resolver's reply as the client gets it: with its id, and its question where the resolver left it out."""
    _, flags, questions, *_ = _HEADER.unpack_from(reply)
    if questions:
        return with_id(reply, query.id)
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question


def is_failure(reply: bytes) -> bool:
    """SERVFAIL or REFUSED: another resolver may know better."""
    return reply[3] & _CODE in (_SERVFAIL, _REFUSED)
