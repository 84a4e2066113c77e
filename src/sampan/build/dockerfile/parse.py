"""Text to instructions: which instruction, its flags and its arguments as written. Nothing is expanded.

Reference: https://docs.docker.com/reference/dockerfile/. How arguments are cut is checked against the dumps
of BuildKit's syntax tree.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import replace

from sampan.build.dockerfile.heredoc import Marker, markers_of
from sampan.build.dockerfile.lines import LineReader
from sampan.build.errors import DockerfileError
from sampan.build.model import Dockerfile, Heredoc, Instruction, Place

MAX_HEREDOC = 4 << 20
_BLANK = re.compile(r"[ \t\v\f\r]+")
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})

Cut = tuple[tuple[str, ...], bool]
"""Arguments, and whether they were written as JSON."""


def parse(raw: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Raises `DockerfileError` with the place of the first mistake."""
    reader = LineReader(raw, file)
    escape = reader.directives.escape
    instructions: list[Instruction] = []
    for text, segments in reader.logical_lines():
        draft = Instruction("", (), text, segments=segments, file=file, comments=tuple(reader.comments))
        instruction = _instruction(draft, 0, escape)
        instructions.append(_with_heredocs(instruction, reader) if "<<" in text else instruction)
    if not instructions:
        raise DockerfileError("file with no instructions", Place(file, 1, 1, ""), expected="FROM or ARG")
    directives, empty = reader.directives, tuple(reader.empty_continuations)
    return Dockerfile(tuple(instructions), escape, directives.syntax, directives.check, empty)


def parse_trigger(text: str, escape: str = "\\") -> Instruction:
    """One instruction that an image's ONBUILD kept. Raises `DockerfileError`."""
    parsed = parse(text.encode("utf-8", "replace"), "ONBUILD")
    if len(parsed.instructions) != 1 or parsed.escape != escape:
        return _instruction(Instruction("", (), text, file="ONBUILD"), 0, escape)
    return parsed.instructions[0]


def _instruction(draft: Instruction, offset: int, escape: str, depth: int = 0) -> Instruction:
    """The instruction that begins at `offset` of the draft's text."""
    pieces = _BLANK.split(draft.text[offset:].strip(), maxsplit=1)
    keyword = pieces[0].upper()
    cut = _CUTTERS.get(keyword)
    if cut is None:
        raise DockerfileError(
            f"unknown instruction: {pieces[0]}{_suggestion(keyword)}",
            draft.place_at(offset),
            expected="one of " + ", ".join(_CUTTERS),
        )
    rest = pieces[1].strip() if len(pieces) == 2 else ""
    start = offset + len(draft.text[offset:]) - len(rest) if rest else len(draft.text)
    flags, body = _flags(rest, escape, draft, start)
    instruction = replace(draft, keyword=keyword, flags=flags, text=draft.text)
    if keyword == "ONBUILD":
        if not body:
            return instruction
        body_start = len(draft.text) - len(body)
        if depth > 1:
            # `check` refuses the first trigger of a trigger; a long chain must not become a deep recursion.
            raise DockerfileError(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", draft.place_at(offset)
            )
        trigger = _instruction(draft, body_start, escape, depth + 1)
        return replace(instruction, args=(body,), trigger=trigger)
    args, is_json = cut(body, escape, instruction)
    return replace(instruction, args=args, is_json=is_json)


def _suggestion(keyword: str) -> str:
    close = difflib.get_close_matches(keyword, list(_CUTTERS), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _flags(rest: str, escape: str, draft: Instruction, start: int) -> tuple[tuple[str, ...], str]:
    """The leading words that begin with `--`; a bare `--` ends them. Quotes and escapes are removed."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(rest) and rest[position].isspace():
            position += 1
        if not rest.startswith("--", position):
            return tuple(flags), rest[position:]
        begin = position
        word, position, closed = _flag_word(rest, position, escape)
        if not closed:
            raise DockerfileError(
                "unterminated quote in a flag", draft.place_at(start + begin), expected="the closing quote"
            )
        if word == "--":
            return tuple(flags), rest[position:].lstrip()
        flags.append(word)


def _flag_word(rest: str, position: int, escape: str) -> tuple[str, int, bool]:
    word: list[str] = []
    quote = ""
    while position < len(rest):
        char = rest[position]
        if not quote and char.isspace():
            break
        if char == escape and position + 1 < len(rest):  # in single quotes too, as BuildKit has it
            position += 1
            word.append(rest[position])
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            word.append(char)
        position += 1
    return "".join(word), position, not quote


def _with_heredocs(instruction: Instruction, reader: LineReader) -> Instruction:
    """The here-documents that stand behind the line; those of an ONBUILD become part of what it defers."""
    inner = instruction.trigger or instruction
    if inner.keyword not in _WITH_HEREDOCS or inner.is_json:
        return instruction
    found = tuple(
        Heredoc(marker.name, _heredoc_content(instruction, reader, marker), marker.expand, marker.strip_tabs)
        for marker in markers_of(instruction.text)
    )
    if not found or instruction.trigger is None:
        return replace(instruction, heredocs=found)
    text = instruction.args[0] + "".join(f"\n{item.content}{item.name}" for item in found)
    return replace(instruction, args=(text,), trigger=replace(inner, heredocs=found))


def _heredoc_content(instruction: Instruction, reader: LineReader, marker: Marker) -> str:
    lines: list[str] = []
    size = 0
    while (line := reader.take()) is not None:
        bare = line.rstrip("\r")
        if (bare.lstrip("\t") if marker.strip_tabs else bare) == marker.name:
            return "".join(lines)
        size += len(line) + 1
        if size > MAX_HEREDOC:
            break
        lines.append(line + "\n")
    raise DockerfileError(
        "unterminated heredoc", instruction.place("<<"), expected=f"a line that consists of {marker.name!r}"
    )


def raw_words(text: str, escape: str) -> list[str]:
    """Cut at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if not quote and char.isspace():
            if word:
                words.append("".join(word))
                word = []
        elif char == escape and quote != "'":
            # An escape at the very end is dropped, as Docker does.
            if position + 1 < len(text):
                word.append(text[position : position + 2])
            position += 1
        else:
            if quote and char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            word.append(char)
        position += 1
    if word:
        words.append("".join(word))
    return words


def _cut_string(body: str, escape: str, instruction: Instruction) -> Cut:
    return ((body,) if body else ()), False


def _cut_words(body: str, escape: str, instruction: Instruction) -> Cut:
    return _split(body), False


def _split(body: str) -> tuple[str, ...]:
    """At ASCII blanks only: any other belongs to its word."""
    return tuple(word for word in _BLANK.split(body) if word)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _cut_json(body: str, instruction: Instruction) -> tuple[str, ...] | None:
    """A JSON array of strings, or None when the text is no JSON array at all."""
    if not body.startswith("["):
        return None
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    for item in value:
        if not isinstance(item, str):
            raise DockerfileError(
                "when using JSON array syntax, arrays must be comprised of strings only",
                instruction.place(body),
                expected='["word", "word", ...]',
            )
    # Half of a surrogate pair can't be written in UTF-8; Go reads U+FFFD for it.
    return tuple(item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in value)


def _cut_maybe_json(body: str, escape: str, instruction: Instruction) -> Cut:
    items = _cut_json(body, instruction)
    if items is not None:
        return items, True
    return ((body,) if body else ()), False


def _cut_maybe_json_list(body: str, escape: str, instruction: Instruction) -> Cut:
    items = _cut_json(body, instruction)
    return (_split(body), False) if items is None else (items, True)


def _cut_name_values(body: str, escape: str, instruction: Instruction) -> Cut:
    """`name=value ...`, or the old form `name the whole rest`."""
    words = raw_words(body, escape)
    if not words:
        return (), False
    if "=" not in words[0]:
        parts = _BLANK.split(body, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(
                f"{instruction.keyword} must have two arguments",
                instruction.place(body),
                expected=f"{instruction.keyword} name=value",
            )
        return (parts[0], parts[1], ""), False
    flat: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value",
                instruction.place(word),
                expected="name=value",
            )
        flat += [name, value, "="]
    return tuple(flat), False


def _cut_arg(body: str, escape: str, instruction: Instruction) -> Cut:
    return tuple(raw_words(body, escape)), False


def _cut_healthcheck(body: str, escape: str, instruction: Instruction) -> Cut:
    pieces = _BLANK.split(body, maxsplit=1)
    if not body:
        return (), False
    kind = pieces[0].upper()
    if len(pieces) == 1:
        return (kind,), False
    if kind != "CMD":
        return (kind, pieces[1]), False
    args, is_json = _cut_maybe_json(pieces[1], escape, instruction)
    return (kind, *args), is_json


def _cut_onbuild(body: str, escape: str, instruction: Instruction) -> Cut:
    return (body,), False


_CUTTERS: dict[str, Callable[[str, str, Instruction], Cut]] = {
    "ADD": _cut_maybe_json_list,
    "ARG": _cut_arg,
    "CMD": _cut_maybe_json,
    "COPY": _cut_maybe_json_list,
    "ENTRYPOINT": _cut_maybe_json,
    "ENV": _cut_name_values,
    "EXPOSE": _cut_words,
    "FROM": _cut_words,
    "HEALTHCHECK": _cut_healthcheck,
    "LABEL": _cut_name_values,
    "MAINTAINER": _cut_string,
    "ONBUILD": _cut_onbuild,
    "RUN": _cut_maybe_json,
    "SHELL": _cut_maybe_json,
    "STOPSIGNAL": _cut_string,
    "USER": _cut_string,
    "VOLUME": _cut_maybe_json_list,
    "WORKDIR": _cut_string,
}
