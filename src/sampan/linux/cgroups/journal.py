"""Writes to the files of a group that can be taken back."""

from __future__ import annotations

from sampan.errors import SampanError
from sampan.linux.cgroups import files


class Journal:
    """Remembers what each file held before it was written, for files with one value."""

    def __init__(self) -> None:
        self._before: list[tuple[str, str]] = []

    def write(self, path: str, value: str) -> None:
        """As `files.write`."""
        before = files.read(path)
        files.write(path, value)
        if before is not None and before.count("\n") <= 1:
            self._before.append((path, before.strip()))

    def undo(self) -> None:
        """The last write first, so that each step goes back to what was valid before. All are tried, then the first
        failure is raised; a second call has nothing left to do."""
        failures: list[SampanError] = []
        while self._before:
            path, value = self._before.pop()
            try:
                # An empty value is a write of nothing for the kernel, unlike an empty line.
                files.write(path, value or "\n")
            except SampanError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def undo_after(self, error: SampanError) -> SampanError:
        """The error to raise for `error`, when all is taken back: with what could not be, if there is something."""
        try:
            self.undo()
        except SampanError as second:
            return type(error)(f"{error.message}; going back failed too: {second.message}", hint=error.hint)
        return error
