"""The name server at 127.0.0.11 of containers, as the daemon has it.

Queries are answered by a process of its own (`dns_process.py`), started when the first container needs it and again
when it dies. Sockets are opened here, in the containers' namespaces (`dns_sockets.py`), and kept: another process goes
on with them. Names of the networks are answered from what `tell` said; everything else is asked of other resolvers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from sampan.errors import Unavailable
from sampan.linux.netlink_namespace import in_namespace
from sampan.network.dns_control import (
    TAKE_OVER,
    Close,
    Configure,
    HandedOver,
    Look,
    Message,
    Open,
    Stop,
    Sync,
    Tell,
    receive,
    send,
)
from sampan.network.dns_sockets import lead_to, open_sockets
from sampan.network.model import Member, Outlook
from sampan.network.side_process import launch

_log = logging.getLogger(__name__)

TIMEOUT = 4.0  # seconds for each resolver, as Docker
_ANSWER = 5.0  # seconds; the process is a single thread that never blocks
_TOO_SHORT = 1.0  # a process that lived less has not really started
_MAX_FAILURES = 5
_BUFFER = 1 << 20  # bytes
Sockets = tuple[socket.socket, socket.socket]


class ServedNamespace:
    """The name server of one container: made by `NameServer.serve`."""

    def __init__(
        self, server: NameServer, key: int, namespace: int, sockets: Sockets, outlook: Outlook
    ) -> None:
        self.key, self.namespace, self.sockets, self.outlook = key, namespace, sockets, outlook
        self.server = server

    def update(self, outlook: Outlook) -> None:
        """Look at other networks from now on."""
        if outlook != self.outlook:
            self.outlook = outlook
            self.server.changed(self)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self.server.forget(self)
        for one in self.sockets:
            one.close()


class NameServer:
    """Answers queries of all containers of one engine. Use it from the event loop's thread only."""

    def __init__(
        self, directory: Path, resolvers: Sequence[str] | None = None, *, timeout: float = TIMEOUT
    ) -> None:
        """`directory`: where a later daemon finds the process of this one.

        `resolvers`: whom the host asks ("address" or "address#port"), asked from the host's namespace in this order;
        None: what the host's resolv.conf says at the time. `timeout`: seconds for each.
        """
        self._directory = directory
        self._configure = Configure(None if resolvers is None else tuple(resolvers), timeout)
        self._members: dict[tuple[str, str], Member] = {}
        self._served: dict[int, ServedNamespace] = {}
        self._inherited: dict[int, Sockets] = {}
        self._keys = 0
        self._starting = asyncio.Lock()
        self._failures = 0
        self._begun = 0.0
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._outgoing: deque[Message] = deque()
        self._syncs: dict[int, asyncio.Future[None]] = {}
        self._restarting: asyncio.Task[None] | None = None

    @property
    def process_id(self) -> int | None:
        """Of the running process; for tests and `info`."""
        return self._process.pid if self._process is not None and self._control is not None else None

    # What is served

    def tell(self, network: str, container: str, member: Member | None) -> None:
        """A member of a network, by ids; None: it is gone. The next query sees it."""
        key = network, container
        if self._members.get(key) == member:
            return
        if member is not None:
            self._members[key] = member
        else:
            del self._members[key]
        self._send(Tell(network, container, member))

    async def serve(self, namespace: int, outlook: Outlook) -> ServedNamespace:
        """Answer at 127.0.0.11:53 (UDP and TCP) in the namespace (a descriptor, not kept); takes over from an engine
        that served there before.

        Conflict: see `open_sockets`.
        """
        inode = os.fstat(namespace).st_ino
        await self._start()
        sockets = await asyncio.to_thread(_open_in, os.dup(namespace), self._inherited.pop(inode, None))
        self._keys += 1
        served = ServedNamespace(self, self._keys, inode, sockets, outlook)
        self._served[served.key] = served
        self._send(Open(served.key, inode, outlook))
        return served

    def changed(self, served: ServedNamespace) -> None:
        if served.key in self._served:
            self._send(Look(served.key, served.outlook))

    def forget(self, served: ServedNamespace) -> None:
        if self._served.pop(served.key, None) is not None:
            self._send(Close(served.key))

    async def sync(self) -> None:
        """Return when all that was said so far is in force. Raises `Unavailable`."""
        if self._control is None:
            return
        self._keys += 1
        answered = self._syncs[self._keys] = asyncio.get_running_loop().create_future()
        self._send(Sync(self._keys))
        try:
            async with asyncio.timeout(_ANSWER):
                await answered
        except TimeoutError as exc:
            raise Unavailable("the name server does not answer") from exc

    # From one daemon to the next

    async def take_over(self) -> None:
        """Get the sockets that the process of an earlier daemon serves; that one ends.

        Until `recovered`, `serve` goes on with them.
        """
        self._inherited = await asyncio.to_thread(_take_over, self._directory)

    def recovered(self) -> None:
        """What was taken over and is not served is closed."""
        for sockets in self._inherited.values():
            for one in sockets:
                one.close()
        self._inherited.clear()

    async def close(self, *, stop: bool = True) -> None:
        """Let go: without `stop` the process goes on by itself, for the next daemon to take over."""
        self.recovered()
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        if stop:
            self._send(Stop())
        control, process = self._disconnect(), self._process
        self._process = None
        if control is not None and self._outgoing:
            control.setblocking(True)
            control.settimeout(_ANSWER)
            await asyncio.to_thread(self._send_rest, control)
        for served in list(self._served.values()):
            for one in served.sockets:
                one.close()
        self._served.clear()
        if control is not None:
            control.close()
        if process is not None and stop:
            await asyncio.to_thread(_end, process)
            (self._directory / DOOR).unlink(missing_ok=True)
        elif process is not None:
            threading.Thread(target=process.wait, name="names-reaper", daemon=True).start()

    def _send_rest(self, control: socket.socket) -> None:
        try:
            while self._outgoing:
                self._send_one(control, self._outgoing.popleft())
        except OSError as exc:
            _log.warning("the name server has not been told everything: %s", exc)

    # The process

    async def _start(self) -> None:
        async with self._starting:
            if self._control is not None:
                return
            ours, self._process = await asyncio.to_thread(_launch, self._directory)
            ours.setblocking(False)
            self._begun = time.monotonic()
            self._control = ours
            asyncio.get_running_loop().add_reader(ours, self._on_answer)
            self._outgoing.clear()
            self._send(self._configure)
            for (network, container), member in self._members.items():
                self._send(Tell(network, container, member))
            for served in self._served.values():
                self._send(Open(served.key, served.namespace, served.outlook))

    def _disconnect(self) -> socket.socket | None:
        control, self._control = self._control, None
        if control is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(control)
            loop.remove_writer(control)
        for answered in self._syncs.values():
            if not answered.done():
                answered.set_result(None)  # what it waited for is said anew to the next process
        self._syncs.clear()
        return control

    def _on_answer(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            received = receive(control)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self._disconnect()
            control.close()
            self._restarting = asyncio.get_running_loop().create_task(self._restart())
            return
        message, _ = received
        if isinstance(message, Sync) and (answered := self._syncs.pop(message.number, None)) is not None:
            answered.set_result(None)

    async def _restart(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            _log.warning("the name server ended with status %s", await asyncio.to_thread(process.wait))
        self._failures = self._failures + 1 if time.monotonic() - self._begun < _TOO_SHORT else 1
        if self._failures > _MAX_FAILURES:
            _log.error("the name server is not started again: it has ended %d times at once", self._failures)
            return
        try:
            await self._start()
        except (OSError, Unavailable) as exc:
            _log.error("the name server can not be started again: %s", exc)

    # What is said to it

    def _send(self, message: Message) -> None:
        """In order, and without waiting: what does not fit the socket now goes later."""
        if self._control is None:
            return  # a process that starts is told everything
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        control = self._control
        if control is None:
            return
        loop = asyncio.get_running_loop()
        while self._outgoing:
            try:
                self._send_one(control, self._outgoing[0])
            except BlockingIOError:
                loop.add_writer(control, self._flush)
                return
            except OSError as exc:  # it has ended, as the next read will say
                _log.debug("the name server can not be told anything: %s", exc)
                self._outgoing.clear()
                break
            self._outgoing.popleft()
        loop.remove_writer(control)

    def _send_one(self, control: socket.socket, message: Message) -> None:
        if isinstance(message, Open):
            served = self._served.get(message.key)
            if served is not None:  # else it was closed before it was its turn
                send(control, message, [one.fileno() for one in served.sockets])
        else:
            send(control, message)


def _open_in(namespace: int, inherited: Sockets | None) -> Sockets:
    """With a descriptor of its own: who gives up waiting may close his, and its number may get another meaning."""
    try:
        if inherited is None:
            return in_namespace(namespace, open_sockets)
        port = inherited[0].getsockname()[1]
        in_namespace(namespace, lambda: lead_to(port))
        return inherited
    except BaseException:
        for one in inherited or ():
            one.close()
        raise
    finally:
        os.close(namespace)


DOOR = "names.sock"


def _launch(directory: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Blocking: start the process; our end of its control socket."""
    return launch("sampan.network.dns_process", _open_door(directory), str(directory), send_buffer=_BUFFER)


def _open_door(directory: Path) -> socket.socket:
    """Made here, so that the process can be called from its first moment."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(DOOR, dir_fd=place)
        except FileNotFoundError:
            pass
        door.bind(f"/proc/self/fd/{place}/{DOOR}")  # its path may be longer than a socket's name can be
        os.chmod(DOOR, 0o600, dir_fd=place)
        door.listen(1)
    except BaseException:
        door.close()
        raise
    finally:
        os.close(place)
    return door


def _take_over(directory: Path) -> dict[int, Sockets]:
    """Blocking: inode of the namespace -> its sockets. Nothing when there is no such process."""
    found: dict[int, Sockets] = {}
    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return found
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.settimeout(_ANSWER)
            caller.connect(f"/proc/self/fd/{place}/{DOOR}")
            caller.send(TAKE_OVER)
            while (received := receive(caller)) is not None:
                message, descriptors = received
                sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                if isinstance(message, HandedOver) and len(sockets) == 2:
                    found[message.namespace] = (sockets[0], sockets[1])
    except (FileNotFoundError, ConnectionRefusedError):
        return found
    except OSError as exc:
        _log.warning("the name server of an earlier daemon has not handed everything over: %s", exc)
    finally:
        os.close(place)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_ANSWER)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
