"""The client's side of a build session: it answers only for what this command offers, by exact name.

`offers` maps (what, name) to a function that serves one stream: ("secret", ID), ("ssh", ID), ("context", NAME),
("deliver", NAME), ("cache", NAME). It runs in a thread of its own; a `SampanError` or `OSError` that it raises is
told to the engine. The engine's side and the meaning of each kind are in `sampan.build.session`.
"""

from __future__ import annotations

import os
import threading

from sampan.client.codec import loads
from sampan.errors import Invalid, NotFound, SampanError, Unsupported
from sampan.multiplex.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.client.api import Client
    from sampan.multiplex.link import Stream

    Offers = Mapping[tuple[str, str], Callable[[Stream], None]]

PROTOCOL = "sampan-session"
TIDYING = 10.0
"""Seconds for what is half delivered to be taken away when a build ends early."""
_REFUSALS = {
    "secret": "secret {}: not found",
    "ssh": "unset ssh forward key {}",
    "context": "the client sends no context called {}",
    "deliver": "the client has no output called {}",
    "cache": "the client has no cache called {}",
}


class BuildSession:
    """Open while the build runs; `id` goes into the build's query."""

    def __init__(self, client: Client, offers: Offers) -> None:
        """Raises `Unsupported` when the server is no sampan engine, `ApiError`, `Unavailable`."""
        if client.address.tls is not None:
            raise Unsupported(
                "secrets, agents, results and local caches can't pass an engine's TLS connection yet"
            )
        self.id = os.urandom(16).hex()
        self._offers = offers
        self._taking: list[threading.Thread] = []
        try:
            hijacked = client.hijack("/session", {"id": self.id}, protocol=PROTOCOL)
        except SampanError as error:
            raise _refused(error) from error
        self._link = Link(hijacked.sock, hijacked.preread, name="the engine", accept=self._serve)

    def close(self) -> None:
        self._link.close()
        for thread in self._taking:
            thread.join(TIDYING)

    def __enter__(self) -> BuildSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, stream: Stream, wanted: bytes) -> None:
        try:
            asked = loads(wanted)
            want, name = str(asked["want"]), str(asked["name"])
        except (ValueError, KeyError, TypeError):
            raise Invalid("the engine asked for something that this client does not know") from None
        serve = self._offers.get(("ssh", name) if want == "ssh-check" else (want, name))
        if serve is None:
            text = _REFUSALS.get(want, "the client does not know how to give {}")
            raise NotFound(text.format(name))
        if want == "deliver":
            self._taking.append(threading.current_thread())
        if want == "ssh-check":
            stream.end()
        else:
            serve(stream)


def _refused(error: SampanError) -> SampanError:
    if error.kind not in ("unsupported", "not found", "invalid"):
        return error
    return Unsupported(
        "this engine has no build sessions, so secrets, agents, results and local caches can't reach its builds",
        hint="--secret, --ssh, and --output and caches on this side need a sampan engine",
    )
