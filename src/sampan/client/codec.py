"""JSON for the command line: CPython's C scanner and encoder without the `json` package.

`import json` pulls in `re` and costs several milliseconds, more than everything else a short command
does. The C accelerators behind it need neither; where they are missing, `json` itself is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WHITESPACE = " \t\n\r"


class _ScannerSettings:
    """What the C scanner reads from a decoder object."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int

    def parse_constant(self, name: str) -> float:
        raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


def _make_scanner() -> Callable[[str, int], tuple[Any, int]]:
    try:
        from _json import make_scanner
    except ImportError:
        from json import JSONDecoder

        return JSONDecoder(strict=False).raw_decode
    scanner: Callable[[str, int], tuple[Any, int]] = make_scanner(_ScannerSettings())  # type: ignore[arg-type]
    return scanner


def _make_encoder() -> Callable[[Any], str]:
    try:
        from _json import encode_basestring, make_encoder
    except ImportError:
        from json import JSONEncoder

        return JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_scan = _make_scanner()
_encode = _make_encoder()


def loads(text: str | bytes) -> Any:
    """The value of one JSON document. Raises `ValueError`."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    value, end = scan(text, 0)
    if text[end:].strip(_WHITESPACE):
        raise ValueError("invalid character after top-level value")
    return value


def scan(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start` (white space before it is skipped) and where it ends."""
    length = len(text)
    while start < length and text[start] in _WHITESPACE:
        start += 1
    try:
        return _scan(text, start)
    except StopIteration:
        if start >= length:
            raise ValueError("unexpected end of JSON input") from None
        raise ValueError(f"invalid character '{text[start]}' looking for beginning of value") from None
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def dumps(value: Any) -> str:
    """Compact JSON in the order of the keys, non-ASCII characters as they are."""
    return _encode(value)


def pretty(value: Any, indent: str = "    ", prefix: str = "") -> str:
    """Indented JSON as Go's `json.Indent` lays it out: empty containers stay on one line."""
    inner = prefix + indent
    if isinstance(value, dict) and value:
        items = [f"{inner}{_encode(str(key))}: {pretty(item, indent, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + prefix + "}"
    if isinstance(value, list) and value:
        rows = [inner + pretty(item, indent, inner) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + prefix + "]"
    return _encode(value)


class StreamDecoder:
    """JSON documents one after the other out of pieces of a byte stream."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[Any]:
        """The documents completed by `data`. The engine ends each with a line break, none holds one."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [value for line in lines for value in _documents(line)]

    def finish(self) -> list[Any]:
        """What is left when the stream has ended."""
        rest, self._pending = self._pending, b""
        return _documents(rest)


def _documents(line: bytes) -> list[Any]:
    text = line.decode("utf-8", "replace").strip(_WHITESPACE)
    values = []
    position = 0
    while position < len(text):
        value, position = scan(text, position)
        values.append(value)
        while position < len(text) and text[position] in _WHITESPACE:
            position += 1
    return values
