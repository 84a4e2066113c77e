"""The command line's parser: flags are declared as data, parsed by Docker's rules and shown in its help layout.

`argparse` costs 15 ms to import and knows other rules. Here: `--flag=value`, `--flag value`, `-abc`, `-p8080:80`,
`--rm=false`, `--`, flags between the arguments or (for run and exec) only before the first one.
"""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Exit, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

# Kinds whose value is given several times and collected.
_LISTS = ("list", "strings", "map", "filter", "mount", "network", "ulimit")
_LABELS = {"bool": "", "memswap": "bytes", "int64": "int", "text": "string"}


class Flag:
    """One declaration: name, shorthand, kind, help, default; `check` turns the text into the value.

    `into`: the flag whose list its values go to, in the order of the command line.
    """

    __slots__ = ("check", "default", "help", "hidden", "into", "kind", "name", "short")

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = "string",
        help: str = "",
        default: Any = None,
        check: Callable[[Any], Any] | None = None,
        hidden: bool = False,
        into: str = "",
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help
        self.default = default
        self.check = check
        self.hidden = hidden
        self.into = into or name

    @property
    def display(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Command:
    """A command: what it takes, and the function that does it."""

    __slots__ = ("aliases", "flags", "interspersed", "maximum", "minimum", "notes", "run", "usage")

    def __init__(
        self,
        run: Callable[[Invocation], int],
        usage: str = "",
        flags: Sequence[Flag] = (),
        *,
        minimum: int = 0,
        maximum: int | None = None,
        interspersed: bool = True,
        aliases: Sequence[str] = (),
        notes: str = "",
    ) -> None:
        self.run = run
        self.usage = usage
        self.flags = flags
        self.minimum = minimum
        self.maximum = maximum
        self.interspersed = interspersed
        self.aliases = aliases
        self.notes = notes


class Values:
    """The values of a command's flags by name."""

    __slots__ = ("_changed", "_values")

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._changed: set[str] = set()
        self._values: dict[str, Any] = {}
        for flag in flags:
            self._values[flag.name] = [] if flag.kind in _LISTS else _zero(flag)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def changed(self, name: str) -> bool:
        return name in self._changed

    def set(self, flag: Flag, text: str) -> None:
        try:
            value = parse_value(flag, text)
        except ValueError as error:
            raise UsageError(
                f"invalid argument {go_quote(text)} for {go_quote(flag.display)} flag: {error}"
            ) from None
        self._changed.add(flag.name)
        if flag.kind == "strings":
            self._values[flag.into].extend(value)
        elif flag.kind in _LISTS:
            self._values[flag.into].append(value)
        else:
            self._values[flag.name] = value


class Invocation:
    """One run of a command: its name in full ("container run"), flags, arguments and the global options."""

    __slots__ = ("args", "flags", "name", "options")

    def __init__(self, name: str, flags: Values, args: list[str], options: Any) -> None:
        self.name = name
        self.flags = flags
        self.args = args
        self.options = options

    def client(self) -> Any:
        """The engine's client (a `sampan.client.api.Client`), made on first use."""
        return self.options.client()


def _zero(flag: Flag) -> Any:
    if flag.default is not None:
        return flag.default
    if flag.kind == "bool":
        return False
    return "" if flag.kind == "string" else 0


def parse_value(flag: Flag, text: str) -> Any:
    """The value of a flag's text by its kind. Raises `ValueError` with Go's or Docker's words."""
    kind = flag.kind
    value: Any = text
    if kind == "bool":
        value = parse_bool(text)
    elif kind in ("int", "int64", "uint16"):
        value = parse_int(text, kind)
    elif kind == "bytes":
        value = units.parse_size(text) if text else _raise(f"invalid size: '{text}'")
    elif kind == "memswap":
        value = -1 if text == "-1" else units.parse_size(text) if text else _raise("invalid size: ''")
    elif kind == "duration":
        value = units.parse_duration(text)
    elif kind == "decimal":
        value = parse_decimal(text)
    elif kind == "strings":
        value = split_csv(text)
    elif kind == "filter":
        value = parse_filter(text)
    return flag.check(value) if flag.check is not None else value


def _raise(message: str) -> int:
    raise ValueError(message)


def parse_bool(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"strconv.ParseBool: parsing {go_quote(text)}: invalid syntax")


def parse_int(text: str, kind: str = "int") -> int:
    function = "ParseUint" if kind == "uint16" else "ParseInt"
    bits = 16 if kind == "uint16" else 63
    try:
        value = int(text, 0) if not text.lstrip("+-").startswith("0") else int(text, 10)
    except ValueError:
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: invalid syntax") from None
    if kind == "uint16" and value < 0:
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: invalid syntax")
    if not -(1 << bits) <= value < (1 << bits):
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: value out of range")
    return value


def parse_decimal(text: str) -> int:
    """Billionths of a CPU: "1.5" -> 1500000000."""
    whole, _, fraction = text.partition(".")
    digits = (whole.lstrip("+-") + fraction).strip()
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"failed to parse {text} as a rational number")
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    value = int(whole.lstrip("+-") or "0") * 10**9 + int(fraction[:9].ljust(9, "0"))
    return -value if whole.startswith("-") else value


def parse_filter(text: str) -> tuple[str, str]:
    """Two empty texts, which `collect_filters` leaves out, for nothing at all."""
    if not text:
        return "", ""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def collect_filters(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The API's filters out of a `filter` flag's values."""
    filters: dict[str, list[str]] = {}
    for name, value in pairs:
        if name and value not in filters.setdefault(name, []):
            filters[name].append(value)
    return filters


def split_csv(text: str) -> list[str]:
    """One line of comma-separated values; a field may be quoted."""
    if '"' not in text:
        return text.split(",") if text else []
    import csv

    return next(csv.reader([text]), [])


def go_quote(text: str) -> str:
    """A string as Go's %q prints it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'


def parse(
    flags: Sequence[Flag], arguments: Sequence[str], *, interspersed: bool = True
) -> tuple[Values, list[str], bool]:
    """Parse arguments: the flags' values, the positional arguments, and whether help was asked for."""
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in flags if flag.short}
    values = Values(flags)
    positional: list[str] = []
    queue = list(arguments)
    position = 0
    while position < len(queue):
        text = queue[position]
        position += 1
        if text == "--":
            positional += queue[position:]
            break
        if text == "-" or not text.startswith("-"):
            positional.append(text)
            if not interspersed:
                positional += queue[position:]
                break
        elif text.startswith("--"):
            if text == "--help":
                return values, positional, True
            position = _long(text, queue, position, by_name, values)
        else:
            if text == "-h" and "h" not in by_short:
                return values, positional, True
            position = _short(text, queue, position, by_short, values)
    return values, positional, False


def _long(text: str, queue: list[str], position: int, by_name: dict[str, Flag], values: Values) -> int:
    name, equals, value = text[2:].partition("=")
    flag = by_name.get(name)
    if flag is None:
        if not name:
            raise UsageError(f"bad flag syntax: {text}")
        shown = [each.name for each in by_name.values() if not each.hidden]
        raise UsageError(f"unknown flag: --{name}{meant(name, shown, '--')}")
    if equals:
        values.set(flag, value)
    elif flag.kind == "bool":
        values.set(flag, "true")
    elif position < len(queue):
        values.set(flag, queue[position])
        position += 1
    else:
        raise UsageError(f"flag needs an argument: --{name}")
    return position


def meant(word: str, known: Iterable[str], prefix: str = "") -> str:
    """ " (did you mean ...?)" for a word much like one that is known, shown with a prefix."""
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.7)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _short(text: str, queue: list[str], position: int, by_short: dict[str, Flag], values: Values) -> int:
    letters = text[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = by_short.get(letter)
        if flag is None:
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{letter}{letters}")
        if letters.startswith("=") and len(letters) > 1:
            values.set(flag, letters[1:])
            return position
        if flag.kind == "bool":
            values.set(flag, "true")
        elif letters:
            values.set(flag, letters)
            return position
        elif position < len(queue):
            values.set(flag, queue[position])
            return position + 1
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in -{letter}")
    return position


def check_count(command: Command, full_name: str, summary: str, args: list[str]) -> None:
    """Raise `UsageError` (exit code 1) when the number of arguments is not the command's."""
    count, low, high = len(args), command.minimum, command.maximum
    if count >= low and (high is None or count <= high):
        return
    if low == 0 and high == 0:
        need = "accepts no arguments"
    elif low == high:
        need = f"requires exactly {_arguments(low)}"
    elif high is None:
        need = f"requires at least {_arguments(low)}"
    elif low == 0:
        need = f"requires at most {_arguments(high)}"
    else:
        need = f"requires at least {low} and at most {_arguments(high)}"
    usage = usage_line(command, full_name)
    message = f"\"sampan {full_name}\" {need}.\nSee 'sampan {full_name} --help'.\n\n{usage}\n\n{summary}"
    error = UsageError(message, 1)
    error.hint = "-"
    raise error


def _arguments(count: int) -> str:
    return f"{count} argument{'' if count == 1 else 's'}"


def usage_line(command: Command, full_name: str) -> str:
    options = "[OPTIONS] " if any(not flag.hidden for flag in command.flags) else ""
    lines = [f"sampan {full_name} {options}{usage}".rstrip() for usage in command.usage.split("\n")]
    return "Usage:  " + "\n\t".join(lines)


def show_help(command: Command, full_name: str, summary: str) -> None:
    """Print a command's help and end with 0."""
    parts = [usage_line(command, full_name), "", summary]
    if command.notes:
        parts += ["", command.notes]
    if command.aliases:
        parts += ["", "Aliases:", "  " + ", ".join(f"sampan {alias}" for alias in command.aliases)]
    shown = [flag for flag in command.flags if not flag.hidden]
    if shown:
        parts += ["", "Options:", flag_help(shown)]
    sys.stdout.write("\n".join(parts) + "\n")
    raise Exit(0)


def flag_help(flags: Sequence[Flag], width: int | None = None) -> str:
    """The flags as a two-column list wrapped at the terminal's width (80 when there is none)."""
    if width is None:
        width = _terminal_width()
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        label = _LABELS.get(flag.kind, flag.kind)
        left = (f"  -{flag.short}, " if flag.short else "      ") + f"--{flag.name} {label}".rstrip()
        rows.append((left, flag.help + _default_note(flag)))
    column = max(len(left) for left, _ in rows) + 3
    return "\n".join(left.ljust(column) + wrap(text, column, width) for left, text in rows)


def _default_note(flag: Flag) -> str:
    if flag.default is None or flag.default in (False, "", 0):
        return ""
    default = flag.default
    if default is True:
        default = "true"
    return f" (default {go_quote(default)})" if flag.kind == "string" else f" (default {default})"


def wrap(text: str, indent: int, width: int) -> str:
    """Wrap at words within `width`, later lines indented; up to five columns over to save a short last word."""
    slop = 5
    room = width - indent - slop
    if room < 19:
        return text.replace("\n", "\n" + " " * indent)
    lines = []
    for paragraph in text.split("\n"):
        rest = paragraph
        while len(rest) > room + slop:
            cut = rest.rfind(" ", 0, room)
            if cut <= 0:
                break
            lines.append(rest[:cut])
            rest = rest[cut + 1 :]
        lines.append(rest)
    return ("\n" + " " * indent).join(lines)


def _terminal_width() -> int:
    import os

    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
