"""A Dockerfile's text as logical lines: directives, comments and continuations dealt with.

Docker's rules: a comment line vanishes, also in the middle of a continuation; an empty line does not end a
continuation; a line ends in a continuation when its last character (blanks aside) is a single escape
character, so that `trailing\\\\` is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.build.errors import DockerfileError
from sampan.build.model import MAX_DOCKERFILE, Place, Segment

MAX_LINES = 100_000
MAX_LINE = 1 << 20
"""Characters of a logical line."""

_DIRECTIVE = re.compile(r"(?:#|//)\s*+([A-Za-z][A-Za-z0-9]*)[ \t\f\r]*=[ \t\f\r]*(.+)")
"""Of a line without blanks around it: looking for the value's end would go back at each of its blanks."""
_BOM = b"\xef\xbb\xbf"
_UNREADABLE = re.compile("[\0\udc80-\udcff]")
_ONLY_TOLD = frozenset({"MAINTAINER", "LABEL"})
"""Instructions whose text is for people: old ones are in old encodings."""
_ESCAPED = 0xDC00
"""What `surrogateescape` adds to a byte."""
_KNOWN_DIRECTIVES = ("escape", "syntax", "check")


@dataclass(frozen=True, slots=True)
class Directives:
    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    lines: int = 0
    """How many lines they take."""


class LineReader:
    """Reads logical lines; after one of them, `take` gives the raw lines of a here-document."""

    def __init__(self, raw: bytes, file: str) -> None:
        self.file = file
        self._raw = _decoded_lines(raw, file)
        self.lines = [line.removesuffix("\r") for line in self._raw]
        self.next = 0
        self.comments: list[str] = []
        """The comments before the logical line that was read last."""
        self.empty_continuations: list[int] = []
        self.directives = self._read_directives()
        escape = re.escape(self.directives.escape)
        self._continued = re.compile(rf"(?:(?<!{escape}))({escape})[ \t]*$")

    def place(self, number: int, column: int = 1) -> Place:
        """`number` counts from 0."""
        text = self.lines[number] if number < len(self.lines) else ""
        return Place(self.file, number + 1, column, _shown(text))

    def logical_lines(self) -> Iterator[tuple[str, tuple[Segment, ...]]]:
        """While one is being looked at, `comments` has what was written above it."""
        while self.next < len(self.lines):
            line = self.lines[self.next].lstrip()
            if not line.strip() or line.startswith("#"):
                self._note_comment(line)
                self.next += 1
                continue
            text, segments = self._join()
            if text.strip():
                yield text.rstrip(), segments
            self.comments = []

    def _note_comment(self, line: str) -> None:
        """BuildKit's: an empty comment forgets those above it, a blank line does not."""
        if line.startswith("#") and self.next >= self.directives.lines:
            # Of an indented comment BuildKit takes one character off too, so that its `#` stays.
            comment = _shown(self.lines[self.next][1:].strip())
            if comment:
                self.comments.append(comment)
            else:
                self.comments = []

    def take(self) -> str | None:
        """The next physical line as it stands (a carriage return included), for here-documents; None at the end."""
        if self.next >= len(self.lines):
            return None
        self._check_text(self.next)
        self.next += 1
        return self._raw[self.next - 1]

    def _check_text(self, number: int) -> None:
        """Of everything but comments and what is for people, which may be in an old encoding."""
        found = _UNREADABLE.search(self.lines[number])
        if found:
            byte = ord(found[0]) - _ESCAPED if found[0] != "\0" else 0
            raise DockerfileError(
                f"byte 0x{byte:02x} is not UTF-8" if byte else "the line contains a NUL character",
                self.place(number, found.start() + 1),
                expected="UTF-8 text",
            )

    def _join(self) -> tuple[str, tuple[Segment, ...]]:
        parts: list[str] = []
        segments: list[Segment] = []
        length = 0
        empty = told = False
        while self.next < len(self.lines):
            physical = self.lines[self.next]
            self.next += 1
            stripped = physical.lstrip()
            if parts and (not stripped or stripped.startswith("#")):
                # What follows the file's last newline is no line.
                empty |= not stripped and (self.next < len(self.lines) or bool(physical))
                continue
            if not parts:
                told = stripped.split(maxsplit=1)[0].upper() in _ONLY_TOLD
            if not told or "\0" in physical:
                self._check_text(self.next - 1)
            physical, stripped = _shown(physical), _shown(stripped)
            piece, column = (physical, 1) if parts else (stripped, len(physical) - len(stripped) + 1)
            match = self._continued.search(piece)
            piece = piece[: match.start(1)] if match else piece
            segments.append(Segment(length, self.next, column, physical))
            parts.append(piece)
            length += len(piece)
            if length > MAX_LINE:
                raise DockerfileError(
                    f"dockerfile line greater than maximum allowed size of {MAX_LINE}",
                    self.place(self.next - 1),
                )
            if not match:
                break
        if empty:
            self.empty_continuations.append(min(self.next, len(self.lines) - (not self.lines[-1])))
        return "".join(parts), tuple(segments)

    def _read_directives(self) -> Directives:
        """Comments of the form `# name=value` at the very top; anything else ends them.

        Behind a `#!` line only `syntax` and `check` count: for `escape` that line is a comment like any other.
        """
        found: dict[str, str] = {}
        has_shebang = self.lines[0].startswith("#!")
        self._refuse_other_front_end(1 if has_shebang else 0)
        for number, line in enumerate(self.lines):
            if number == 0 and has_shebang:
                continue
            match = _DIRECTIVE.fullmatch(line.strip()) if line.lstrip().startswith("#") else None
            if not match or match[1].lower() not in _KNOWN_DIRECTIVES:
                break
            self._check_text(number)
            name, value = match[1].lower(), match[2]
            if name in found:
                raise DockerfileError(
                    f"only one {name} parser directive can be used",
                    self.place(number),
                    expected="one of them",
                )
            if name == "escape" and has_shebang:
                continue
            if name == "escape" and value not in ("\\", "`"):
                column = line.find(value, line.find("=")) + 1
                raise DockerfileError(
                    f"invalid ESCAPE '{value}'. Must be ` or \\",
                    self.place(number, column),
                    expected="` or \\",
                )
            found[name] = value
        check = found.get("check", "").partition(" ")[0]
        return Directives(found.get("escape", "\\"), found.get("syntax", ""), check, len(found))

    def _refuse_other_front_end(self, number: int) -> None:
        """`//syntax=...` and `{"syntax": ...}` begin files in other languages, which name what understands them."""
        line = self.lines[number].strip() if number < len(self.lines) else ""
        if line.startswith("//"):
            match = _DIRECTIVE.fullmatch(line)
            found = match is not None and match[1].lower() == "syntax"
        else:
            found = line.startswith("{") and _has_syntax("\n".join(self.lines[number:]))
        if found:
            raise DockerfileError(
                "the file asks for a front end of its own (syntax): it is no Dockerfile",
                self.place(number),
                expected="a Dockerfile, whose comments begin with #",
                hint="sampan understands Dockerfiles without a front end and loads no other",
            )


def _has_syntax(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("syntax"), str)


def shown_lines(raw: bytes) -> list[str]:
    """The lines of a Dockerfile for people to read; their numbers are those of places."""
    text = raw.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    return [_shown(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]


def _shown(text: str) -> str:
    return _UNREADABLE.sub("\ufffd", text)


def _decoded_lines(raw: bytes, file: str) -> list[str]:
    """What is not UTF-8 becomes a lone surrogate (PEP 383); carriage returns stay."""
    start = Place(file, 1, 1, "")
    if len(raw) > MAX_DOCKERFILE:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_DOCKERFILE} bytes", start)
    lines = raw.removeprefix(_BOM).decode("utf-8", "surrogateescape").split("\n")
    if len(lines) > MAX_LINES:
        raise DockerfileError(f"the Dockerfile has more than {MAX_LINES} lines", start)
    return lines
