"""Processes that serve beside the daemon and outlive it: the port relay, the name server of containers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def launch(
    module: str, door: socket.socket, *arguments: str, send_buffer: int | None = None
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Run `python -m MODULE CONTROL DOOR ARGUMENTS...`: our end of its control socket (SEQPACKET), and the process.

    CONTROL and DOOR are descriptors it inherits. `door`, a socket on which a later daemon calls it, is closed here.
    It has a session of its own, no streams and none of the daemon's environment. `send_buffer`: bytes (SO_SNDBUF) of
    both ends of the control socket.
    """
    with door:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                if send_buffer is not None:
                    for end in (ours, theirs):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
                descriptors = (theirs.fileno(), door.fileno())
                return ours, subprocess.Popen(
                    [sys.executable, "-I", "-m", module, *map(str, descriptors), *arguments],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={"PATH": os.defpath},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
