"""From a `LogTarget` to its writer, and the check of a log driver's options."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.errors import Invalid
from sampan.logs.json_file import DEFAULT_MAX_FILE, DEFAULT_MAX_SIZE, JsonFileSink
from sampan.runtime.logsink import LogSink
from sampan.runtime.messages import LogTarget

_LOCAL_MAX_SIZE = 20 * 1000 * 1000
_LOCAL_MAX_FILE = 5
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_JSON_FILE_OPTIONS = frozenset(
    (
        "max-file",
        "max-size",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    )
)
_LOCAL_OPTIONS = frozenset(("max-file", "max-size", "compress", "mode", "max-buffer-size"))

DRIVERS = ("json-file", "local", "none")
READABLE = frozenset(("json-file", "local"))
"""Drivers whose output `sampan logs` can show."""


class NullSink:
    """Of the driver `none`."""

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing was opened."""


def make_sink(target: LogTarget) -> LogSink:
    """The writer of a container's output. Raises `Invalid` for an unknown driver or option."""
    max_size, max_file = check_options(target.driver, target.options)
    if target.driver == "none":
        return NullSink()
    return JsonFileSink(target.path, max_size, max_file)


def check_options(driver: str, options: Mapping[str, str]) -> tuple[int | None, int]:
    """The greatest size of a file in bytes (None: no limit) and the number of files.

    Raises `Invalid` in Docker's words. Accepted without effect, as a Docker configuration may have them: `compress`
    (rotated files stay plain, so that they can be read from the end), `mode`, and what adds attributes to lines.
    """
    if driver == "none":
        return None, 1
    if driver not in DRIVERS:
        raise Invalid(
            f"logger: no log driver named '{driver}' is registered", hint=f"drivers: {', '.join(DRIVERS)}"
        )
    known = _LOCAL_OPTIONS if driver == "local" else _JSON_FILE_OPTIONS
    for name in options:
        if name not in known:
            raise Invalid(f"unknown log opt '{name}' for {driver} log driver")
    local = driver == "local"
    max_size: int | None = _LOCAL_MAX_SIZE if local else DEFAULT_MAX_SIZE
    max_file = _LOCAL_MAX_FILE if local else DEFAULT_MAX_FILE
    if "max-size" in options:
        max_size = _size(options["max-size"])
    if "max-file" in options:
        text = options["max-file"]
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10_000:
            raise Invalid(f"max-file cannot be less than 1: {text!r}")
        max_file = int(text)
    return max_size, max_file


def _size(text: str) -> int | None:
    """Docker's human sizes (`10m`, `1.5g`, `500kB`): decimal units; -1 is no limit."""
    if text.strip() == "-1":
        return None
    lower = text.strip().lower().removesuffix("b")
    number, unit = (lower[:-1], lower[-1]) if lower[-1:].isalpha() else (lower, "")
    digits = number.strip()
    if (
        unit not in _UNITS
        or not digits.replace(".", "", 1).isdigit()
        or not digits.isascii()
        or len(digits) > 18
    ):
        raise Invalid(f"invalid size for max-size: {text!r}", hint="for example 10m, or -1 for no limit")
    size = int(float(digits) * _UNITS[unit])
    if size <= 0:
        raise Invalid("max-size must be a positive number")
    return size
