"""What every shim does, done a few times in the launcher before it serves.

It fills the interpreter's caches and specialises byte code, which is writing to memory: what is written before
the fork is shared by all shims, what each writes after it is its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Final

from sampan.errors import SampanError
from sampan.linux import namespaces as ns
from sampan.oci.spec import Process
from sampan.runtime import spawn, wire
from sampan.runtime.failure import describe
from sampan.runtime.init import Setup
from sampan.runtime.logsink import LogFactory
from sampan.runtime.messages import SHIM_SOCKET, Attach, AttachOptions, LogTarget, Start, Subscribe
from sampan.runtime.shim import Job, Shim

ROUNDS = 10
"""Python 3.11 specialises a function's byte code when it runs for the eighth time."""

_PROGRAM: Final = ("/proc/self/exe", "--version")
"""Always there, and it ends at once."""


def rehearse(directory: Path, log_factory: LogFactory) -> None:
    """`directory` is made, and removed again. To be called while SIGCHLD is not ignored.

    Where no process can be made like this nothing is gained, and nothing is lost: a container will tell why.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for _ in range(ROUNDS):
            _perform(directory, log_factory)
    except (SampanError, OSError) as error:
        sys.stderr.write(f"sampan launcher: {describe(error)}\n")
    finally:
        shutil.rmtree(directory)


def _perform(directory: Path, log_factory: LogFactory) -> None:
    """A shim from its making to its end. What its engine says to it is sent in advance."""
    shim = Shim(_job(directory), log_factory)
    shim.create()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    terminal, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as engine, ours, theirs, terminal, client:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        engine.connect(f"/proc/self/fd/{place}/{SHIM_SOCKET}")
        os.close(place)
        wire.send(engine, Subscribe(), (theirs.fileno(),))
        wire.send(engine, Attach(b"", AttachOptions()), (client.fileno(),))
        wire.send(engine, Start())
        terminal.shutdown(socket.SHUT_WR)
        shim.serve()
    shim.close()


def _job(directory: Path) -> Job:
    return Job(
        run_dir=str(directory),
        entry=spawn.Entry({ns.NEWPID: None}),
        setup=Setup(plan=tuple, process=Process("/", args=_PROGRAM)),
        terminal=False,
        log=LogTarget("json-file", str(directory / "log")),
        stdin=False,
        stdin_once=False,
        group=None,
        removes_group=False,
        kills_group=False,
        hooks=None,
        state={},
    )
