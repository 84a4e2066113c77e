"""Build sessions: the connections that clients open for their builds, and what a build asks over them.

A stream is opened with a JSON object: {"want": "secret" | "ssh" | "ssh-check" | "context" | "deliver" | "cache",
"name": …}; what is asked of a cache's directory is in `engine/cache_layout.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterable
from typing import TypeVar

from sampan.build.session import MAX_SECRET, NO_CLIENT, ClientSession, Duplex, Incoming, Sink
from sampan.errors import Conflict, Invalid, NotFound
from sampan.multiplex.link import Link, Stream

PROTOCOL = "sampan-session"
"""What a client asks an upgrade to."""
MAX_SESSIONS = 256
CLAIM_SECONDS = 60.0
"""How long a session waits for its build."""
T = TypeVar("T")
_ID = re.compile(r"[0-9a-zA-Z]{16,64}")
_LONGEST_NAME = 1024


class LinkedClient:
    """`sampan.build.session.ClientSession` over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def secret(self, secret_id: str) -> bytes:
        stream = self._open("secret", secret_id)
        try:
            return stream.read_all(MAX_SECRET)
        finally:
            stream.close()

    def has_ssh_agent(self, agent_id: str) -> bool:
        stream = self._open("ssh-check", agent_id)
        try:
            return stream.read_all(0) == b""
        except NotFound:
            return False
        finally:
            stream.close()

    def ssh_agent(self, agent_id: str) -> Duplex:
        return self._open("ssh", agent_id)

    def open_context(self, name: str) -> Incoming:
        return self._open("context", name)

    def deliver(self, name: str) -> Sink:
        return _Delivery(self._open("deliver", name))

    def cache(self, name: str) -> Duplex:
        return self._open("cache", name)

    def _open(self, want: str, name: str) -> Stream:
        if len(name) > _LONGEST_NAME:
            raise Invalid(f"the name {name[:40]!r}… is too long")
        return self._link.open(json.dumps({"want": want, "name": name}).encode())


class _Delivery:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        return self._stream.write(data)

    def commit(self) -> None:
        self._stream.end()
        self._stream.read_all(0)

    def close(self) -> None:
        self._stream.close()


class ClaimedSession:
    """A build's session."""

    def __init__(self, link: Link | None) -> None:
        self._link = link
        self.client: ClientSession = NO_CLIENT if link is None else LinkedClient(link)

    def close(self) -> None:
        """Whoever waits on it gets an error."""
        if self._link is not None:
            self._link.close()

    async def closed_after(self, events: AsyncIterable[T]) -> AsyncGenerator[T, None]:
        """The same events; the session ends with them."""
        iterator = aiter(events)
        try:
            async for event in iterator:
                yield event
        finally:
            self.close()
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()


class BuildSessions:
    """Sessions between their opening and their build. Used in the event loop, `claim`'s result in threads."""

    def __init__(self, claim_seconds: float = CLAIM_SECONDS) -> None:
        self._claim_seconds = claim_seconds
        self._waiting: dict[str, tuple[Link, asyncio.TimerHandle]] = {}

    def require_free(self, session_id: str) -> None:
        """Raises `Invalid`, `Conflict`."""
        if not _ID.fullmatch(session_id):
            raise Invalid("a build session's id has 16 to 64 letters and digits")
        if session_id in self._waiting:
            raise Conflict("a build session of this id is open")
        if len(self._waiting) >= MAX_SESSIONS:
            raise Conflict(f"{MAX_SESSIONS} build sessions wait for their builds")

    def add(self, session_id: str, taken: socket.socket, preread: bytes) -> None:
        """A connection whose client speaks the protocol; it is closed when no build claims it in time."""
        taken.setblocking(True)
        link = Link(taken, preread, name="the build's client")
        if session_id in self._waiting:
            link.close("another session has its id")
            return
        timer = asyncio.get_running_loop().call_later(self._claim_seconds, self._forget, session_id)
        self._waiting[session_id] = link, timer

    def claim(self, session_id: str) -> ClaimedSession:
        """The session, for one build. Raises `NotFound`. An empty id is a build without one."""
        if not session_id:
            return ClaimedSession(None)
        if session_id not in self._waiting:
            raise NotFound("no such build session, or it has ended")
        link, timer = self._waiting.pop(session_id)
        timer.cancel()
        return ClaimedSession(link)

    def close(self) -> None:
        for session_id in tuple(self._waiting):
            self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        link, timer = self._waiting.pop(session_id)
        timer.cancel()
        link.close()
