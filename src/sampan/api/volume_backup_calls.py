"""The handlers of `volume_backup`: decode, one call of the engine, encode."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Literal

import msgspec

from sampan.api.auth import registry_auth, registry_config
from sampan.api.images import credentials
from sampan.api.messages import (
    AnyResponse,
    Request,
    StreamingResponse,
    json_response,
    no_content,
)
from sampan.engine.engine import Engine
from sampan.engine.threads import blocking_chunks
from sampan.engine.volume_backup.manifests import MANIFEST_BYTES
from sampan.engine.volume_backup.messages import Json, error_line
from sampan.engine.volume_backup.orders import Backup, OnChange, Order
from sampan.engine.volume_backup.placing import Limits
from sampan.engine.volume_backup.restoring import AsSnapshot, Given, InRegistry, Uploaded
from sampan.engine.volume_backup.service import VolumeBackups
from sampan.engine.volume_backup.snapshots import Source, parse_keep, parse_source
from sampan.engine.volume_backup.users import parse_how
from sampan.errors import Invalid, SampanError
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.config import Credentials

_SOURCES_MAX = 1000
_MANIFEST_SENT = 256 << 20
"""Bytes of a compressed manifest that a client sends: it is held in memory."""


def _backups(engine: Engine) -> VolumeBackups:
    return engine.volume_backups()


async def backup(engine: Engine, request: Request) -> AnyResponse:
    """The archive as Docker's frames, standard error with messages; with `to` only messages, as those of a push."""
    order = await _order(request)
    to = request.get("to")
    if to:
        messages = _backups(engine).backup_to_registry(order, parse_reference(to), _credentials(request))
        return StreamingResponse(_lines(messages))
    pieces = _backups(engine).backup(order)
    return StreamingResponse(pieces, "application/vnd.docker.multiplexed-stream", bulk=True)


async def _order(request: Request) -> Order:
    base = request.get("base")
    snapshot, reference = _named_base(base)
    manifest = b"" if base else await request.body(min(_MANIFEST_SENT, MANIFEST_BYTES))
    return Order(
        parse_source(request.match["name"]),
        parse_how(request.get("users")),
        _on_change(request),
        snapshot,
        reference,
        _credentials(request, "x-base-registry-auth") if reference else None,
        manifest,
    )


def _named_base(text: str) -> tuple[Source | None, Reference | None]:
    if not text:
        return None, None
    kind, _, name = text.partition(":")
    if kind == "snapshot":
        return _snapshot(name), None
    if kind == "registry":
        return None, parse_reference(name)
    raise Invalid(f"invalid base {text!r}: expected snapshot:NAME@TAG or registry:REFERENCE")


def _snapshot(text: str) -> Source:
    source = parse_source(text)
    if not source.tag:
        raise Invalid(f"{text!r} is no snapshot: expected NAME@TAG")
    return source


def _on_change(request: Request) -> OnChange:
    text = request.get("changed") or "fail"
    values: dict[str, Literal["fail", "warn"]] = {"fail": "fail", "warn": "warn"}
    if text not in values:
        raise Invalid(f"invalid value {text!r} for changed: expected fail or warn")
    return values[text]


def _credentials(request: Request, header: str = "x-registry-auth") -> Credentials:
    return credentials(registry_auth(request, header))


def _known_credentials(request: Request, reference: Reference) -> Credentials:
    known = registry_config(request).get(reference.domain)
    return credentials(known) if known else _credentials(request)


async def restore(engine: Engine, request: Request) -> AnyResponse:
    """`source`, once for each backup, the oldest first: `upload`, snapshot:NAME@TAG or registry:REFERENCE.

    Uploads come in the body: each in pieces with their length before them (4 bytes, big endian), ended by a length 0.
    """
    wanted = request.query_list("source") or ["upload"]
    if len(wanted) > _SOURCES_MAX:
        raise Invalid(f"more than {_SOURCES_MAX} sources")
    uploads = _Uploads(blocking_chunks(request.stream(), asyncio.get_running_loop()))
    given: list[Given] = []
    for text in wanted:
        if text == "upload":
            given.append(Uploaded(uploads.next()))
            continue
        snapshot, reference = _named_base(text)
        if reference is not None:
            given.append(InRegistry(reference, _known_credentials(request, reference)))
        elif snapshot is not None:
            given.append(AsSnapshot(snapshot))
    size = request.integer("max-size") or 0
    limits = (
        Limits(size=size, devices=request.flag("devices"))
        if size > 0
        else Limits(devices=request.flag("devices"))
    )
    messages = _backups(engine).restore(
        request.match["name"], given, force=request.flag("force"), limits=limits
    )
    return StreamingResponse(_lines(messages))


class _Uploads:
    """Several archives in one body."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""

    def next(self) -> Iterator[bytes]:
        """The pieces of the next one, read when they are wanted. Raises `Invalid` when the body ends before."""
        while length := int.from_bytes(self._exactly(4), "big"):
            while length:
                if not self._buffer:
                    self._buffer = self._more()
                piece, self._buffer = self._buffer[:length], self._buffer[length:]
                length -= len(piece)
                yield piece

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _more(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise Invalid("the upload ends before its end: it was cut off")


async def clone(engine: Engine, request: Request) -> AnyResponse:
    name = request.get("name")
    if not name:
        raise Invalid("a clone needs a name")
    messages = _backups(engine).clone(
        parse_source(request.match["name"]), name, parse_how(request.get("users")), _on_change(request)
    )
    return StreamingResponse(_lines(messages))


async def snapshot(engine: Engine, request: Request) -> AnyResponse:
    keep = request.get("keep")
    messages = _backups(engine).snapshot(
        request.match["name"],
        request.get("tag"),
        parse_how(request.get("users")),
        _on_change(request),
        parse_keep(keep) if keep else None,
    )
    return StreamingResponse(_lines(messages))


async def snapshots(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await _backups(engine).snapshots(request.get("volume")))


async def remove_snapshot(engine: Engine, request: Request) -> AnyResponse:
    await _backups(engine).remove_snapshot(_snapshot(request.match["name"]))
    return no_content()


async def differences(engine: Engine, request: Request) -> AnyResponse:
    """Between two sides, `first` and `second`: NAME[@TAG], `upload` (a compressed manifest, which is the body) or
    registry:REFERENCE. Of two uploads the first has the first `first-size` bytes of the body."""
    names = [request.get("first"), request.get("second")]
    sent = await request.body(_MANIFEST_SENT) if "upload" in names else b""
    at = request.integer("first-size") or 0 if names.count("upload") == 2 else 0
    manifests = iter((sent[:at], sent[at:]) if at else (sent, b""))
    sides = [_side(request, name, manifests) for name in names]
    pieces = _backups(engine).differences(sides[0], sides[1])
    return StreamingResponse(pieces)


def _side(request: Request, text: str, manifests: Iterator[bytes]) -> Source | Backup:
    if text == "upload":
        return Backup(manifest=next(manifests))
    if text.startswith("registry:"):
        reference = parse_reference(text.removeprefix("registry:"))
        return Backup(reference=reference, credentials=_known_credentials(request, reference))
    return parse_source(text)


async def _lines(messages: AsyncGenerator[Json, None]) -> AsyncGenerator[bytes, None]:
    """Docker's JSON stream; an error after the first line is its last one."""
    begun = False
    try:
        async with contextlib.aclosing(messages):
            async for message in messages:
                begun = True
                yield msgspec.json.encode(message) + b"\r\n"
    except SampanError as error:
        if not begun:
            raise
        yield msgspec.json.encode(error_line(error)) + b"\r\n"
