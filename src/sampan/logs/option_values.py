"""Values of log options as Docker reads them, with the words of Go's library for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sampan.errors import Invalid

COMMON = frozenset(("env", "env-regex", "labels", "labels-regex", "tag"))
"""Options of every driver that are used before the driver sees an entry."""

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgtp]?)(i?b)?", re.IGNORECASE)
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^?#]*)")


def refuse_unknown(driver: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    """Raises `Invalid` for an option that is not of this driver."""
    known = COMMON.union(known)
    for name in options:
        if name not in known:
            raise Invalid(f"unknown log opt '{name}' for {driver} log driver")


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise Invalid(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_unsigned(text: str) -> int:
    """A number of 64 bits. Raises `Invalid`."""
    if not text.isascii() or not text.isdigit():
        raise Invalid(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 20 or int(text) >= 2**64:
        raise Invalid(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def parse_size(text: str) -> int:
    """Bytes, in units of 1024. Raises `Invalid`."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise Invalid(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_duration(text: str) -> float:
    """Seconds; not negative. Raises `Invalid`."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if not match:
            missing = re.fullmatch(r"[0-9.]+", text[position:]) is not None
            reason = "missing unit in duration" if missing else "invalid duration"
            raise Invalid(f'time: {reason} "{text}"')
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not text:
        raise Invalid('time: invalid duration ""')
    return total


def split_address(text: str) -> tuple[str, str] | None:
    """Scheme and the rest of `scheme://rest`; None when it has not this form."""
    match = _ADDRESS.match(text)
    return (match[1].lower(), match[2]) if match else None


def host_and_port(authority: str, address: str) -> tuple[str, int | None]:
    """Of `host`, `host:port`, `[::1]:port`. Raises `Invalid`, which shows the whole `address`."""
    if authority.startswith("["):
        host, bracket, after = authority[1:].partition("]")
        if not bracket:
            raise Invalid(f"parse \"{address}\": missing ']' in host")
    else:
        host, colon, after = authority.partition(":")
        after = colon + after
        if ":" in after[1:]:
            raise Invalid(f"address {authority}: too many colons in address")
    if after in ("", ":"):
        return host, None
    port = after[1:]
    if after[0] != ":" or not port.isascii() or not port.isdigit():
        raise Invalid(f'parse "{address}": invalid port "{after}" after host')
    if len(port) > 5 or int(port) > 65535:
        raise Invalid(f'parse "{address}": invalid port {port}', hint="a port is a number up to 65535")
    return host, int(port)
