"""Where an error belongs: the instruction that was at work when it came, and the lines around it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import msgspec

from sampan.build.dockerfile.lines import shown_lines
from sampan.build.errors import BuildCancelled, DockerfileError, RunFailed
from sampan.build.events import Failure
from sampan.build.model import Instruction, Place, StateBefore
from sampan.errors import SampanError
from sampan.oci.digest import Digest

AROUND = 3
"""Lines shown before and after those of the instruction."""
_MAX_LINES = 60
_MAX_LINE = 400


class Failures:
    """Of one build; stages note at the same time. `source`: the Dockerfile."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._noted: list[tuple[BaseException, Instruction, Digest]] = []
        self._before: list[tuple[BaseException, StateBefore]] = []

    @contextlib.contextmanager
    def noted(self, instruction: Instruction, vertex: Digest) -> Iterator[None]:
        """An error of the body belongs to the instruction, unless it came out of another one."""
        try:
            yield
        except Exception as error:
            with self._lock:
                if all(known is not error for known, _, _ in self._noted):
                    self._noted.append((error, instruction, vertex))
            raise

    @contextlib.contextmanager
    def standing(self, before: Callable[[], StateBefore]) -> Iterator[None]:
        """An error of the body came while a step was done to this state."""
        try:
            yield
        except BuildCancelled:
            raise
        except SampanError as error:
            with self._lock:
                self._before.append((error, before()))
            raise

    def find(self, error: BaseException) -> Failure | None:
        """None for an error that belongs to no line."""
        lines = shown_lines(self._source)
        own = error.place if isinstance(error, DockerfileError | RunFailed) else None
        if own is not None and not _is_at(own, lines):
            own = None  # an ONBUILD trigger's, which stands in no file
        output = error.last_output if isinstance(error, RunFailed) else ""
        with self._lock:
            found = next((one for one in self._noted if one[0] is error), None)
            before = next((state for known, state in self._before if known is error), None)
        if found is None:
            return None if own is None else _failure(Digest(""), own, own.line, lines, output)
        _, instruction, vertex = found
        last = max((segment.line for segment in instruction.segments), default=0)
        place = own or instruction.place()
        failure = _failure(vertex, place, max(last, place.line), lines, output)
        return msgspec.structs.replace(failure, before=before)


def _is_at(place: Place, lines: list[str]) -> bool:
    return 0 < place.line <= len(lines) and lines[place.line - 1].strip() == place.text.strip()


def _failure(vertex: Digest, place: Place, last: int, lines: list[str], output: str) -> Failure:
    first = max(place.line - AROUND, 1)
    shown = lines[first - 1 : min(last + AROUND, first + _MAX_LINES)]
    excerpt = tuple((first + offset, line[:_MAX_LINE]) for offset, line in enumerate(shown))
    return Failure(
        vertex, place.file, place.line, last, place.column, place.text[:_MAX_LINE], excerpt, output
    )
