"""The engine's side of a shim: start, attach, resize, kill, and the end of a container or an exec."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Conflict, Internal, NotFound, Unavailable
from sampan.runtime import wire
from sampan.runtime.failure import Failure
from sampan.runtime.messages import (
    EXIT_FILE,
    SHIM_SOCKET,
    Attach,
    AttachOptions,
    Done,
    ExitRecord,
    Kill,
    Resize,
    ShimAnswer,
    ShimCall,
    Start,
    Subscribe,
)

_ANSWERS: Final[wire.Codec[Done | Failure]] = wire.Codec(ShimAnswer)
_EXITS: Final[wire.Codec[ExitRecord]] = wire.Codec(ExitRecord)

CALL_SECONDS: Final = 60.0
"""How long a shim may take for an answer; one that is stopped (SIGSTOP) never gives any."""


KILL_SECONDS: Final = 10.0
"""The same for a signal, on whose delivery somebody waits."""

NO_ANSWER: Final = "the container's shim did not answer and was killed; its exit code is not known"
"""What is recorded of such an end, with the exit code of SIGKILL."""


class ShimSilent(Unavailable):
    """The shim lives, but does not answer in time: nothing is known about its container's end."""


def read_exit(run_dir: Path) -> ExitRecord | None:
    """What the shim recorded at the end, or None when there is no record. Raises `Internal` for a malformed one."""
    try:
        raw = (run_dir / EXIT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(raw, type=ExitRecord)
    except msgspec.MsgspecError as error:
        raise Internal(f"malformed exit record {run_dir / EXIT_FILE}: {error}") from error


class ShimClient:
    """A connection to one shim. Thread-safe; calls are answered at once, except `wait`.

    Every method raises the `SampanError` that the shim met, `Unavailable` when it is gone, and `ShimSilent` when it
    does not answer in time. A call that was not answered may still be done, as soon as the shim goes on.
    """

    def __init__(self, run_dir: Path, control: socket.socket, events: socket.socket) -> None:
        """`events`: subscribed to the end."""
        self._run_dir = run_dir
        self._control: socket.socket | None = control
        self._closed = False
        self._lock = threading.Lock()
        self._exit_lock = threading.Lock()
        self._exit: ExitRecord | None = None
        self._events = events
        self._unanswered = 0

    @classmethod
    def connect(cls, run_dir: Path, *, timeout: float = CALL_SECONDS) -> ShimClient:
        """Raises `NotFound` when no shim listens there (then `read_exit` knows how it ended).

        One that listens, but does not answer within `timeout` seconds, is `ShimSilent`: it may well be alive.
        """
        try:
            control = _connected(run_dir, timeout)
        except (FileNotFoundError, ConnectionError) as error:
            raise NotFound(f"no shim listens in {run_dir}") from error
        events, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client = cls(run_dir, control, events)
        try:
            with theirs:
                client._call(Subscribe(), theirs.fileno(), timeout=timeout)
            return client
        except BaseException as error:
            client.close()
            if isinstance(error, Unavailable) and not isinstance(error, ShimSilent):
                raise NotFound(f"no shim listens in {run_dir}") from error
            raise

    @classmethod
    def begin(
        cls, run_dir: Path, attached: tuple[int, bytes, AttachOptions] | None
    ) -> tuple[ShimClient, socket.socket]:
        """A client of a shim that is yet to be made, and the connection to give to it (`LauncherClient.exec`).

        The subscription, an attached client (as of `attach`) and the start wait on it, so that the shim does them
        without a round trip for each. `begun` gives their result.
        """
        control, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        events, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client = cls(run_dir, control, events)
        try:
            with theirs:
                wire.send(control, Subscribe(), (theirs.fileno(),))
            if attached is not None:
                connection_fd, preread, options = attached
                wire.send(control, Attach(preread, options), (connection_fd,))
            wire.send(control, Start())
        except BaseException:
            client.close()
            other_end.close()
            raise
        client._unanswered = 2 if attached is None else 3
        return client, other_end

    def begun(self, *, timeout: float = CALL_SECONDS) -> None:
        """After `begin`, when the shim has been made: as `attach` and `start`."""
        with self._lock:
            for _ in range(self._unanswered):
                self._unanswered -= 1
                self._receive_answer(timeout)

    def start(self, *, timeout: float = CALL_SECONDS) -> None:
        """Let the process go on to its execve; returns when that succeeded.

        Raises `ExecFailed` (with `exit_code` 126 or 127) when it did not; the shim then ends, having recorded it.
        """
        self._call(Start(), timeout=timeout)

    def attach(self, connection_fd: int, preread: bytes, options: AttachOptions) -> None:
        """Hand a client's connection to the shim, which serves it from then on (it gets a duplicate).

        Clients attached before `start` get every byte of output. The shim closes its duplicate after the
        last byte at the end of the process, or when the client detaches.
        """
        self._call(Attach(preread, options), connection_fd)

    def resize(self, height: int, width: int) -> None:
        """Rows and columns; `Invalid` without a terminal."""
        self._call(Resize(height, width))

    def kill(self, number: int, *, timeout: float = KILL_SECONDS) -> None:
        """Signal the container's init (or the exec's process); `Conflict` when it has ended."""
        try:
            self._call(Kill(number), timeout=timeout)
        except ShimSilent:
            raise
        except Unavailable as error:
            raise Conflict("the process has ended") from error

    def fileno(self) -> int:
        """Readable when the process has ended (then `exit_nowait` gives the record). For `loop.add_reader`."""
        return self._events.fileno()

    def exit_nowait(self) -> ExitRecord | None:
        """The record of the end, or None while the process lives."""
        with self._exit_lock:
            if self._exit is None and select.select([self._events], [], [], 0)[0]:
                self._exit = self._receive_exit()
            return self._exit

    def wait(self, timeout: float | None = None) -> ExitRecord:
        """Block until the process has ended. Raises `ShimSilent` when that takes longer than `timeout` seconds."""
        with self._exit_lock:
            if self._exit is None:
                if timeout is not None and not select.select([self._events], [], [], timeout)[0]:
                    raise _silent(self._run_dir, timeout)
                self._exit = self._receive_exit()
            return self._exit

    def close(self) -> None:
        """Leave; the shim and the process go on. A call that is under way in another thread is waited for."""
        with self._lock:
            self._closed = True
            self._drop_control()
        self._events.close()

    def _receive_exit(self) -> ExitRecord:
        try:
            record, _ = _EXITS.receive(self._events)
        except ConnectionError:
            record = None
        if record is None:
            record = read_exit(self._run_dir)
        if record is None:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            return ExitRecord(137, now, error="the container's shim was killed; its exit code is not known")
        return record

    def _call(self, call: ShimCall, descriptor: int | None = None, *, timeout: float = CALL_SECONDS) -> None:
        with self._lock:
            if self._closed:
                raise Unavailable("the connection to the container's shim is closed")
            try:
                if self._control is None:
                    self._control = _connected(self._run_dir, timeout)
                self._control.settimeout(timeout)
                wire.send(self._control, call, () if descriptor is None else (descriptor,))
            except TimeoutError as error:
                self._drop_control()
                raise _silent(self._run_dir, timeout) from error
            except (FileNotFoundError, ConnectionError) as error:
                raise Unavailable("the container's shim is gone") from error
            self._receive_answer(timeout)

    def _receive_answer(self, timeout: float) -> None:
        """The lock is held, and a call has been sent."""
        if self._control is None:
            raise Unavailable("the connection to the container's shim is closed")
        try:
            self._control.settimeout(timeout)
            answer, _ = _ANSWERS.receive(self._control)
        except TimeoutError as error:
            # The answer may come later, and must not be taken for that to the next call.
            self._drop_control()
            raise _silent(self._run_dir, timeout) from error
        except ConnectionError as error:
            raise Unavailable("the container's shim is gone") from error
        if answer is None:
            raise Unavailable("the container's shim is gone")
        if isinstance(answer, Failure):
            raise answer.error()

    def _drop_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None


def kill_shim(run_dir: Path) -> None:
    """SIGKILL to the shim that listens in `run_dir`, answering or not; nothing when none listens there.

    Its process lives on without it and has to be ended otherwise. Raises `Unavailable` for a shim of another
    namespace of processes.
    """
    try:
        with _connected(run_dir, KILL_SECONDS) as control:
            pid = _peer(control)
        try:
            shim = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # The number may have gone to another process meanwhile; while the socket is listened at it has not.
            with _connected(run_dir, KILL_SECONDS) as control:
                if _peer(control) == pid:
                    signal.pidfd_send_signal(shim, signal.SIGKILL)
            select.select([shim], [], [], KILL_SECONDS)
        finally:
            os.close(shim)
    except (FileNotFoundError, ConnectionError):
        return  # it has ended by itself


def _peer(control: socket.socket) -> int:
    """The process that listens at the other end (unix(7), SO_PEERCRED)."""
    raw = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", raw)[0]
    if pid <= 0:
        raise Unavailable("the container's shim can't be seen from here")
    return pid


def _connected(run_dir: Path, timeout: float) -> socket.socket:
    """Raises FileNotFoundError and ConnectionError when nobody listens, and `ShimSilent`."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(timeout)
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's address has room for 107 bytes only; run directories may be longer.
            control.connect(f"/proc/self/fd/{directory}/{SHIM_SOCKET}")
        finally:
            os.close(directory)
    except (TimeoutError, BlockingIOError) as error:  # its queue of connections is full
        control.close()
        raise _silent(run_dir, timeout) from error
    except BaseException:
        control.close()
        raise
    return control


def _silent(run_dir: Path, timeout: float) -> ShimSilent:
    return ShimSilent(
        f"the container's shim in {run_dir} does not answer within {timeout:g} s",
        hint="Is its process stopped? SIGCONT lets it go on; the container is left as it is.",
    )
