"""Log drivers that send lines elsewhere: what each offers, and finding it by its name.

A driver is the module `sampan.logs.<driver>` with `check_options(options)` and `open(options, source)`. Modules are
imported when they are needed only: no shim pays for a driver that its container does not use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, cast

from sampan.errors import Invalid
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.undelivered import Losses

DRIVERS: Final = ("awslogs", "fluentd", "gelf", "journald", "syslog")


class Destination(Protocol):
    """A connection to a log server. Blocking, and used by one thread alone."""

    @property
    def losses(self) -> Losses:
        """What it has given up for good."""

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Deliver all of `entries`.

        Raises `OSError` when they were not delivered; then the caller comes with the same entries again, but for the
        first `delivered` ones of an `Undelivered`. A broken connection is made anew by itself.
        """

    def close(self) -> None:
        """Deliver what is still held back as far as that can be done at once, and let go of the connection."""


class _Driver(Protocol):
    """What a driver's module offers."""

    def check_options(self, options: Mapping[str, str]) -> None:
        """Raises `Invalid` in Docker's words."""

    def open(self, options: Mapping[str, str], source: LogSource) -> Destination:
        """Raises `Invalid`, or `OSError` when the server can't be reached."""


def _driver(name: str) -> _Driver:
    if name not in DRIVERS:
        raise Invalid(
            f"logger: no log driver named '{name}' is registered",
            hint=f"drivers: json-file, local, none, {', '.join(DRIVERS)}",
        )
    return cast(_Driver, importlib.import_module(f"sampan.logs.{name}"))


def check_destination_options(driver: str, options: Mapping[str, str]) -> None:
    """`options`: those of the driver, and `tag`, `labels`, `env`; not those of the way there (`mode`, `cache-…`).

    Raises `Invalid` in Docker's words for an unknown driver or option, and for a bad value.
    """
    _driver(driver).check_options(options)


def open_destination(driver: str, options: Mapping[str, str], source: LogSource) -> Destination:
    """Raises `Invalid`, and `OSError` when the server can't be reached now."""
    return _driver(driver).open(options, source)
