"""The socket that leads a step to the client's ssh agent: whoever leaves or says nothing, the step comes to its end."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path

from sampan.build.agent_socket import AgentSocket

PATIENCE = 20.0
"""Seconds after which something hangs."""


class Agent:
    """Answers what it is asked with the same bytes; then it waits for more, and never ends by itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answers = bytearray()
        self.ended = threading.Event()
        self.closed = threading.Event()

    def read(self, limit: int = 1024, /) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._answers) or self.closed.is_set())
            data, self._answers = bytes(self._answers[:limit]), self._answers[limit:]
            return data

    def write(self, data: bytes, /) -> int:
        with self._changed:
            self._answers += data
            self._changed.notify_all()
        return len(data)

    def end(self) -> None:
        self.ended.set()

    def close(self) -> None:
        with self._changed:
            self.closed.set()
            self._changed.notify_all()


def connected(path: str) -> socket.socket:
    program = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    program.connect(path)
    return program


def require_end(step: AgentSocket) -> None:
    leaving = threading.Thread(target=step.__exit__, args=(None, None, None), daemon=True)
    leaving.start()
    leaving.join(PATIENCE)
    assert not leaving.is_alive(), "the end of the step waits for the agent"


def test_a_program_that_leaves_an_answer_unread_gives_its_connection_back(tmp_path: Path) -> None:
    agent = Agent()
    step = AgentSocket(str(tmp_path / "agent"), lambda: agent).__enter__()
    with connected(str(tmp_path / "agent")) as program:
        program.sendall(b"question")
        assert select.select([program], [], [], PATIENCE)[0]
    assert agent.closed.wait(PATIENCE), "the agent's connection is kept for nobody"
    require_end(step)


def test_an_agent_that_says_nothing_does_not_hold_up_the_end_of_the_step(tmp_path: Path) -> None:
    agent = Agent()
    step = AgentSocket(str(tmp_path / "agent"), lambda: agent).__enter__()
    with connected(str(tmp_path / "agent")) as program:
        program.shutdown(socket.SHUT_WR)
        assert agent.ended.wait(PATIENCE)
        require_end(step)
    assert agent.closed.is_set()


def test_answers_are_passed_on_after_the_last_question(tmp_path: Path) -> None:
    agent = Agent()
    step = AgentSocket(str(tmp_path / "agent"), lambda: agent).__enter__()
    with connected(str(tmp_path / "agent")) as program:
        program.sendall(b"question")
        program.shutdown(socket.SHUT_WR)
        assert agent.ended.wait(PATIENCE)
        program.settimeout(PATIENCE)
        assert program.recv(1024) == b"question"
    require_end(step)
