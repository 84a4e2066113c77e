"""Running from a sealed memory copy of the interpreter.

Until its execve a container's init *is* this interpreter, and a container can make it open its own executable
for writing (`#!/proc/self/exe` as entry point, /proc/<pid>/exe: CVE-2019-5736). A sealed copy can't be written to.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from sampan.errors import Unsupported
from sampan.linux import memfd

_LIBRARY_PATH = "LD_LIBRARY_PATH"


def ensure_sealed() -> None:
    """Returns when the process runs from a sealed copy; else starts itself again from one. Raises `Unsupported`.

    To be called before anything that an execve would undo. Arguments and environment stay the same.
    """
    executable = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if memfd.is_sealed(executable):
            _forget_library_path()
            return
    finally:
        os.close(executable)
    _restart()


def _restart() -> NoReturn:
    try:
        copy = memfd.sealed_copy("/proc/self/exe", "sampan")
        # argv[0] is where the interpreter looks for its virtual environment.
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(f"/proc/self/fd/{copy}", arguments, _environment())
    except OSError as error:
        raise Unsupported(
            f"the interpreter can't be started from a sealed memory file: {error}",
            hint="the sysctl vm.memfd_noexec must not be 2",
        ) from error


def _environment() -> dict[str, str]:
    """A shared libpython found relative to the executable ($ORIGIN) would not be found from a memory file."""
    environment = dict(os.environ)
    library = _shared_library()
    if library is not None:
        before = environment.get(_LIBRARY_PATH)
        environment["SAMPAN_LIBRARY_PATH"] = before or ""
        environment[_LIBRARY_PATH] = os.path.dirname(library) + (f":{before}" if before else "")
    return environment


def _forget_library_path() -> None:
    before = os.environ.pop("SAMPAN_LIBRARY_PATH", None)
    if before:
        os.environ[_LIBRARY_PATH] = before
    elif before is not None:
        os.environ.pop(_LIBRARY_PATH, None)


def _shared_library() -> str | None:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")
            if os.path.basename(path[2]).startswith("libpython"):
                return "/" + path[2]
    return None
