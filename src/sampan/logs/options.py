"""Log options as Docker has them, checked before a container is made. Pure but for what drivers look up (files of TLS).

Raises `Invalid` in Docker's words. What Docker notices only at the start of a container is refused at its making.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sampan.errors import Invalid
from sampan.logs import destination, tag
from sampan.logs.option_values import COMMON, parse_bool, parse_size

FILE_DRIVERS: Final = ("json-file", "local")
DRIVERS: Final = tuple(sorted((*FILE_DRIVERS, *destination.DRIVERS)))
"""Drivers but `none`, as `info` lists them."""

DEFAULT_BUFFER: Final = 1024 * 1024
_DELIVERY = frozenset(("mode", "max-buffer-size"))
_CACHE = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
_FILE_OPTIONS = frozenset(("max-size", "max-file", "compress"))
_DECIMAL_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgtp]?)b?", re.IGNORECASE)
_MOST_FILES = 10_000


class FileOptions(msgspec.Struct, frozen=True):
    """Of a log on disk. `max_size` in bytes, None: no limit."""

    max_size: int | None
    max_file: int
    compress: bool = False


_JSON_FILE = FileOptions(10 * 1000**2, 3)
_LOCAL = FileOptions(20 * 1024**2, 5, compress=True)


class Delivery(msgspec.Struct, frozen=True):
    """`buffer`: bytes that may wait to be delivered; then the container waits, or with `drops` output is lost."""

    drops: bool = False
    buffer: int = DEFAULT_BUFFER


def check_log_options(driver: str, options: Mapping[str, str]) -> None:
    """Raises `Invalid`."""
    if driver == "none":
        return
    delivery_options(options)
    if driver in FILE_DRIVERS:
        known = COMMON | _FILE_OPTIONS
        for name in own_options(options):
            if name not in known:
                raise _unknown(driver, name)
        file_options(driver, options)
    else:
        destination.check_destination_options(driver, own_options(options))
    cache_options(options)
    tag.check(options.get("tag", ""))
    for name in ("labels-regex", "env-regex"):
        pattern(options.get(name, ""))


def _unknown(driver: str, name: str) -> Invalid:
    if driver == "local":
        return Invalid(f"unknown log opt '{name}' for log driver local")
    return Invalid(f"unknown log opt '{name}' for {driver} log driver")


def own_options(options: Mapping[str, str]) -> dict[str, str]:
    """Those that are the driver's business."""
    return {name: value for name, value in options.items() if name not in _DELIVERY | _CACHE}


def delivery_options(options: Mapping[str, str]) -> Delivery:
    """`mode` and `max-buffer-size`."""
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise Invalid(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" not in options:
        return Delivery(mode == "non-blocking")
    if mode != "non-blocking":
        raise Invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    try:
        return Delivery(True, parse_size(options["max-buffer-size"]))
    except Invalid as error:
        raise Invalid(f"error parsing option max-buffer-size: {error.message}") from error


def file_options(driver: str, options: Mapping[str, str]) -> FileOptions:
    """Of `json-file` (sizes in decimal units, as Docker reads them there) or `local` (binary units)."""
    given = {name: options[name] for name in _FILE_OPTIONS if name in options}
    if driver == "local":
        chosen = _file(_LOCAL, given, parse_size, "invalid value for max-size: {}: ")
        if chosen.compress and chosen.max_file == 1:
            if "compress" in given:
                raise Invalid("compression cannot be enabled when max file count is 1")
            chosen = msgspec.structs.replace(chosen, compress=False)
        return chosen
    chosen = _file(_JSON_FILE, given, _decimal_size, "")
    if chosen.compress and (chosen.max_file < 2 or chosen.max_size is None):
        raise Invalid("compress cannot be true when max-file is less than 2 or max-size is not set")
    return chosen


def cache_options(options: Mapping[str, str]) -> FileOptions | None:
    """Of the local copy of what a driver sends away, from which `logs` reads; None: no copy is kept."""
    disabled = options.get("cache-disabled", "")
    try:
        if disabled and parse_bool(disabled):
            return None
    except Invalid as error:
        raise Invalid(f"invalid value for option cache-disabled: {disabled}") from error
    prefix = "cache-"
    given = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    given.pop("disabled", None)
    try:
        return file_options("local", given)
    except Invalid as error:
        raise Invalid(f"error parsing the options of the log cache: {error.message}") from error


def _file(
    default: FileOptions, given: Mapping[str, str], size: Callable[[str], int], before_size: str
) -> FileOptions:
    """`size` reads `max-size`; `before_size`, with the value, begins the message when it can't."""
    chosen = default
    if "max-size" in given:
        text = given["max-size"]
        try:
            limit = None if text.strip() == "-1" else size(text)
        except Invalid as error:
            raise Invalid(
                before_size.format(text) + error.message, hint="for example 10m, or -1 for no limit"
            ) from error
        if limit == 0:
            raise Invalid("max-size must be a positive number")
        chosen = msgspec.structs.replace(chosen, max_size=limit)
    if "max-file" in given:
        chosen = msgspec.structs.replace(chosen, max_file=_count(given["max-file"]))
    if "compress" in given:
        try:
            chosen = msgspec.structs.replace(chosen, compress=parse_bool(given["compress"]))
        except Invalid as error:
            words = "error reading compress log option: " if default is _LOCAL else ""
            raise Invalid(words + error.message) from error
    return chosen


def _count(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise Invalid(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if int(text) < 1:
        raise Invalid("max-file cannot be less than 1")
    if int(text) > _MOST_FILES:
        raise Invalid(f"max-file cannot be more than {_MOST_FILES}: {text}")
    return int(text)


def _decimal_size(text: str) -> int:
    match = _DECIMAL_SIZE.fullmatch(text)
    if not match:
        raise Invalid(f"invalid size: '{text}'")
    return int(float(match[1]) * 1000 ** " kmgtp".index(match[2].lower() or " "))


def pattern(text: str) -> re.Pattern[str] | None:
    """Of `labels-regex` and `env-regex`; None without one."""
    if not text:
        return None
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise Invalid(f"error parsing regexp: {error}: `{text}`") from error
