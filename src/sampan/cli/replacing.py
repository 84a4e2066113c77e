"""A file that appears when it is complete."""

from __future__ import annotations

import os


class Replacing:
    """A context manager that gives a descriptor to write to: what is written takes the place of `path` at the end.

    When the body fails nothing of it stays, and what was at `path` does; also when the process is killed, where the
    file system has files without a name (open(2), O_TMPFILE). It is written beside `path`, never through a link that
    others have put there.
    """

    def __init__(self, path: str, mode: int = 0o666) -> None:
        """`mode`: as for open(2), the umask is taken from it."""
        self._path = path
        self._mode = mode
        name = f".{os.path.basename(path)}.{os.urandom(8).hex()}"
        self._temporary = os.path.join(os.path.dirname(path) or ".", name)
        self._descriptor = -1
        self._named = False

    def __enter__(self) -> int:
        self._descriptor = self._without_name()
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, self._mode)
            self._named = True
        return self._descriptor

    def _without_name(self) -> int:
        """-1 where that can't be, or could not get a name later."""
        try:
            flags = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
            descriptor = os.open(os.path.dirname(self._temporary), flags, self._mode)
        except OSError:
            return -1  # the other way tells what is wrong, if anything is
        if os.path.exists(_place(descriptor)):
            return descriptor
        os.close(descriptor)
        return -1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        done = False
        try:
            if kind is None and not self._named:
                # With a directory it is linkat(2), which follows the link in /proc.
                os.link(_place(self._descriptor), self._temporary, src_dir_fd=self._descriptor)
                self._named = True
            # It is closed also when that reports an error.
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            if kind is None:
                os.replace(self._temporary, self._path)
                done = True
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            if self._named and not done:
                os.unlink(self._temporary)


def _place(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
