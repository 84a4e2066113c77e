"""What the tests of the network log drivers share: a container, its entries, and a server that records."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sampan.logs.entry import LogEntry, LogSource

MOMENT = 1_795_566_243_701_234_567
"""2026-11-25T00:24:03.701234567Z"""

ID = "9d0b46eac513971f4840b84defeca319b6246b4721f8d30a227f43667ec8f8a0"


def source(**changes: Any) -> LogSource:
    made = LogSource(
        id=ID,
        name="web",
        image_id="sha256:" + "6f" * 32,
        image_name="bb",
        command="/bin/sh -c true",
        created="2026-11-25T00:24:03.518629449Z",
        daemon_name="sampan",
        host="vm",
        tag=ID[:12],
        attributes={},
    )
    return msgspec.structs.replace(made, **changes)


def entry(line: bytes, *, stream: int = 1, partial: bool = False, time_ns: int = MOMENT) -> LogEntry:
    return LogEntry(stream, line, time_ns, partial)


@dataclass
class Recorded:
    """Bytes of each connection, in the order in which they were accepted."""

    port: int
    connections: list[bytearray] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, condition: Any, timeout: float = 10) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout), self.connections

    @property
    def everything(self) -> bytes:
        return b"".join(self.connections)


@contextmanager
def tcp_server() -> Iterator[Recorded]:
    """Accepts connections and records what they say until they end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        recorded = Recorded(listener.getsockname()[1])
        open_sockets: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                open_sockets.append(connection)
                said = bytearray()
                with recorded.changed:
                    recorded.connections.append(said)
                threading.Thread(target=read, args=(connection, said), daemon=True).start()

        def read(connection: socket.socket, said: bytearray) -> None:
            while True:
                try:
                    data = connection.recv(65536)
                except OSError:
                    return
                with recorded.changed:
                    said.extend(data)
                    recorded.changed.notify_all()
                if not data:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield recorded
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in open_sockets:
                connection.close()
