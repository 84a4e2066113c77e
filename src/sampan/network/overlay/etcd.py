"""etcd (version 3) through its JSON gateway, as a `Store`.

Format: etcd's api/etcdserverpb/rpc.proto, mapped to JSON as protocol buffers are: bytes as base64, 64-bit numbers as
text, members of value zero left out. Paths /v3/kv/range, /v3/kv/txn, /v3/lease/..., /v3/watch; etcd from 3.4 on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from sampan.errors import Unavailable
from sampan.network.overlay import http
from sampan.network.overlay.store import (
    Change,
    Changes,
    Compacted,
    Condition,
    Delete,
    Entry,
    Kind,
    Operation,
    Put,
    Snapshot,
)

_CALL_SECONDS = 5.0
_PAGE = 1000
"""Entries that are asked for at once."""
_MAX_ENTRIES = 200_000
_ENDED = "lease not found"  # etcd's etcdserver: requested lease not found

T = TypeVar("T", bound=msgspec.Struct)


class _Header(msgspec.Struct, frozen=True):
    revision: str = "0"


class _Pair(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""
    create_revision: str = "0"
    mod_revision: str = "0"
    lease: str = "0"


class _Range(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    kvs: tuple[_Pair, ...] = ()
    more: bool = False


class _Txn(msgspec.Struct, frozen=True):
    succeeded: bool = False


class _Lease(msgspec.Struct, frozen=True):
    ID: str = "0"
    TTL: str = "0"


class _KeptResult(msgspec.Struct, frozen=True):
    result: _Lease = _Lease()


class _Event(msgspec.Struct, frozen=True):
    type: str = "PUT"
    kv: _Pair = _Pair()


class _Watched(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    events: tuple[_Event, ...] = ()
    canceled: bool = False
    compact_revision: str = "0"
    cancel_reason: str = ""


class _Failure(msgspec.Struct, frozen=True):
    error: str = ""
    message: str = ""


class _StreamFailure(msgspec.Struct, frozen=True):
    message: str = ""


class _WatchLine(msgspec.Struct, frozen=True):
    result: _Watched = _Watched()
    error: _StreamFailure | None = None


class Token:
    """What is added to a request, and checked in an answer: nothing, with etcd without users."""

    def sign(self, path: str, body: bytes) -> dict[str, str]:
        """Header fields of a request."""
        return {}

    def check(self, headers: dict[str, str], answer: http.Answer) -> None:
        """Raises `Unavailable` for an answer that is not the store's."""

    def line(self, headers: dict[str, str], number: int, line: bytes) -> bytes:
        """A line of an answer without its signature. Raises `Unavailable`."""
        return line


class EtcdStore:
    """See `store.Store`. Members of a cluster are asked in turn, until one answers."""

    def __init__(self, members: Sequence[http.Address], name: str, token: Token | None = None) -> None:
        self._members = list(members)
        self._token = token or Token()
        self.name = name

    async def read(self, prefix: str) -> Snapshot:
        entries: dict[str, Entry] = {}
        revision = 0
        begin = prefix.encode()
        while True:
            question: dict[str, object] = {
                "key": _bytes(begin),
                "range_end": _bytes(_after(prefix)),
                "limit": str(_PAGE),
            }
            if revision:
                question["revision"] = str(revision)  # the pages are of one moment
            found = await self._call("/v3/kv/range", question, _Range)
            revision = revision or _number(found.header.revision)
            for pair in found.kvs:
                key, entry = _entry(pair)
                entries[key] = entry
            if not found.more or not found.kvs:
                return Snapshot(revision, entries)
            if len(entries) > _MAX_ENTRIES:
                raise Unavailable(f"{self.name} has more than {_MAX_ENTRIES} entries below {prefix}")
            begin = _unbytes(found.kvs[-1].key) + b"\0"

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        question = {
            "compare": [_compare(condition) for condition in conditions],
            "success": [_operation(operation) for operation in operations],
        }
        return (await self._call("/v3/kv/txn", question, _Txn)).succeeded

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        create = {
            "key": _bytes(prefix.encode()),
            "range_end": _bytes(_after(prefix)),
            "start_revision": str(revision),
        }
        body = msgspec.json.encode({"create_request": create})
        fields = self._token.sign("/v3/watch", body)
        address = self._members[0]
        async with http.opened(address, "/v3/watch", body, fields) as stream:
            if stream.status != 200:
                raise Unavailable(f"{address} refuses to be watched: status {stream.status}")
            number = 0
            async for line in stream.lines():
                number += 1
                text = self._token.line({**fields, **stream.headers}, number, line)
                watched = _decode(text, _WatchLine, address)
                if watched.error is not None:
                    raise Unavailable(f"{address} stopped telling: {watched.error.message[:200]}")
                result = watched.result
                if _number(result.compact_revision):
                    raise Compacted(f"{address} has compacted revision {revision}")
                if result.canceled:
                    raise Unavailable(f"{address} stopped telling: {result.cancel_reason[:200]}")
                yield Changes(_number(result.header.revision), tuple(map(_change, result.events)))
        raise Unavailable(f"{address} stopped telling")

    async def grant(self, seconds: int) -> int:
        lease = _number((await self._call("/v3/lease/grant", {"TTL": str(seconds), "ID": "0"}, _Lease)).ID)
        if lease == 0:
            raise Unavailable(f"{self.name} granted no lease")
        return lease

    async def keep(self, lease: int) -> bool:
        kept = await self._call("/v3/lease/keepalive", {"ID": str(lease)}, _KeptResult)
        return _number(kept.result.TTL) > 0

    async def revoke(self, lease: int) -> None:
        try:
            await self._call("/v3/lease/revoke", {"ID": str(lease)}, _Lease)
        except Unavailable as error:
            if _ENDED not in error.message:
                raise

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _call(self, path: str, question: object, kind: type[T]) -> T:
        body = msgspec.json.encode(question)
        problem: Unavailable | None = None
        for address in tuple(self._members):
            fields = self._token.sign(path, body)
            try:
                answer = await http.post(address, path, body, fields, seconds=_CALL_SECONDS)
                if answer.status >= 500:  # a member that is cut off from the others, for one
                    raise _refusal(address, answer)
            except Unavailable as error:
                problem = problem or error
                # The next call begins with another one.
                self._members.append(self._members.pop(0))
                continue
            if answer.status != 200:
                raise _refusal(address, answer)
            self._token.check(fields, answer)
            return _decode(answer.body, kind, address)
        raise problem or Unavailable(f"{self.name} has no members")


def _refusal(address: http.Address, answer: http.Answer) -> Unavailable:
    try:
        failure = msgspec.json.decode(answer.body, type=_Failure)
        said = (failure.error or failure.message)[:300]
    except msgspec.DecodeError:
        said = "no reason given"
    return Unavailable(f"{address} answers with status {answer.status}: {said}")


def _decode(text: bytes, kind: type[T], address: http.Address) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the answer of {address} makes no sense: {error}") from error


def _compare(condition: Condition) -> dict[str, object]:
    key = _bytes(condition.key.encode())
    match condition.kind:
        case Kind.ABSENT:
            return {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        case Kind.PRESENT:
            return {"key": key, "target": "CREATE", "result": "GREATER", "create_revision": "0"}
        case Kind.UNCHANGED:
            return {
                "key": key,
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": str(condition.revision),
            }
        case Kind.PREFIX_UNTOUCHED:
            return {
                "key": key,
                "range_end": _bytes(_after(condition.key)),
                "target": "MOD",
                "result": "LESS",
                "mod_revision": str(condition.revision + 1),
            }


def _operation(operation: Operation) -> dict[str, object]:
    key = _bytes(operation.key.encode())
    if isinstance(operation, Put):
        put = {"key": key, "value": _bytes(operation.value), "lease": str(operation.lease)}
        return {"request_put": put}
    assert isinstance(operation, Delete)
    end = {"range_end": _bytes(_after(operation.key))} if operation.prefix else {}
    return {"request_delete_range": {"key": key, **end}}


def _after(prefix: str) -> bytes:
    """The first key that no longer begins with the prefix, whose last byte is below 0xff."""
    encoded = prefix.encode()
    return encoded[:-1] + bytes([encoded[-1] + 1])


def _entry(pair: _Pair) -> tuple[str, Entry]:
    key = _unbytes(pair.key).decode("ascii", "replace")
    value, created, modified = _unbytes(pair.value), _number(pair.create_revision), _number(pair.mod_revision)
    return key, Entry(value, created, modified, _number(pair.lease))


def _change(event: _Event) -> Change:
    key, entry = _entry(event.kv)
    return Change(key, None if event.type == "DELETE" else entry)


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _unbytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unavailable("the store's answer makes no sense: malformed base64") from None


def _number(text: str) -> int:
    """A 64-bit number as JSON has it."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise Unavailable("the store's answer makes no sense: malformed number")
    return int(text)
