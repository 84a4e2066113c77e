"""Start the engine when a command needs it and nothing listens on its socket.

Two commands at once start one engine: the starter holds a lock beside the socket, and whoever gets the lock
looks once more before starting. The engine inherits the write end of a pipe (its number in
SAMPAN_READY_FD), writes a byte when it serves, and closes it; a pipe that closes with no byte means that it failed.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from sampan.errors import Unavailable

READY_FD_VARIABLE = "SAMPAN_READY_FD"
CONFIG_VARIABLE = "SAMPAN_DAEMON_CONFIG"
"""Names the configuration file of an engine that is started on demand."""
START_TIMEOUT = 60.0
_LOG_TAIL = 4096


def start_daemon(socket_path: str, reason: OSError) -> None:
    """Make an engine listen at `socket_path`, unless another command has just done so.

    Raises `Unavailable` with the end of the engine's log when it does not come up within 60 seconds.
    """
    if reason.errno not in (errno.ENOENT, errno.ECONNREFUSED):
        raise Unavailable(f"cannot connect to unix://{socket_path}: {reason.strerror}") from reason
    directory = os.path.dirname(socket_path) or "."
    if os.geteuid() != 0 and not os.access(os.path.dirname(directory) or "/", os.W_OK):
        raise Unavailable(
            f"Cannot connect to the Docker daemon at unix://{socket_path}. Is the docker daemon running?",
            hint="the engine is started on demand, but only by root: use sudo",
        )
    import fcntl

    os.makedirs(directory, mode=0o755, exist_ok=True)
    lock = os.open(socket_path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not listens(socket_path):
            _spawn(socket_path, os.path.join(directory, "daemon.log"))
    finally:
        os.close(lock)


def listens(socket_path: str) -> bool:
    """Something accepts connections at this socket."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        probe.connect(socket_path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _spawn(socket_path: str, log_path: str) -> None:
    read_end, write_end = os.pipe()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    log_start = os.fstat(log).st_size
    try:
        pid = _fork_detached(socket_path, log, write_end)
    finally:
        os.close(write_end)
        os.close(log)
    try:
        if not _await_byte(read_end):
            raise _failure(log_path, log_start)
    finally:
        os.close(read_end)
        os.waitpid(pid, 0)


def _fork_detached(socket_path: str, log: int, write_end: int) -> int:
    """Fork twice, so that the engine is nobody's child; returns the middle process, which ends at once."""
    pid = os.fork()
    if pid:
        return pid
    # In the child nothing but what leads to exec or _exit.
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.set_inheritable(write_end, True)
        os.environ[READY_FD_VARIABLE] = str(write_end)
        os.execv(sys.executable, daemon_command(socket_path))
    finally:
        os._exit(127)


def daemon_command(socket_path: str) -> list[str]:
    """The engine's command line for a socket; everything but the default path is said explicitly."""
    from sampan.client.address import DEFAULT_SOCKET

    command = [sys.executable, "-I", "-m", "sampan.cli.main", "daemon"]
    config = os.environ.get(CONFIG_VARIABLE, "")
    if config:
        command += ["--config-file", config]
    if socket_path != DEFAULT_SOCKET:
        command += ["--host", "unix://" + socket_path]
    return command


def _await_byte(read_end: int) -> bool:
    ready, _, _ = select.select([read_end], [], [], START_TIMEOUT)
    return bool(ready) and os.read(read_end, 1) != b""


def _failure(log_path: str, log_start: int) -> Unavailable:
    with open(log_path, "rb") as file:
        file.seek(log_start)
        written = file.read()
    tail = written[-_LOG_TAIL:].decode("utf-8", "replace").strip()
    message = "the engine did not start"
    if tail:
        message += "; the end of its log says:\n" + tail
    return Unavailable(
        message, hint=f"the whole log is {log_path}; `sampan daemon` starts it in the foreground"
    )
