"""A file that appears when it is complete."""

from __future__ import annotations

import os


class Replacing:
    """A context manager that gives a descriptor to write to: what is written takes the place of `path` at the end.

    When the body fails nothing of it stays, and what was at `path` does. It is written beside `path`, never through
    a link that others have put there.
    """

    def __init__(self, path: str, mode: int = 0o666) -> None:
        """`mode`: as for open(2), the umask is taken from it."""
        self._path = path
        self._mode = mode
        name = f".{os.path.basename(path)}.{os.urandom(8).hex()}"
        self._temporary = os.path.join(os.path.dirname(path) or ".", name)
        self._descriptor = -1

    def __enter__(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._temporary, flags, self._mode)
        return self._descriptor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        done = False
        try:
            os.close(self._descriptor)
            if kind is None:
                os.replace(self._temporary, self._path)
                done = True
        finally:
            if not done:
                os.unlink(self._temporary)
