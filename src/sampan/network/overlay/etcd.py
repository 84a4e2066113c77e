"""etcd (version 3) through its JSON gateway, as a `Store`.

Format: etcd's api/etcdserverpb/rpc.proto, mapped to JSON as protocol buffers are: bytes as base64, 64-bit numbers as
text, members of value zero left out. Paths /v3/kv/range, /v3/kv/txn, /v3/lease/..., /v3/watch; etcd from 3.4 on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from sampan.errors import Unavailable
from sampan.network.overlay import http
from sampan.network.overlay.store import (
    MAX_BYTES,
    Change,
    Changes,
    Compacted,
    Condition,
    Delete,
    Entry,
    Kind,
    LeaseEnded,
    Operation,
    Put,
    Snapshot,
)

_CALL_SECONDS = 5.0
_PAGE = 1000
"""Entries that are asked for at once."""
_ENDED = "lease not found"  # etcd's etcdserver: requested lease not found
_UNAUTHORIZED = 401

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


class _Authenticated(msgspec.Struct, frozen=True):
    token: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of an etcd whose authentication is enabled."""

    user: str
    password: str


class Token:
    """What is added to a request, and checked in an answer: nothing, with etcd."""

    def sign(self, path: str, body: bytes) -> dict[str, str]:
        """Header fields of a request."""
        return {}

    def renewed(self, headers: dict[str, str], answer: http.Answer) -> bool:
        """Whether the answer only says how to sign from now on. Raises `Unavailable`."""
        return False

    def check(self, headers: dict[str, str], answer: http.Answer) -> None:
        """Raises `Unavailable` for an answer that is not the store's."""

    def line(self, headers: dict[str, str], number: int, line: bytes) -> bytes:
        """A line of an answer without its signature. Raises `Unavailable`."""
        return line


class EtcdStore:
    """See `store.Store`. Members of a cluster are asked in turn, until one answers."""

    def __init__(
        self,
        members: Sequence[http.Address],
        name: str,
        token: Token | None = None,
        login: Login | None = None,
    ) -> None:
        self._members = list(members)
        """The one that is asked first, and watched, is at the beginning."""
        self._token = token or Token()
        self._login = login
        self._authorization = ""
        self._watched: dict[http.Address, list[http.Stream]] = {}
        self.name = name

    async def read(self, prefix: str) -> Snapshot:
        entries: dict[str, Entry] = {}
        revision = size = 0
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
                size += entry.size(key)
            if not found.more or not found.kvs:
                return Snapshot(revision, entries)
            if size > MAX_BYTES:
                raise Unavailable(f"{self.name} has more than {MAX_BYTES >> 20} MiB below {prefix}")
            begin = _unbytes(found.kvs[-1].key) + b"\0"

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        question = {
            "compare": [_compare(condition) for condition in conditions],
            "success": [_operation(operation) for operation in operations],
        }
        answer, unsure = await self._ask("/v3/kv/txn", question, _Txn)
        return answer.succeeded or (unsure and await self._is_there(operations))

    async def _is_there(self, operations: Sequence[Operation]) -> bool:
        """Whether a member that gave no answer has done it: its conditions do not hold a second time then."""
        puts = [operation for operation in operations if isinstance(operation, Put)]
        for put in puts:
            found = await self._call("/v3/kv/range", {"key": _bytes(put.key.encode())}, _Range)
            entries = [_entry(pair)[1] for pair in found.kvs]
            if [(entry.value, entry.lease) for entry in entries] != [(put.value, put.lease)]:
                return False
        return bool(puts)

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        """From the next member on, when one breaks off."""
        failed = 0
        while True:
            address = self._members[0]
            try:
                async for changes, last in self._watch(address, prefix, revision):
                    failed = 0
                    revision = max(revision, last + 1)
                    yield changes
            except Compacted:
                raise
            except Unavailable:
                failed += 1
                self._pass_over(address)
                if failed >= len(self._members):
                    raise

    async def _watch(
        self, address: http.Address, prefix: str, revision: int
    ) -> AsyncIterator[tuple[Changes, int]]:
        """What one member tells, and the revision of the last thing that it told."""
        create = {
            "key": _bytes(prefix.encode()),
            "range_end": _bytes(_after(prefix)),
            "start_revision": str(revision),
        }
        body = msgspec.json.encode({"create_request": create})
        fields = {**self._token.sign("/v3/watch", body), **await self._credentials(address)}
        async with http.opened(address, "/v3/watch", body, fields) as stream:
            if stream.status != 200:
                raise Unavailable(f"{address} refuses to be watched: status {stream.status}")
            streams = self._watched.setdefault(address, [])
            streams.append(stream)
            try:
                number = 0
                async for line in stream.lines():
                    number += 1
                    text = self._token.line({**fields, **stream.headers}, number, line)
                    result = _watched(_decode(text, _WatchLine, address), address, revision)
                    last = max((_number(event.kv.mod_revision) for event in result.events), default=0)
                    yield Changes(_number(result.header.revision), tuple(map(_change, result.events))), last
            finally:
                streams.remove(stream)
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
        except LeaseEnded:
            return

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _call(self, path: str, question: object, kind: type[T]) -> T:
        return (await self._ask(path, question, kind))[0]

    async def _ask(self, path: str, question: object, kind: type[T]) -> tuple[T, bool]:
        """The answer, and whether another member may have done what was asked before it failed to answer."""
        body = msgspec.json.encode(question)
        problem: Unavailable | None = None
        unsure = False
        for address in tuple(self._members):
            try:
                answer = await self._post(address, path, body)
                if answer.status >= 500:  # a member that is cut off from the others, for one
                    raise _refusal(address, answer)
            except Unavailable as error:
                problem = problem or error
                unsure = unsure or not isinstance(error, http.Unreachable)
                self._pass_over(address)
                continue
            if answer.status != 200:
                raise _refusal(address, answer)
            return _decode(answer.body, kind, address), unsure
        raise problem or Unavailable(f"{self.name} has no members")

    def _pass_over(self, address: http.Address) -> None:
        """The next call begins with another member. What this one tells may be nothing any more, without an end."""
        if self._members[0] == address:
            self._members.append(self._members.pop(0))
        for stream in self._watched.get(address, ()):
            stream.abort()

    async def _post(self, address: http.Address, path: str, body: bytes) -> http.Answer:
        """Asked a second time when the store only wants to know better who asks."""
        for attempt in range(2):
            fields = {**self._token.sign(path, body), **await self._credentials(address)}
            answer = await http.post(address, path, body, fields, seconds=_CALL_SECONDS)
            if attempt == 0 and (self._token.renewed(fields, answer) or self._is_logged_out(answer)):
                continue
            break
        if answer.status == 200:
            self._token.check(fields, answer)
        return answer

    def _is_logged_out(self, answer: http.Answer) -> bool:
        if self._login is None or answer.status != _UNAUTHORIZED:
            return False
        self._authorization = ""
        return True

    async def _credentials(self, address: http.Address) -> dict[str, str]:
        """Header fields that say which user asks: what etcd gives for the password, for as long as it knows it."""
        if self._login is None:
            return {}
        if not self._authorization:
            body = msgspec.json.encode({"name": self._login.user, "password": self._login.password})
            answer = await http.post(address, "/v3/auth/authenticate", body, {}, seconds=_CALL_SECONDS)
            if answer.status != 200:
                raise _refusal(address, answer)
            token = _decode(answer.body, _Authenticated, address).token
            if not (token.isascii() and token.isprintable()):
                raise Unavailable(f"the answer of {address} makes no sense: malformed token")
            self._authorization = token
        return {"Authorization": self._authorization}


def _refusal(address: http.Address, answer: http.Answer) -> Unavailable:
    try:
        failure = msgspec.json.decode(answer.body, type=_Failure)
        said = (failure.error or failure.message)[:300]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What is no etcd, or its HTTP server before it comes to it: "Client sent an HTTP request to an HTTPS server."
        text = answer.body[:300].decode("ascii", "replace").strip()
        said = text if text.isprintable() and text else "no reason given"
    kind = LeaseEnded if _ENDED in said else Unavailable
    return kind(f"{address} answers with status {answer.status}: {said}")


def _watched(line: _WatchLine, address: http.Address, revision: int) -> _Watched:
    """Raises `Compacted`, or `Unavailable` for what is the last line."""
    if line.error is not None:
        raise Unavailable(f"{address} stopped telling: {line.error.message[:200]}")
    result = line.result
    if _number(result.compact_revision):
        raise Compacted(f"{address} has compacted revision {revision}")
    if result.canceled:
        raise Unavailable(f"{address} stopped telling: {result.cancel_reason[:200]}")
    return result


def _decode(text: bytes, kind: type[T], address: http.Address) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 1 << 63):
        raise Unavailable("the store's answer makes no sense: malformed number")
    return int(text)
