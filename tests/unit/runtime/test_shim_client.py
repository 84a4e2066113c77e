from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict
from sampan.runtime import wire
from sampan.runtime.messages import SHIM_SOCKET, Done, Kill, ShimCall, Subscribe
from sampan.runtime.shim_client import ShimClient

_CALLS: wire.Codec[Subscribe | Kill] = wire.Codec(ShimCall)


class Shim:
    """Answers a subscription; a kill is answered when `answer` is set."""

    def __init__(self, run_dir: Path) -> None:
        self.killed = threading.Event()
        self.answer = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(run_dir / SHIM_SOCKET))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            while True:
                call, descriptors = _CALLS.receive(connection)
                if call is None:
                    return
                if isinstance(call, Kill):
                    self.killed.set()
                    self.answer.wait(10)
                wire.close_all(descriptors)
                wire.send(connection, Done())

    def join(self) -> None:
        self._thread.join(10)


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    made = Shim(tmp_path)
    yield made
    made.join()


def test_a_kill_after_the_end_says_that_the_process_has_ended(shim: Shim, tmp_path: Path) -> None:
    client = ShimClient.connect(tmp_path)
    client.close()
    with pytest.raises(Conflict, match="has ended"):
        client.kill(9)


def test_closing_waits_for_a_call_that_is_under_way(shim: Shim, tmp_path: Path) -> None:
    client = ShimClient.connect(tmp_path)
    failures: list[BaseException] = []

    def kill() -> None:
        try:
            client.kill(9)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)

    killing = threading.Thread(target=kill)
    killing.start()
    assert shim.killed.wait(10)
    closing = threading.Thread(target=client.close)
    closing.start()
    shim.answer.set()
    for thread in (killing, closing):
        thread.join(10)
        assert not thread.is_alive()
    assert failures == []
