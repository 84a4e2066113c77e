"""A small init for containers that ask for one: forwards signals to its child, reaps whatever is left to it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from sampan.errors import SampanError
from sampan.linux import process

_NEVER_FORWARDED = frozenset({signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU, signal.SIGKILL, signal.SIGSTOP})


def split(channel: socket.socket, has_terminal: bool, become_user: Callable[[], object]) -> None:
    """Fork; returns in the child, which goes on to be the program. The parent never returns.

    `become_user` drops the parent's privileges to those of the program. The parent keeps nothing open but its streams.
    The child goes on when that is done: the program never sees a process one with more rights than it has itself.
    """
    dropped, dropping = os.pipe()
    # Blocked before the fork: a signal that comes now is not lost, it is forwarded.
    everything = signal.valid_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    child = os.fork()
    if child == 0:
        os.close(dropping)
        os.read(dropped, 1)  # ends when the parent closes its end
        os.close(dropped)
        os.setpgid(0, 0)
        if has_terminal:
            os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    # Its end must not keep the maker waiting for the program's execve.
    channel.close()
    process.close_except({dropping})
    process.set_name("sampan-init")
    # The launcher's arguments name directories of the host.
    process.set_title("/sbin/sampan-init")
    try:
        become_user()
    except (OSError, SampanError):
        os.kill(child, signal.SIGKILL)
    os.close(dropping)
    _serve(child, everything - _NEVER_FORWARDED)


def _serve(child: int, forwarded: set[signal.Signals]) -> NoReturn:
    awaited = forwarded | {signal.SIGCHLD}
    while True:
        number = signal.sigwaitinfo(awaited).si_signo
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                continue
            continue
        status = _reap(child)
        if status is not None:
            os._exit(exit_code_of(status))


def _reap(child: int) -> int | None:
    """Collect all who have died; the wait status of `child` if it is among them."""
    result = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == child:
            result = status


def exit_code_of(status: int) -> int:
    """A wait status as a shell tells it: 128 + n for signal n."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)
