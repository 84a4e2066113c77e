"""The functions templates may call, and how values are printed: Go's own and Docker's."""

from __future__ import annotations

from sampan.client.codec import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Nothing:
    """Go's invalid value: what a missing key of a map gives."""

    def __bool__(self) -> bool:
        return False


NOTHING = Nothing()


class Record:
    """A row of a listing: fields computed on demand, by the names that templates use."""

    __slots__ = ("fields", "kind", "methods")

    def __init__(
        self,
        kind: str,
        fields: dict[str, Callable[[], Any]],
        methods: dict[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.kind = kind
        self.fields = fields
        # Fields that take arguments: {{.Label "name"}}.
        self.methods = methods or {}

    def has(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str) -> Any:
        return self.fields[name]()

    def values(self) -> dict[str, Any]:
        """All fields, in the order in which Go's encoder writes a map."""
        return {name: self.fields[name]() for name in sorted(self.fields)}


def show(value: Any) -> str:
    """A value as Go's `fmt.Print` writes it."""
    if isinstance(value, str):
        return value
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "<nil>"
    if isinstance(value, Nothing):
        return "<no value>"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, list):
        return "[" + " ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, Record):
        return show(value.values())
    return str(value)


def truth(value: Any) -> bool:
    """Go's rule: false, 0, nil and what is empty are false."""
    return bool(value)


def to_json(value: Any) -> str:
    if isinstance(value, Record):
        value = value.values()
    return dumps(None if isinstance(value, Nothing) else value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or isinstance(value, Nothing):
            raise ValueError("index of untyped nil")
        if isinstance(value, dict):
            value = value[key] if key in value else _missing(value)
        elif isinstance(value, (list, str)):
            if not isinstance(key, int):
                raise ValueError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key] if isinstance(value, list) else value.encode()[key]
        else:
            raise ValueError(f"can't index item of type {type_name(value)}")
    return value


def _missing(mapping: dict[str, Any]) -> Any:
    """The zero value of the map's element type, told from what is in it."""
    sample = next(iter(mapping.values()), "")
    return "" if isinstance(sample, str) else None


def type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, dict):
        return "map[string]interface {}"
    if isinstance(value, list):
        return "[]interface {}"
    return {str: "string", int: "int", float: "float64"}.get(type(value), "interface {}")


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, (str, list)):
        raise ValueError(f"can't slice item of type {type_name(value)}")
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise ValueError(f"index out of range: {high if high > len(value) else low}")
    return value[low:high]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    if value is None or isinstance(value, Nothing):
        raise ValueError("len of nil pointer")
    raise ValueError(f"len of type {type_name(value)}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    if _family(left) != _family(right):
        raise ValueError("incompatible types for comparison")
    return bool(left == right)


def _family(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type_name(value)


def _less(left: Any, right: Any) -> bool:
    if _family(left) != _family(right):
        raise ValueError("incompatible types for comparison")
    if not isinstance(left, (int, float, str)) or isinstance(left, bool):
        raise ValueError("invalid type for comparison")
    return bool(left < right)


def _join(items: Any, separator: str) -> str:
    if items is None:
        return ""
    if not isinstance(items, list):
        raise ValueError(f"wrong type for value; expected []string; got {type_name(items)}")
    return separator.join(show(item) for item in items)


def _title(text: str) -> str:
    result = []
    previous = " "
    for letter in text:
        result.append(letter.upper() if not (previous.isalnum() or previous in "_'") else letter)
        previous = letter
    return "".join(result)


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of strings refuse anything else in Go's words."""

    def wrapper(first: Any, *rest: Any) -> Any:
        if not isinstance(first, str):
            raise ValueError(f"wrong type for value; expected string; got {type_name(first)}")
        return function(first, *rest)

    return wrapper


def format_text(layout: str, *values: Any) -> str:
    """Go's `printf` for the verbs people use: %s %v %q %d %x %f %t %% with flags, width and precision."""
    result: list[str] = []
    rest = list(values)
    position = 0
    while position < len(layout):
        letter = layout[position]
        position += 1
        if letter != "%":
            result.append(letter)
            continue
        start = position
        while position < len(layout) and layout[position] in "+-# 0123456789.":
            position += 1
        flags, verb = layout[start:position], layout[position : position + 1]
        position += 1
        if verb == "%":
            result.append("%")
        elif not verb:
            result.append("%!(NOVERB)")
        elif not rest:
            result.append(f"%!{verb}(MISSING)")
        else:
            result.append(_verb(verb, flags, rest.pop(0)))
    if rest:
        result.append("%!(EXTRA " + ", ".join(f"{type_name(value)}={show(value)}" for value in rest) + ")")
    return "".join(result)


def _verb(verb: str, flags: str, value: Any) -> str:
    if verb in "sv":
        return f"%{flags.replace('+', '').replace('#', '')}s" % show(value)
    if verb == "q":
        return f"%{flags}s" % dumps(show(value))
    if verb == "t" and isinstance(value, bool):
        return show(value)
    if verb in "dxXoc" and isinstance(value, int) and not isinstance(value, bool):
        return f"%{flags}{verb}" % value
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    if verb in "feEgG" and isinstance(value, (int, float)):
        return f"%{flags}{verb}" % float(value)
    return f"%!{verb}({type_name(value)}={show(value)})"


def _print(*values: Any) -> str:
    parts: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            parts.append(" ")
        parts.append(show(value))
    return "".join(parts)


def _println(*values: Any) -> str:
    return " ".join(show(value) for value in values) + "\n"


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


def _html(*values: Any) -> str:
    from html import escape

    return escape(_print(*values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


# `and` and `or` stand here for their names only: the executor stops at the first operand that decides.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: values[-1],
    "eq": _equal,
    "ge": lambda left, right: not _less(left, right),
    "gt": lambda left, right: _less(right, left),
    "html": _html,
    "index": _index,
    "join": _join,
    "json": to_json,
    "le": lambda left, right: not _less(right, left),
    "len": _length,
    "lower": _text(str.lower),
    "lt": _less,
    "ne": lambda left, right: not _same(left, right),
    "not": lambda value: not truth(value),
    "or": lambda *values: values[-1],
    "pad": _text(_pad),
    "print": _print,
    "printf": _text(format_text),
    "println": _println,
    "slice": _slice,
    "split": _text(lambda text, separator: text.split(separator) if separator else list(text)),
    "title": _text(_title),
    "truncate": _text(lambda text, length: text[:length]),
    "upper": _text(str.upper),
    "urlquery": _urlquery,
}
