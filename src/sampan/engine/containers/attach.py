"""Attach, logs, resize and wait: what flows out of (and into) a container."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from sampan.engine.containers.base import Parts
from sampan.engine.containers.log_target import readable_log, reads_journal
from sampan.engine.containers.monitor import Monitor
from sampan.engine.containers.runner import PendingClient, Runner
from sampan.engine.containers.store import Slot
from sampan.engine.threads import in_own_thread
from sampan.errors import Conflict, Invalid, Unsupported
from sampan.logs import journald_follow, journald_reader, reader
from sampan.logs.reader import LogRecord
from sampan.runtime.messages import AttachOptions

Take = Callable[[], Awaitable[tuple[socket.socket, bytes]]]
"""Takes the client's connection out of HTTP's hands: the socket (now ours), and what was read of it already."""

_CONTROL = re.compile(r"ctrl-([a-z@\[\\\]^_])")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Times in nanoseconds since the epoch; `tail` None is everything."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None
    details: bool = False


def parse_detach_keys(text: str | None) -> bytes:
    """`ctrl-p,ctrl-q` -> b"\\x10\\x11"; None is that default, "" none at all. Raises `Invalid`."""
    if text is None:
        return b"\x10\x11"
    found = bytearray()
    for key in text.split(",") if text else ():
        control = _CONTROL.fullmatch(key)
        if control is not None:
            found.append(ord(control[1].upper()) & 0x1F)
        elif len(key) == 1 and key.isascii():
            found += key.encode()
        else:
            raise Invalid(f"Invalid detach keys ({text}) provided: Unknown character: '{key}'")
    return bytes(found)


def frame(stream: int, data: bytes) -> bytes:
    """One frame of Docker's multiplexed stream: stream number, three zeros, length (big endian), data."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class Streams:
    def __init__(self, parts: Parts, runner: Runner, monitor: Monitor) -> None:
        self._parts = parts
        self._runner = runner
        self._monitor = monitor

    def content_type(self, reference: str) -> str:
        """Of its attach and log streams."""
        tty = self._parts.store.find(reference).record.config.tty
        return "application/vnd.docker." + ("raw-stream" if tty else "multiplexed-stream")

    async def attach(
        self, reference: str, take: Take, options: AttachOptions, *, logs: bool, stream: bool
    ) -> None:
        """Hand the client's connection to the container's shim, or keep it until the container starts.

        Errors before the connection is taken are raised (`NotFound`, `Conflict`).
        """
        slot = self._parts.store.find(reference)
        status = slot.record.state.status
        if status == "paused":
            raise Conflict(f"Container {reference} is paused, unpause the container before attach.")
        if status == "restarting":
            raise Conflict(f"Container {reference} is restarting, wait until the container is running")
        if slot.record.removing or status in ("removing", "dead"):
            raise Conflict(f"Container {reference} is marked for removal and cannot be attached to")
        taken, preread = await take()
        handed = False
        try:
            taken.setblocking(True)
            if logs:
                await in_own_thread(lambda: self._replay(slot, taken, options))
            if stream:
                handed = await self._hand_over(slot, PendingClient(taken, preread, options))
        finally:
            if not handed:
                taken.close()
        self._parts.announce(slot.record, "attach")

    async def _hand_over(self, slot: Slot, client: PendingClient) -> bool:
        """True when the connection is kept here; the shim has a duplicate of its own."""
        live = self._monitor.live(slot.record.id)
        if live is None:
            self._runner.attach_later(slot.record.id, client)
            return True
        await asyncio.to_thread(live.shim.attach, client.socket.fileno(), client.preread, client.options)
        return False

    def _replay(self, slot: Slot, connection: socket.socket, options: AttachOptions) -> None:
        wanted = {1} if options.stdout else set()
        wanted |= {2} if options.stderr else set()
        path = readable_log(slot.record, self._parts)
        for record in reader.read(path) if path is not None else ():
            if record.stream in wanted:
                data = record.line
                connection.sendall(data if slot.record.config.tty else frame(record.stream, data))

    async def resize(self, reference: str, height: int, width: int) -> None:
        slot = self._parts.store.find(reference)
        live = self._monitor.live(slot.record.id)
        if live is None:
            raise Conflict(f"Container {slot.record.id} is not running")
        try:
            await asyncio.to_thread(live.shim.resize, height, width)
        except Invalid:
            return  # Docker does not mind either
        self._parts.announce(slot.record, "resize", {"height": str(height), "width": str(width)})

    def logs(self, reference: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log in Docker's form: framed, or raw with a terminal. Raises at once what is wrong."""
        slot = self._parts.store.find(reference)
        if not (options.stdout or options.stderr):
            raise Invalid("Bad parameters: you must choose at least one stream")
        path = readable_log(slot.record, self._parts)
        if path is None and not reads_journal(slot.record, self._parts):
            raise Unsupported("configured logging driver does not support reading")
        return self._log_chunks(slot, path, options)

    async def _log_chunks(self, slot: Slot, path: Path | None, options: LogOptions) -> AsyncIterator[bytes]:
        wanted = {stream for stream, chosen in ((1, options.stdout), (2, options.stderr)) if chosen}
        raw = slot.record.config.tty
        async for batch in self._batches(slot, path, options):
            parts = []
            for record in batch:
                if record.stream not in wanted:
                    continue
                data = record.line
                if options.details:
                    data = encode_details(record.attributes) + b" " + data
                if options.timestamps:
                    data = _padded_time(record.time).encode() + b" " + data
                parts.append(data if raw else frame(record.stream, data))
            if parts:
                yield b"".join(parts)

    async def _batches(
        self, slot: Slot, path: Path | None, options: LogOptions
    ) -> AsyncIterator[list[LogRecord]]:
        """From the file `path`, or without one from the host's journal."""
        if options.tail == 0 and not options.follow:
            return
        if not options.follow or not slot.record.running:
            records = _stored(slot.record.id, path, options)
            while batch := await asyncio.to_thread(_take, records):
                yield batch
            return
        ended = asyncio.Event()
        waiting = self._monitor.wait(slot, "next-exit")
        waiting.add_done_callback(lambda _future: ended.set())
        try:
            async for record in _coming(slot.record.id, path, options, ended):
                yield [record]
        finally:
            waiting.cancel()


def _stored(container_id: str, path: Path | None, options: LogOptions) -> Iterator[LogRecord]:
    since, until, tail = options.since_ns, options.until_ns, options.tail
    if path is None:
        return journald_reader.read(container_id, since_ns=since, until_ns=until, tail=tail)
    return reader.read(path, since_ns=since, until_ns=until, tail=tail)


def _coming(
    container_id: str, path: Path | None, options: LogOptions, ended: asyncio.Event
) -> AsyncIterator[LogRecord]:
    since, until, tail = options.since_ns, options.until_ns, options.tail
    if path is None:
        return journald_follow.follow(container_id, since_ns=since, until_ns=until, tail=tail, ended=ended)
    return reader.follow(path, since_ns=since, until_ns=until, tail=tail, ended=ended)


def _take(records: object, size: int = 256) -> list[LogRecord]:
    iterator = iter(records)  # type: ignore[call-overload]
    found: list[LogRecord] = []
    for record in iterator:
        found.append(record)
        if len(found) == size:
            break
    return found


def encode_details(attributes: Mapping[str, str] | None) -> bytes:
    """What `--details` puts before a line and a space: `name=value,…` in the form of a URL's query, in order."""
    pairs = sorted((attributes or {}).items())
    # As Go's url.QueryEscape; "~" is unreserved in both.
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs).encode()


def _padded_time(text: str) -> str:
    """RFC 3339 with all nine digits of the fraction, as `docker logs -t` shows it."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}Z"
