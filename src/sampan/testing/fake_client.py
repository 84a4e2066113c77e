"""A build's client in memory: what it offers, and what it was given."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.build.session import MAX_SECRET, Duplex, Incoming, Sink, no_agent, no_secret
from sampan.errors import Invalid, NotFound, SampanError, Unavailable


class FakeClient:
    """Implements `sampan.build.session.ClientSession`.

    `secrets`, `contexts` (name -> tar) and `outputs` (names that it takes) are what it offers; `asked` lists what it
    was asked for, `delivered` has what was committed. `refuses`: the error that every `commit` meets.
    """

    def __init__(
        self,
        secrets: Mapping[str, bytes] | None = None,
        contexts: Mapping[str, bytes] | None = None,
        outputs: frozenset[str] = frozenset(),
        refuses: SampanError | None = None,
    ) -> None:
        self.secrets = dict(secrets or {})
        self.contexts = dict(contexts or {})
        self.outputs = outputs
        self.refuses = refuses
        self.asked: list[tuple[str, str]] = []
        self.delivered: dict[str, bytes] = {}

    def secret(self, secret_id: str) -> bytes:
        self.asked.append(("secret", secret_id))
        value = self.secrets.get(secret_id)
        if value is None:
            raise no_secret(secret_id)
        if len(value) > MAX_SECRET:
            raise Invalid(f"the build's client sent more than {MAX_SECRET} bytes")
        return value

    def has_ssh_agent(self, agent_id: str) -> bool:
        self.asked.append(("ssh-check", agent_id))
        return False

    def ssh_agent(self, agent_id: str) -> Duplex:
        raise no_agent(agent_id)

    def open_context(self, name: str) -> Incoming:
        self.asked.append(("context", name))
        if name not in self.contexts:
            raise NotFound(f"the client sends no context called {name}")
        return _Bytes(self.contexts[name])

    def deliver(self, name: str) -> Sink:
        self.asked.append(("deliver", name))
        if name not in self.outputs:
            raise NotFound(f"the client has no output called {name}")
        return _Delivery(self, name)

    def cache(self, name: str) -> Duplex:
        self.asked.append(("cache", name))
        raise NotFound(f"the client has no cache called {name}")


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._left = data

    def read(self, limit: int = 65536, /) -> bytes:
        piece, self._left = self._left[:limit], self._left[limit:]
        return piece

    def close(self) -> None:
        self._left = b""


class _Delivery:
    def __init__(self, client: FakeClient, name: str) -> None:
        self._client = client
        self._name = name
        self._data: bytearray | None = bytearray()

    def write(self, data: bytes, /) -> int:
        if self._data is None:
            raise Unavailable("the stream was closed")
        self._data += data
        return len(data)

    def commit(self) -> None:
        if self._data is None:
            raise Unavailable("the stream was closed")
        if self._client.refuses is not None:
            raise self._client.refuses
        self._client.delivered[self._name] = bytes(self._data)
        self._data = None

    def close(self) -> None:
        self._data = None
