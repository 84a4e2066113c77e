from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, Unavailable
from sampan.runtime import wire
from sampan.runtime.failure import failure_of
from sampan.runtime.messages import SHIM_SOCKET, Done, Kill, ShimCall, Subscribe
from sampan.runtime.shim_client import ShimClient, ShimSilent, kill_shim

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


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[socket.socket]:
    """The listening socket of a shim that is stopped: the kernel takes connections, nobody reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / SHIM_SOCKET))
        listener.listen(1)
        yield listener


@pytest.mark.usefixtures("silent")
def test_a_shim_that_does_not_answer_is_not_taken_for_one_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ShimSilent, match="does not answer"):
        ShimClient.connect(tmp_path, timeout=0.01)


def test_an_answer_that_comes_late_is_not_taken_for_the_next_calls(
    silent: socket.socket, tmp_path: Path
) -> None:
    def serve_one_subscription() -> None:
        connection, _ = silent.accept()
        _, descriptors = _CALLS.receive(connection)
        wire.close_all(descriptors)
        wire.send(connection, Done())
        connections.append(connection)

    connections: list[socket.socket] = []
    serving = threading.Thread(target=serve_one_subscription)
    serving.start()
    client = ShimClient.connect(tmp_path)
    serving.join(10)
    with pytest.raises(ShimSilent):
        client.start(timeout=0.01)
    # The late answer finds nobody; the next call comes by a connection of its own.
    with connections[0], pytest.raises(Unavailable):
        wire.send(connections[0], Done())

    def serve_a_kill() -> None:
        connection, _ = silent.accept()
        with connection:
            _CALLS.receive(connection)
            wire.send(connection, failure_of(Conflict("the process has ended"), "shim"))

    serving = threading.Thread(target=serve_a_kill)
    serving.start()
    with pytest.raises(Conflict):
        client.kill(9)
    serving.join(10)
    client.close()


def test_a_wait_for_an_end_that_does_not_come_is_bounded(silent: socket.socket, tmp_path: Path) -> None:
    kept: list[int] = []

    def serve_one_subscription() -> None:
        connection, _ = silent.accept()
        with connection:
            _, descriptors = _CALLS.receive(connection)
            kept.extend(descriptors)
            wire.send(connection, Done())

    serving = threading.Thread(target=serve_one_subscription)
    serving.start()
    client = ShimClient.connect(tmp_path)
    serving.join(10)
    with pytest.raises(ShimSilent):
        client.wait(0.01)
    client.close()
    wire.close_all(kept)


def test_a_shim_that_is_stopped_is_killed_and_one_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    code = (
        "import os, signal, socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "listener.bind(sys.argv[1]); listener.listen(4); print(flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / SHIM_SOCKET)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        kill_shim(tmp_path)
        assert process.wait(10) == -signal.SIGKILL
    kill_shim(tmp_path)
