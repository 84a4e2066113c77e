"""nf_tables over netlink: tables, chains, rules, sets and maps, changed in transactions.

Formats: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h. A `Batch` collects changes, and
`NftablesSocket.commit` performs all of them or none. Names are told, never handles, except to delete one rule.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from sampan.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    decode_text,
    iterate_attributes,
    nested,
    parse_attributes,
    text,
)
from sampan.linux.nftables_expressions import Meta, Verdict, data, u32, verdict_data

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BUFFER = 1 << 22  # bytes; a transaction goes to the kernel in one write
_ELEMENTS_PER_MESSAGE = 400  # an attribute holds 64 KiB

_NEWTABLE, _GETTABLE, _DELTABLE = 0, 1, 2
_NEWCHAIN, _GETCHAIN = 3, 4
_NEWRULE, _GETRULE, _DELRULE = 6, 7, 8
_NEWSET, _GETSET = 9, 10
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_GETGEN = 16

_SET_MAP = 0x8
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT

# User data of a set: its key is in host order (type 0, length 4, 1). Only `nft list` looks at it.
_HOST_ORDER_KEY = struct.pack("=BBI", 0, 4, 1)

NF_DROP, NF_ACCEPT = 0, 1


class Family(IntEnum):
    ALL = 0
    INET = 1
    IPV4 = 2
    ARP = 3
    NETDEV = 5
    BRIDGE = 7
    IPV6 = 10


class Hook(IntEnum):
    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Field(IntEnum):
    """Types of keys and values, as the nft command numbers them (the kernel only keeps the number)."""

    IPV4_ADDRESS = 7
    IPV6_ADDRESS = 8
    ETHER_ADDRESS = 9
    INET_PROTOCOL = 12
    INET_SERVICE = 13
    INTERFACE_NAME = 41


_FIELD_BYTES = {
    Field.IPV4_ADDRESS: 4,
    Field.IPV6_ADDRESS: 16,
    Field.ETHER_ADDRESS: 6,
    Field.INET_PROTOCOL: 1,
    Field.INET_SERVICE: 2,
    Field.INTERFACE_NAME: 16,
}
_VERDICT_TYPE = 0xFFFFFF00


@dataclass(frozen=True, slots=True)
class BaseHook:
    """Where a base chain is entered. `type` is "filter", "nat" or "route"; policy NF_ACCEPT or NF_DROP."""

    type: str
    hook: Hook
    priority: int
    policy: int = NF_ACCEPT


@dataclass(frozen=True, slots=True)
class Chain:
    family: int
    table: str
    name: str
    base: BaseHook | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as listed: `verdicts` are the (code, chain) pairs in it, `expressions` their names in order.

    `output`: the interface that it wants a packet to leave by, "" when it does not say one.
    """

    family: int
    table: str
    chain: str
    handle: int
    expressions: tuple[str, ...]
    verdicts: tuple[tuple[int, str], ...]
    comment: str
    output: str = ""


@dataclass(frozen=True, slots=True)
class SetInfo:
    family: int
    table: str
    name: str
    key_length: int
    is_map: bool


def pack_fields(*values: bytes) -> bytes:
    """A concatenated key or value: each field padded to 4 bytes."""
    return b"".join(value + b"\0" * (-len(value) & 3) for value in values)


def _fields_type(fields: Sequence[Field]) -> tuple[int, int]:
    """(type number, length in bytes): six bits per field, and each field padded when there are several."""
    number = 0
    for item in fields:
        number = number << 6 | item
    if len(fields) == 1:
        return number, _FIELD_BYTES[fields[0]]
    return number, sum((_FIELD_BYTES[item] + 3) & ~3 for item in fields)


def _message(kind: int, family: int, body: bytes, flags: int = 0, operation: str = "") -> Message:
    return Message(_SUBSYSTEM << 8 | kind, struct.pack("!BBH", family, 0, 0) + body, flags, operation)


class Batch:
    """Changes to one family's tables, to be committed as one transaction."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.messages: list[Message] = []
        self.rules = 0
        """How many it adds."""
        self._set_id = 0

    def _add(self, kind: int, body: bytes, flags: int, operation: str) -> None:
        self.messages.append(_message(kind, self.family, body, flags, operation))

    def add_table(self, name: str, *, exclusive: bool = False) -> None:
        """Make a table; when it is there nothing happens, or EEXIST if it must be new (`exclusive`)."""
        flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
        self._add(_NEWTABLE, text(1, name), flags, f"add table {name}")

    def delete_table(self, name: str) -> None:
        """With everything in it. ENOENT when it is not there."""
        self._add(_DELTABLE, text(1, name), 0, f"delete table {name}")

    def add_chain(self, table: str, name: str, base: BaseHook | None = None) -> None:
        body = text(1, table) + text(3, name)
        if base is not None:
            body += nested(4, u32(1, base.hook), attribute(2, struct.pack("!i", base.priority)))
            body += u32(5, base.policy) + text(7, base.type)
        self._add(_NEWCHAIN, body, NLM_F_CREATE, f"add chain {table} {name}")

    def add_rule(
        self, table: str, chain: str, *expressions: bytes, comment: str = "", first: bool = False
    ) -> None:
        """Append a rule, or put it before all others. An expression may be several in one `bytes`."""
        body = text(1, table) + text(2, chain) + nested(4, *expressions)
        if comment:
            value = comment.encode() + b"\0"
            body += attribute(7, bytes([_COMMENT, len(value)]) + value)
        flags = NLM_F_CREATE | (0 if first else NLM_F_APPEND)
        self.rules += 1
        self._add(_NEWRULE, body, flags, f"add rule to {table} {chain}")

    def delete_rule(self, table: str, chain: str, handle: int) -> None:
        body = text(1, table) + text(2, chain) + attribute(3, struct.pack("!Q", handle))
        self._add(_DELRULE, body, 0, f"delete rule {handle} of {table} {chain}")

    def add_set(self, table: str, name: str, key: Sequence[Field]) -> None:
        self._add_set(table, name, key, b"", 0)

    def add_map(self, table: str, name: str, key: Sequence[Field], value: Sequence[Field]) -> None:
        """A map to data; both sides may be concatenated."""
        number, length = _fields_type(value)
        self._add_set(table, name, key, u32(6, number) + u32(7, length), _SET_MAP)

    def add_verdict_map(self, table: str, name: str, key: Sequence[Field]) -> None:
        self._add_set(table, name, key, u32(6, _VERDICT_TYPE) + u32(7, 0), _SET_MAP)

    def _add_set(self, table: str, name: str, key: Sequence[Field], extra: bytes, flags: int) -> None:
        self._set_id += 1
        number, length = _fields_type(key)
        body = text(1, table) + text(2, name) + u32(3, flags) + u32(4, number) + u32(5, length)
        body += extra + u32(10, self._set_id)
        if tuple(key) == (Field.INTERFACE_NAME,):
            body += attribute(13, _HOST_ORDER_KEY)
        self._add(_NEWSET, body, NLM_F_CREATE, f"add set {table} {name}")

    def flush_set(self, table: str, name: str) -> None:
        self._add(_DELSETELEM, text(1, table) + text(2, name), 0, f"flush set {table} {name}")

    def add_elements(
        self, table: str, name: str, elements: Sequence[tuple[bytes, bytes | None]], *, exclusive: bool = True
    ) -> None:
        """(key, value) pairs, value None in a plain set. EEXIST when a key is there (not `exclusive`: with another
        value)."""
        encoded = []
        for key, value in elements:
            parts = [data(1, key)] if value is None else [data(1, key), data(2, value)]
            encoded.append(nested(1, *parts))
        flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
        self._elements(_NEWSETELEM, table, name, encoded, flags, "add elements to")

    def add_verdicts(self, table: str, name: str, elements: Sequence[tuple[bytes, Verdict, str]]) -> None:
        """(key, verdict, chain) for a verdict map."""
        encoded = [nested(1, data(1, key), verdict_data(2, code, chain)) for key, code, chain in elements]
        self._elements(_NEWSETELEM, table, name, encoded, NLM_F_CREATE | NLM_F_EXCL, "add elements to")

    def delete_elements(self, table: str, name: str, keys: Sequence[bytes]) -> None:
        """ENOENT when one is not there."""
        encoded = [nested(1, data(1, key)) for key in keys]
        self._elements(_DELSETELEM, table, name, encoded, 0, "delete elements of")

    def _elements(
        self, kind: int, table: str, name: str, encoded: list[bytes], flags: int, operation: str
    ) -> None:
        head = text(1, table) + text(2, name)
        for start in range(0, len(encoded), _ELEMENTS_PER_MESSAGE):
            body = head + nested(3, *encoded[start : start + _ELEMENTS_PER_MESSAGE])
            self._add(kind, body, flags, f"{operation} set {table} {name}")


class NftablesSocket(NetlinkSocket):
    """An nf_tables socket of the calling thread's namespace. Not thread-safe."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, buffer=_BUFFER)

    def __enter__(self) -> NftablesSocket:
        return self

    def commit(self, batch: Batch) -> None:
        """Perform the batch as one transaction. Raises NetlinkError; then nothing was changed."""
        head = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
        begin = Message(_BATCH_BEGIN, head, 0, "begin transaction")
        self.transaction(begin, batch.messages, Message(_BATCH_END, head))

    def generation(self) -> int:
        """A number that changes with every transaction of anybody in this namespace."""
        replies = self.request([_message(_GETGEN, 0, b"", 0, "read the ruleset's generation")])
        (number,) = struct.unpack("!I", parse_attributes(replies[0].payload[4:])[1])
        return int(number)

    def tables(self, family: Family = Family.ALL) -> list[tuple[int, str]]:
        """(family, name) of each table."""
        listed = self._list(_GETTABLE, family, b"", "list tables")
        return [(found, decode_text(attributes[1])) for found, attributes in listed]

    def table_handle(self, family: Family, name: str) -> int | None:
        """A number that no other table of this namespace ever has, also not one of the same name; None: not there."""
        try:
            replies = self.request([_message(_GETTABLE, family, text(1, name), 0, f"look up table {name}")])
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return None
        (handle,) = struct.unpack("!Q", parse_attributes(replies[0].payload[4:])[4])
        return int(handle)

    def chains(self, family: Family = Family.ALL) -> list[Chain]:
        listed = self._list(_GETCHAIN, family, b"", "list chains")
        return [_decode_chain(found, attributes) for found, attributes in listed]

    def rules(self, family: Family = Family.ALL, table: str = "", chain: str = "") -> list[Rule]:
        body = (text(1, table) if table else b"") + (text(2, chain) if chain else b"")
        listed = self._list(_GETRULE, family, body, "list rules")
        return [_decode_rule(found, attributes) for found, attributes in listed]

    def sets(self, family: Family = Family.ALL, table: str = "") -> list[SetInfo]:
        body = text(1, table) if table else b""
        found_sets = []
        for found, attributes in self._list(_GETSET, family, body, "list sets"):
            (flags,) = struct.unpack("!I", attributes.get(3, bytes(4)))
            (length,) = struct.unpack("!I", attributes.get(5, bytes(4)))
            names = decode_text(attributes[1]), decode_text(attributes[2])
            found_sets.append(SetInfo(found, *names, length, bool(flags & _SET_MAP)))
        return found_sets

    def elements(self, family: Family, table: str, name: str) -> dict[bytes, bytes]:
        """key -> value (b"" in a plain set or for a verdict). ENOENT when the set is not there.

        The kernel enlarges a set some time after elements came in; a listing just then may miss some.
        """
        found: dict[bytes, bytes] = {}
        body = text(1, table) + text(2, name)
        message = _message(_GETSETELEM, family, body, 0, f"list the elements of {table} {name}")
        for reply in self.dump(message):
            listed = parse_attributes(reply.payload[4:]).get(3, b"")
            for _, element in iterate_attributes(listed):
                attributes = parse_attributes(element)
                key = parse_attributes(attributes.get(1, b"")).get(1, b"")
                found[key] = parse_attributes(attributes.get(2, b"")).get(1, b"")
        return found

    def holds(self, family: Family, table: str, expected: Mapping[str, int]) -> bool:
        """Are there so many elements, or more, in each of these sets? Asked twice, for what `elements` says."""
        try:
            return all(
                any(len(self.elements(family, table, name)) >= number for _ in range(2))
                for name, number in expected.items()
            )
        except NetlinkError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return False

    def _list(
        self, kind: int, family: int, body: bytes, operation: str
    ) -> Iterator[tuple[int, dict[int, bytes]]]:
        for reply in self.dump(_message(kind, family, body, 0, operation)):
            yield reply.payload[0], parse_attributes(reply.payload[4:])


def _decode_chain(family: int, attributes: dict[int, bytes]) -> Chain:
    base = None
    if 4 in attributes:
        hook = parse_attributes(attributes[4])
        (number,) = struct.unpack("!I", hook.get(1, bytes(4)))
        (priority,) = struct.unpack("!i", hook.get(2, bytes(4)))
        (policy,) = struct.unpack("!I", attributes.get(5, struct.pack("!I", NF_ACCEPT)))
        if number <= Hook.POSTROUTING:
            base = BaseHook(decode_text(attributes.get(7, b"")), Hook(number), priority, policy)
    return Chain(family, decode_text(attributes[1]), decode_text(attributes[3]), base)


def _decode_rule(family: int, attributes: dict[int, bytes]) -> Rule:
    names: list[str] = []
    verdicts: list[tuple[int, str]] = []
    output, loaded = "", -1
    for _, item in iterate_attributes(attributes.get(4, b"")):
        parts = parse_attributes(item)
        name = decode_text(parts.get(1, b""))
        body = parse_attributes(parts.get(2, b""))
        names.append(name)
        if name == "immediate" and 2 in body:
            verdict = parse_attributes(body[2]).get(2)
            if verdict is not None:
                fields = parse_attributes(verdict)
                verdicts.append((struct.unpack("!i", fields[1])[0], decode_text(fields.get(2, b""))))
        elif name == "lookup" and body.get(3) == bytes(4):
            names[-1] = "lookup verdict"
        elif name == "meta" and 2 in body:
            (loaded,) = struct.unpack("!I", body[2])
        elif name == "cmp" and loaded == Meta.OIFNAME and body.get(2) == bytes(4):  # is equal
            output = decode_text(parse_attributes(body.get(3, b"")).get(1, b""))
        elif name in ("target", "match"):  # an extension of iptables: its name is what it does
            names[-1] = f"{name} {decode_text(body.get(1, b''))}"
    (handle,) = struct.unpack("!Q", attributes.get(3, bytes(8)))
    table, chain = decode_text(attributes[1]), decode_text(attributes[2])
    comment = _comment(attributes.get(7, b""))
    return Rule(family, table, chain, handle, tuple(names), tuple(verdicts), comment, output)


def _comment(userdata: bytes) -> str:
    """The comment among a rule's user data (type, length, value)."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return decode_text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
