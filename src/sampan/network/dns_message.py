"""What the name server says to a query: bytes in, bytes out (RFC 1035; EDNS RFC 6891), by dnspython.

Only the name server's own process imports this. Of a message no more than its header is looked at here; all else is
read and written by the library. Of a resolver's answer only the question is read: the rest is the client's, as with any
resolver, and a container can't keep the name server busy with long answers of its own making.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rdata import Rdata

from sampan.network.dns_records import Directory
from sampan.network.model import Outlook

_log = logging.getLogger(__name__)

TTL = 600  # seconds, Docker's
MAX_QUERY = 1232  # bytes; a question is much smaller
MAX_UDP = 4096  # bytes of an answer over UDP, if the client takes that; the loopback does not fragment
MAX_STREAM = 65535  # bytes of a message over TCP
_PLAIN_UDP = 512  # bytes that every client takes (RFC 1035)
_MAX_ROTATIONS = 16
_HEADER = struct.Struct(
    "!HHHHHH"
)  # id, flags, numbers of questions, answers, authorities, additional records
_RESPONSE, _OPCODE = 0x8000, 0x7800
_MAX_ADDITIONAL = 2  # EDNS and a signature
_ADDRESSES = (dns.rdatatype.A, dns.rdatatype.AAAA)


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query with its one question. `name` is lower-case, without the last dot."""

    raw: bytes
    message: dns.message.Message
    name: str
    type: int
    internet: bool
    udp_size: int
    """Bytes that the client takes over UDP."""


def parse_query(data: bytes) -> Query | bytes | None:
    """The query, or what to say to one that is none. As everywhere here, what is said comes without its id.

    None for what needs no answer, so that two servers can't be made to talk to each other.
    """
    if not _HEADER.size <= len(data) <= MAX_QUERY:
        return None
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        return None
    if flags & _OPCODE:
        return _refusal(flags, dns.rcode.NOTIMP)
    if questions != 1 or answers or authorities or additional > _MAX_ADDITIONAL:
        return _refusal(flags, dns.rcode.FORMERR)
    message = _read(data)
    if message is None:
        return _refusal(flags, dns.rcode.FORMERR)
    question = message.question[0]
    size = max(_PLAIN_UDP, min(message.payload, MAX_UDP)) if message.edns >= 0 else _PLAIN_UDP
    internet = question.rdclass == dns.rdataclass.IN
    return Query(data, message, _text(question.name), int(question.rdtype), internet, size)


def _read(data: bytes, *, question_only: bool = False) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(
            data, keyring=False, question_only=question_only, ignore_trailing=question_only
        )
    except Exception as exc:  # noqa: BLE001 - whatever a stranger's bytes make the library raise, they are at fault
        _log.debug("a message can not be read: %r", exc)
        return None


def _refusal(flags: int, code: dns.rcode.Rcode) -> bytes:
    """A bare header: there is no question that could be repeated."""
    kept = flags & (_OPCODE | dns.flags.RD)
    return _HEADER.pack(0, _RESPONSE | kept | code, 0, 0, 0, 0)[2:]


def _text(name: dns.name.Name) -> str:
    """Labels joined by dots. A label that has a dot in it yields a name that nobody can have."""
    labels = (label.replace(b".", b"\0").decode("utf-8", "surrogateescape") for label in name.labels if label)
    return ".".join(labels).lower()


def answers(query: Query, directory: Directory, outlook: Outlook, limit: int) -> list[bytes] | None:
    """The answers that the networks' records give, to be used in turn; None: it is to be forwarded.

    `limit`: bytes of each; a longer one is marked as truncated. A known name without a record of the type asked for
    has an empty answer: other resolvers know nothing of it.
    """
    if not query.internet:
        return None
    pointed = _pointed(query, directory, outlook)
    if pointed is not None:
        return [_wire(query, pointed, limit)]
    addresses = directory.addresses(outlook, query.name)
    if addresses is not None:
        found = [_address(address) for address in addresses]
        chosen = [one for one in found if query.type in (one.rdtype, dns.rdatatype.ANY)]
        turns = range(0, max(1, len(chosen)), -(-len(chosen) // _MAX_ROTATIONS) or 1)
        return [_wire(query, [*chosen[turn:], *chosen[:turn]], limit) for turn in turns]
    if outlook.only_dotted and query.type in _ADDRESSES and "." not in query.name:
        return [_wire(query, [], limit)]
    return None


@lru_cache(4096)
def _address(text: str) -> Rdata:
    return dns.rdata.from_text(
        dns.rdataclass.IN, dns.rdatatype.AAAA if ":" in text else dns.rdatatype.A, text
    )


def _pointed(query: Query, directory: Directory, outlook: Outlook) -> list[Rdata] | None:
    """What a name below in-addr.arpa or ip6.arpa leads to; None where it means no address of a member's."""
    try:
        address = dns.reversename.to_address(query.message.question[0].name)
    except (dns.exception.DNSException, ValueError):
        return None
    target = directory.pointer(outlook, address)
    if target is None:
        return None
    if query.type not in (dns.rdatatype.PTR, dns.rdatatype.ANY):
        return []
    try:
        name = dns.name.from_text(target).to_text()
        return [dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.PTR, name)]
    except dns.exception.DNSException:  # a container may be called what no name can be: longer than 63 bytes
        return []


def _wire(query: Query, records: Sequence[Rdata], limit: int) -> bytes:
    response = dns.message.make_response(query.message, recursion_available=True, our_payload=MAX_QUERY)
    if query.message.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
        records = ()
    name = query.message.question[0].name
    for kind in dict.fromkeys(record.rdtype for record in records):
        chosen = [record for record in records if record.rdtype == kind]
        response.answer.append(dns.rrset.from_rdata_list(name, TTL, chosen))
    wire: bytes = response.to_wire(max_size=limit, want_shuffle=False, prefer_truncation=True)
    return wire[2:]


def failure(query: Query) -> bytes:
    """SERVFAIL: no resolver answered, or none may be asked."""
    return _empty(query, dns.rcode.SERVFAIL)


def refusal(query: Query) -> bytes:
    """REFUSED: too many queries of this container are under way."""
    return _empty(query, dns.rcode.REFUSED)


def _empty(query: Query, code: int, flags: int = 0) -> bytes:
    response = dns.message.make_response(query.message, recursion_available=True, our_payload=MAX_QUERY)
    response.flags |= flags
    response.set_rcode(dns.rcode.Rcode(code))
    wire: bytes = response.to_wire()
    return wire[2:]


def fit(reply: bytes, query: Query) -> bytes:
    """A resolver's reply as it may go over UDP: without its records and marked as truncated when it is too long."""
    if len(reply) + 2 <= query.udp_size:
        return reply
    return _empty(query, reply[1] & 0x0F, dns.flags.TC)


def with_id(message: bytes, number: int) -> bytes:
    return struct.pack("!H", number) + message[2:]


@dataclass(frozen=True, slots=True)
class Reply:
    """A resolver's, for the client. `failed`: SERVFAIL or REFUSED, another resolver may know better."""

    data: bytes
    failed: bool


def reply_to(query: Query, number: int, data: bytes) -> Reply | None:
    """What a resolver answered to the query that was asked with this id; None: anything else, which may be forged.

    It must repeat the question (case aside); some servers leave it out when they refuse or truncate.
    """
    if len(data) < _HEADER.size or int.from_bytes(data[:2], "big") != number:
        return None
    found = _read(data, question_only=True)
    if found is None:
        return None
    found.id = query.message.id
    code = int(found.rcode())
    failed = code in (dns.rcode.SERVFAIL, dns.rcode.REFUSED)
    truncated = bool(found.flags & dns.flags.TC)
    if not found.question:
        if not found.flags & dns.flags.QR or found.opcode() or not (code or truncated):
            return None
        return Reply(_empty(query, code, dns.flags.TC if truncated else 0), failed)
    if not query.message.is_response(found):
        return None
    return Reply(data[2:], failed)
