"""The daemon's side of the relay process: started when the first port needs it, again when it dies."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

from sampan.errors import Unavailable
from sampan.network.relay_door import retire_address, same_mounts
from sampan.network.side_process import launch

_log = logging.getLogger(__name__)
_ANSWER = 5.0  # seconds; the relay is a single thread that never blocks
_TOO_SHORT = 1.0  # a relay that lived less has not really started
_MAX_FAILURES = 5


@dataclass(frozen=True, slots=True)
class _Entry:
    message: bytes
    bound: socket.socket


class RelayClient:
    """Thread-safe. The sockets given to `add` stay the caller's and must stay open until `remove`."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._lock = threading.RLock()
        self._entries: dict[int, _Entry] = {}
        self._removed: dict[int, threading.Event] = {}
        self._number = 0
        self._failures = 0
        self._control: socket.socket | None = None

    def add(self, bound: socket.socket, protocol: str, address: str, port: int) -> int:
        """Serve a bound (TCP: listening) socket: everything goes to this address. Returns its number."""
        with self._lock:
            self._number += 1
            number = self._number
            entry = _Entry(f"add {number} {protocol} {address} {port}".encode(), bound)
            self._entries[number] = entry
            try:
                if self._control is None:
                    self._start()
                else:
                    self._send(entry)
            except BaseException:
                del self._entries[number]  # the socket will be closed: no later relay may be given it
                raise
        return number

    def remove(self, number: int, *, sessions: bool = True) -> None:
        """Stop serving; when this returns the relay has closed its copy of the socket.

        `sessions`: its connections end too.
        """
        with self._lock:
            if self._entries.pop(number, None) is None or self._control is None:
                return
            answered = self._removed[number] = threading.Event()
            control = self._control
            try:
                control.send(f"{'remove' if sessions else 'release'} {number}".encode())
            except OSError:
                del self._removed[number]
                return  # it has died, and its sockets with it; the watcher starts another
        if not answered.wait(_ANSWER):
            _log.error("the port relay does not answer; it is started anew")
            with self._lock:
                if self._control is control:
                    control.shutdown(socket.SHUT_RDWR)
        self._removed.pop(number, None)

    def retire_orphan(self) -> bool:
        """Make a relay that an earlier daemon has left close its listening sockets; False when there is none.

        What listens there for another user is none: abstract names are anybody's.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.settimeout(_ANSWER)
            try:
                caller.connect(retire_address(self._instance))
                credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                process, user, _ = struct.unpack("=iII", credentials)
                # The process is the daemon that is gone. Where there is one, it may be root in a container.
                foreign = os.path.exists(f"/proc/{process}") and not same_mounts(process)
                if user != os.geteuid() or foreign:
                    _log.warning(
                        "process %d of user %d has taken the name of the relay's socket", process, user
                    )
                    return False
                caller.send(b"retire")
                return caller.recv(64) == b"retired"
            except ConnectionRefusedError:
                return False
            except OSError as exc:
                raise Unavailable(f"the port relay of an earlier daemon does not make room: {exc}") from exc

    @property
    def process_id(self) -> int | None:
        """Of the running relay; for tests and `info`."""
        return self._process.pid if self._control is not None else None

    def close(self, *, stop: bool) -> None:
        """Let go of the relay: it goes on by itself, or ends when `stop`."""
        with self._lock:
            self._entries.clear()
            control, self._control = self._control, None
            if control is None:
                return
            if stop:
                try:
                    control.send(b"stop")
                except OSError as exc:
                    _log.debug("the port relay has ended already: %s", exc)
            control.shutdown(socket.SHUT_RDWR)
        if stop:
            try:
                self._process.wait(_ANSWER)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _start(self) -> None:
        ours, self._process = launch("sampan.network.relay", self._open_door())
        self._control = ours
        watcher = threading.Thread(
            target=self._watch, args=(ours, self._process, time.monotonic()), name="relay", daemon=True
        )
        watcher.start()
        for entry in self._entries.values():
            self._send(entry)

    def _open_door(self) -> socket.socket:
        """Made here, so that a relay can be told to retire from its first moment."""
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            try:
                door.bind(retire_address(self._instance))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                self.retire_orphan()
                # What answered may be a container's root with the host's network, which says anything.
                self._bind_elsewhere(door)
            door.listen(4)
        except BaseException:
            door.close()
            raise
        return door

    def _bind_elsewhere(self, door: socket.socket) -> None:
        """Somebody else's socket must not keep ports from being published."""
        try:
            door.bind(retire_address(self._instance))  # an orphan may have ended meanwhile
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            door.bind("")  # a name that the kernel chooses
            _log.warning("a later daemon will not be able to take published ports over from this one's relay")

    def _send(self, entry: _Entry) -> None:
        control = self._control
        if control is None:
            return
        try:
            socket.send_fds(control, [entry.message], [entry.bound.fileno()])
        except (BrokenPipeError, ConnectionResetError) as exc:
            _log.debug("the port relay has ended; the watcher starts another: %s", exc)

    def _watch(self, control: socket.socket, process: subprocess.Popen[bytes], started: float) -> None:
        """Read answers until the relay ends; start another one, with all ports, when that was not asked for."""
        while True:
            try:
                message = control.recv(256)
            except OSError:
                message = b""
            if not message:
                break
            words = message.split()
            if len(words) == 2 and words[0] == b"removed":
                event = self._removed.get(int(words[1]))
                if event is not None:
                    event.set()
        with self._lock:
            expected = self._control is not control
            control.close()
            if expected:
                if process.poll() is None:
                    _reap_later(process)
                return
            self._control = None
            process.kill()
            _log.warning("the port relay ended with status %s", process.wait())
            for event in list(self._removed.values()):
                event.set()
            self._failures = self._failures + 1 if time.monotonic() - started < _TOO_SHORT else 1
            if not self._entries or self._failures > _MAX_FAILURES:
                return
            try:
                self._start()
            except (OSError, Unavailable) as exc:
                _log.error("the port relay can not be started again: %s", exc)


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    """Wait for a relay that goes on without us, should it end while we live."""
    threading.Thread(target=process.wait, name="relay-reaper", daemon=True).start()
