"""The ssh agent that a build step or a fetch sees: each connection is joined with a new one to the client's agent."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from sampan.build.session import Duplex
from sampan.errors import SampanError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Of one step at the same time; further ones wait in the socket's queue."""
_CHUNK = 32 * 1024


class AgentSocket:
    """Listens from its making on; leaving it ends every connection and waits for its threads."""

    def __init__(self, path: str, connect: Callable[[], Duplex]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._agents: set[Duplex] = set()
        self._threads: list[threading.Thread] = []
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._ended = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(path)
            self._listener.listen(MAX_CONNECTIONS)
        except BaseException:
            self._listener.close()
            raise
        self._accepting = threading.Thread(target=self._accept, name="ssh agent", daemon=True)

    def __enter__(self) -> AgentSocket:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            connections, agents = tuple(self._open), tuple(self._agents)
        self._room.release()  # for the acceptor that waits for it
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            with contextlib.suppress(OSError):  # its end was faster
                connection.shutdown(socket.SHUT_RDWR)
        for agent in agents:
            agent.close()  # it may have something to say for a long time, or nothing
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            with self._lock:
                if self._ended:
                    connection.close()
                    return
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="ssh agent", daemon=True)
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            agent = self._connect()
            try:
                with self._lock:
                    if self._ended:
                        return
                    self._agents.add(agent)
                self._join(connection, agent)
            finally:
                with self._lock:
                    self._agents.discard(agent)
                agent.close()
        except (SampanError, OSError) as error:
            log.info("a build step's connection to the client's ssh agent has ended: %s", error)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
            self._room.release()

    def _join(self, connection: socket.socket, agent: Duplex) -> None:
        answers = threading.Thread(target=_answers, args=(agent, connection), name="ssh agent", daemon=True)
        answers.start()
        try:
            while data := connection.recv(_CHUNK):
                agent.write(data)
            agent.end()
        except BaseException:
            agent.close()  # the program has left: nobody waits for what the agent would say
            raise
        finally:
            answers.join()


def _answers(agent: Duplex, connection: socket.socket) -> None:
    try:
        while data := agent.read(_CHUNK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except (SampanError, OSError):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
