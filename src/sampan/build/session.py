"""What a build may ask of the client that started it, and hand to it: the build session.

The engine implements `ClientSession` over the connection that the client opened for it; `sampan.testing.fake_client`
does in memory. All methods block, are called in threads, and raise `Unavailable` when the client has gone, does not
answer, or the build was cancelled.
"""

from __future__ import annotations

from typing import Protocol

from sampan.errors import NotFound, Unsupported

MAX_SECRET = 500 * 1024
"""Bytes, as in BuildKit."""


class Incoming(Protocol):
    """Bytes that come from the client; `close` gives up what was not read."""

    def read(self, limit: int = ..., /) -> bytes:
        """Up to `limit` bytes; b"" at the end."""
        ...

    def close(self) -> None: ...


class Duplex(Incoming, Protocol):
    """A connection of the client's; one thread may read while another writes."""

    def write(self, data: bytes, /) -> int: ...

    def end(self) -> None:
        """Nothing more will be written; what comes can still be read."""
        ...


class Sink(Protocol):
    """Something that the client stores. It exists there only when `commit` has returned."""

    def write(self, data: bytes, /) -> int:
        """Waits while the client is slow. Raises what the client refused with."""
        ...

    def commit(self) -> None:
        """Nothing more comes: wait until the client has stored it all. Raises what went wrong there."""
        ...

    def close(self) -> None:
        """Without `commit` before: the client throws away what it got."""
        ...


class ClientSession(Protocol):
    """Of one build. Thread-safe; what is opened is its opener's to close."""

    def secret(self, secret_id: str) -> bytes:
        """At most `MAX_SECRET` bytes. Raises `NotFound` when the client offers none of that name."""
        ...

    def has_ssh_agent(self, agent_id: str) -> bool:
        """Whether the client forwards an agent of that name; asks the client."""
        ...

    def ssh_agent(self, agent_id: str) -> Duplex:
        """A new connection to the client's agent. Raises `NotFound`."""
        ...

    def open_context(self, name: str) -> Incoming:
        """A named local context, as a tar. Raises `NotFound`."""
        ...

    def deliver(self, name: str) -> Sink:
        """What the client calls `name` (it chose the name for an output to itself). Raises `NotFound`."""
        ...

    def cache(self, name: str) -> Duplex:
        """A question to the directory of a build cache that the client calls `name`. Raises `NotFound`."""
        ...


class NoClient:
    """The session of a build whose client opened none."""

    def secret(self, secret_id: str) -> bytes:
        raise no_secret(secret_id)

    def has_ssh_agent(self, agent_id: str) -> bool:
        return False

    def ssh_agent(self, agent_id: str) -> Duplex:
        raise no_agent(agent_id)

    def open_context(self, name: str) -> Incoming:
        raise NotFound(f"the client sends no context called {name}")

    def deliver(self, name: str) -> Sink:
        raise Unsupported(
            "this build's client can't be sent a result", hint="`sampan build` opens a session for it"
        )

    def cache(self, name: str) -> Duplex:
        raise NotFound(f"the client has no cache called {name}")


NO_CLIENT: ClientSession = NoClient()


def no_secret(secret_id: str) -> NotFound:
    return NotFound(f"secret {secret_id}: not found", hint=f"--secret id={secret_id},src=FILE provides it")


def no_agent(agent_id: str) -> NotFound:
    return NotFound(
        f'no SSH key "{agent_id}" forwarded from the client', hint=f"--ssh {agent_id} forwards your agent"
    )
