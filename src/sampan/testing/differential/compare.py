"""Two outcomes of one step compared; every difference is a line that says where and what. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sampan.testing.differential.normalise import without_numbers


@dataclass(frozen=True)
class Outcome:
    """A command's exit code and what it wrote, normalised."""

    code: int
    out: str
    err: str


Ignored = Mapping[str, str]


def differences(kind: str, expected: Outcome, given: Outcome, ignore: Ignored) -> list[str]:
    """How `given` differs from `expected` in what `kind` (a key of case.KINDS) compares; empty when it does not."""
    found = []
    if expected.code != given.code:
        found.append(f"exit code: {expected.code} != {given.code} ({expected.err!r}, {given.err!r})")
    if kind == "json":
        return found + json_differences(_documents(expected.out), _documents(given.out), ignore)
    if kind in ("out", "all", "sorted", "shape"):
        found += _text("stdout", _view(kind, expected.out), _view(kind, given.out))
    if kind == "all":
        found += _text("stderr", expected.err, given.err)
    return found


def _view(kind: str, text: str) -> str:
    if kind == "sorted":
        return "\n".join(sorted(text.splitlines()))
    return without_numbers(text) if kind == "shape" else text


def _text(what: str, expected: str, given: str) -> list[str]:
    if expected == given:
        return []
    lines = difflib.unified_diff(expected.splitlines(), given.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    return [f"{what}: {line}" for line in changed] or [f"{what}: {expected!r} != {given!r}"]


def _documents(text: str) -> Any:
    """One JSON document, or a list of one from each line; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text


def json_differences(expected: Any, given: Any, ignore: Ignored) -> list[str]:
    """Missing keys, additional keys, other types (null, [] and {} are three) and other values, each with its path."""

    def ignored(path: str) -> bool:
        return any(fnmatchcase(path, each) for each in ignore)

    return list(_walk("", _without(expected, "", ignored), _without(given, "", ignored)))


def _without(value: Any, path: str, ignored: Callable[[str], bool]) -> Any:
    """`value` without the members whose paths are ignored."""
    if isinstance(value, dict):
        below = {key: f"{path}.{key}" if path else key for key in value}
        return {
            key: _without(item, below[key], ignored) for key, item in value.items() if not ignored(below[key])
        }
    if isinstance(value, list):
        return [_without(item, f"{path}[]", ignored) for item in value]
    return value


def _walk(path: str, expected: Any, given: Any) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(given, dict):
        for key in sorted(expected.keys() | given.keys()):
            below = f"{path}.{key}" if path else key
            if key not in given:
                yield f"{below}: missing, {_brief(expected[key])} expected"
            elif key not in expected:
                yield f"{below}: {_brief(given[key])} not expected"
            else:
                yield from _walk(below, expected[key], given[key])
    elif isinstance(expected, list) and isinstance(given, list):
        if len(expected) == len(given):
            for index, (theirs, ours) in enumerate(zip(expected, given, strict=True)):
                yield from _walk(f"{path}[{index}]", theirs, ours)
        else:
            yield from _text(path, *("\n".join(map(_brief, each)) for each in (expected, given)))
    elif type(expected) is not type(given) or expected != given:
        yield f"{path}: {_brief(expected)} != {_brief(given)}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 400 else text[:400] + "…"
