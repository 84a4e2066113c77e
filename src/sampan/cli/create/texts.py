"""Environment and label files, and lists of name=value."""

from __future__ import annotations

import os

_SPACE = " \t\r\n\v\f"


def environment(text: str) -> str:
    """NAME=value, or NAME alone: the value it has here, and without one NAME (the engine then unsets it)."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if not equals and name in os.environ:
        return f"{name}={os.environ[name]}"
    return text


def read_environment(files: list[str], values: list[str]) -> list[str]:
    """NAME=value lines of files, then those of flags; a bare NAME in a file takes its value from here, if any."""
    return [line for path in files for line in _read_file(path, take_here=True)] + values


def read_labels(files: list[str], values: list[str]) -> dict[str, str]:
    lines = [line for path in files for line in _read_file(path, take_here=False)]
    return to_map(lines + values)


def to_map(pairs: list[str]) -> dict[str, str]:
    """name=value pairs as a map; without "=" the value is empty."""
    result = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        result[name] = value
    return result


def _read_file(path: str, *, take_here: bool) -> list[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"env file {path} contains invalid utf8 bytes: {error.reason}") from None
    lines = []
    for raw in text.replace("\r\n", "\n").split("\n"):
        line = raw.lstrip(_SPACE)
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        name = name.lstrip(_SPACE)
        if not name:
            raise ValueError(f"no variable name on line '{line}'")
        if any(letter in _SPACE for letter in name):
            raise ValueError(f"variable '{name}' contains whitespaces")
        if equals:
            lines.append(line)
        elif take_here and name in os.environ:
            lines.append(f"{name}={os.environ[name]}")
        elif not take_here:
            lines.append(line.strip())
    return lines
