"""Serves a `KeeperState` to the other engines of a cluster without etcd, in the words of etcd's JSON gateway.

The first engine of a `static:` list is the keeper; the others, and it itself, are clients as of an etcd. Only requests
that are signed with the cluster's secret are looked at. What is to be signed has to be read first: see `_Strangers`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from sampan.errors import Conflict, Denied, Invalid, NotFound, SampanError, Unavailable
from sampan.network.overlay.keeper_state import KeeperState
from sampan.network.overlay.signing import OTHER_KEEPER, Checker, OtherKeeper
from sampan.network.overlay.store import Change, Compacted, Condition, Delete, Entry, Kind, Operation, Put

log = logging.getLogger(__name__)

PORT = 7946
"""TCP; that of Docker's control plane, which firewalls may know already."""
_MAX_REQUEST = 256 << 10
_MAX_HEADERS = 50
_REQUEST_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_EXPIRY_SECONDS = 0.5
_MAX_CONNECTIONS = 2000
"""Of those whose request was signed: every host watches."""
_MAX_STRANGERS = 128
"""Of the others, which may have sent `_MAX_REQUEST` bytes each."""
_STATUS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}

Json = dict[str, Any]
_NONSENSE = (
    *(msgspec.DecodeError, binascii.Error, LookupError, TypeError, ValueError, AttributeError),
    *(RecursionError, OverflowError),
)


class _Strangers:
    """Connections whose request is not known to be signed. When there are too many, the one that has been there longest
    goes, of the network that most come from: hosts of the cluster need a moment, and are few."""

    def __init__(self) -> None:
        self._from: dict[asyncio.Task[None], str] = {}

    def add(self, task: asyncio.Task[None], peer: str) -> None:
        if len(self._from) >= _MAX_STRANGERS:
            (most, _), *_ = Counter(self._from.values()).most_common(1)
            oldest = next(one for one, network in self._from.items() if network == most)
            del self._from[oldest]
            oldest.cancel()
        self._from[task] = _network_of(peer)

    def discard(self, task: asyncio.Task[None]) -> None:
        self._from.pop(task, None)


class Keeper:
    """Used from the event loop's thread."""

    def __init__(self, path: Path, secret: bytes) -> None:
        self._state = KeeperState(path, time.monotonic)
        self._checker = Checker(secret)
        self._calls = asyncio.Lock()
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = _Strangers()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Raises `Conflict` when the address can not be had."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise Conflict(
                f"the cluster's store can not be served at {host}:{port}: {error.strerror}"
            ) from error
        self._spawn(self._expire())

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._state.close()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            async with self._calls:
                try:
                    over = await asyncio.to_thread(self._state.expire)
                except Unavailable as error:
                    log.warning("what belongs to hosts that have gone stays: %s", error)
                    continue
            if over:
                await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    # Connections: one request each

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._strangers.add(task, str((writer.get_extra_info("peername") or ("",))[0]))
        try:
            await self._serve(task, reader, writer)
            writer.close()
            async with asyncio.timeout(_REQUEST_SECONDS):
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            log.debug("a client of the cluster's store has gone")
        finally:
            self._strangers.discard(task)
            writer.transport.abort()

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(_REQUEST_SECONDS):
            path, headers, body = await _read(reader)
        nonce = ""
        try:
            nonce = self._checker.check(path, headers, body)
            self._strangers.discard(task)
            if len(self._tasks) > _MAX_CONNECTIONS:
                raise OSError("there are too many clients")
            question = msgspec.json.decode(body, type=Json)
            if path == "/v3/watch":
                await self._watch(writer, nonce, question)
                return
            status, answer = 200, await self._call(path, question)
        except OtherKeeper as error:
            nonce, status, answer = error.nonce, OTHER_KEEPER, {"keeper": self._checker.name}
        except SampanError as error:
            status = {Denied: 403, NotFound: 404}.get(type(error), 400)
            answer = {"error": error.message}
        except _NONSENSE:
            status, answer = 400, {"error": "the request makes no sense"}
        text = msgspec.json.encode(answer)
        name, signature = self._checker.answer(nonce, text)
        head = (
            f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n{name}: {signature}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode("latin-1") + text)
        async with asyncio.timeout(_ANSWER_SECONDS):
            await writer.drain()

    async def _call(self, path: str, question: Json) -> Json:
        async with self._calls:
            if path == "/v3/kv/range":
                return self._range(question)
            answer = await asyncio.to_thread(self._change, path, question)
        await self._tell()
        return answer

    def _range(self, question: Json) -> Json:
        """Of this moment: all below the prefix from `key` on, never in pages."""
        end = _prefix_of(question["range_end"])
        begin = _text(question["key"])
        snapshot = self._state.snapshot(end)
        pairs = [_pair(key, entry) for key, entry in sorted(snapshot.entries.items()) if key >= begin]
        return {"header": {"revision": str(snapshot.revision)}, "kvs": pairs, "more": False}

    def _change(self, path: str, question: Json) -> Json:
        """Blocking."""
        if path == "/v3/kv/txn":
            conditions = [_condition(one) for one in question.get("compare") or ()]
            operations = [_operation(one) for one in question.get("success") or ()]
            return {"succeeded": self._state.commit(conditions, operations)}
        if path == "/v3/lease/grant":
            lease = self._state.grant(int(question["TTL"]))
            return {"ID": str(lease), "TTL": question["TTL"]}
        lease = int(question["ID"])
        if path == "/v3/lease/keepalive":
            return {"result": {"ID": str(lease), "TTL": str(self._state.keep(lease))}}
        if path == "/v3/lease/revoke":
            self._state.revoke(lease)
            return {}
        raise NotFound("there is no such path")

    async def _watch(self, writer: asyncio.StreamWriter, nonce: str, question: Json) -> None:
        create = question["create_request"]
        prefix, revision = _prefix_of(create["range_end"]), int(create["start_revision"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        number = 0
        while True:
            try:
                async with self._calls:
                    found = self._state.since(prefix, revision)
                    revision = self._state.revision + 1
            except Compacted:
                gone = {"result": {"compact_revision": str(self._state.revision), "canceled": True}}
                writer.write(self._checker.line(nonce, number + 1, msgspec.json.encode(gone)))
                await writer.drain()
                return
            for changes in found:
                number += 1
                result = {
                    "header": {"revision": str(changes.revision)},
                    "events": [_event(change) for change in changes.changes],
                }
                writer.write(self._checker.line(nonce, number, msgspec.json.encode({"result": result})))
            await writer.drain()
            async with self._news:
                while self._state.revision < revision:
                    await self._news.wait()


def _network_of(peer: str) -> str:
    """Whose connections are counted together: an IPv4 address, the /64 of an IPv6 one."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    return str(address) if address.version == 4 else address.packed[:8].hex()


async def _read(reader: asyncio.StreamReader) -> tuple[str, Mapping[str, str], bytes]:
    words = (await reader.readuntil(b"\r\n")).decode("latin-1").split(" ")
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        line = (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n")
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if len(words) != 3 or words[0] != "POST" or not (length.isdecimal() and len(length) < 9):
        raise OSError("no request that can be answered")
    if int(length) > _MAX_REQUEST:
        raise OSError("the request is too large")
    return words[1], headers, await reader.readexactly(int(length))


def _pair(key: str, entry: Entry) -> Json:
    return {
        "key": _bytes(key.encode()),
        "value": _bytes(entry.value),
        "create_revision": str(entry.created),
        "mod_revision": str(entry.modified),
        "lease": str(entry.lease),
    }


def _event(change: Change) -> Json:
    if change.entry is None:
        return {"type": "DELETE", "kv": {"key": _bytes(change.key.encode())}}
    return {"kv": _pair(change.key, change.entry)}


def _condition(asked: Json) -> Condition:
    key = _text(asked["key"])
    match asked["target"], asked["result"]:
        case "CREATE", "EQUAL":
            return Condition(Kind.ABSENT, key)
        case "CREATE", "GREATER":
            return Condition(Kind.PRESENT, key)
        case "MOD", "EQUAL":
            return Condition(Kind.UNCHANGED, key, int(asked["mod_revision"]))
        case "MOD", "LESS":
            return Condition(Kind.PREFIX_UNTOUCHED, key, int(asked["mod_revision"]) - 1)
    raise Invalid("a comparison makes no sense")


def _operation(asked: Json) -> Operation:
    put = asked.get("request_put")
    if put is not None:
        return Put(_text(put["key"]), base64.b64decode(put["value"]), int(put.get("lease", "0")))
    delete = asked["request_delete_range"]
    return Delete(_text(delete["key"]), prefix="range_end" in delete)


def _prefix_of(range_end: str) -> str:
    """The prefix that ends before this key: its last byte was counted up by one."""
    end = base64.b64decode(range_end)
    return (end[:-1] + bytes([end[-1] - 1])).decode("ascii")


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode("ascii")


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()
