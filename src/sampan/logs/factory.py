"""From a `LogTarget` to a shim's sink. What only some containers need is imported for these alone."""

from __future__ import annotations

from functools import partial

from sampan.logs.file_sink import file_sink
from sampan.logs.json_file import JsonFileSink
from sampan.logs.options import FILE_DRIVERS, cache_options, delivery_options, file_options
from sampan.runtime.logsink import LogSink
from sampan.runtime.messages import LogTarget

_SETTLE_SECONDS = 3.0
"""For a disk to take what waits, before a container's end is told; `logs` should have all of it then."""


class NullSink(LogSink):
    """Of the driver `none`."""

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing was opened."""


def make_sink(target: LogTarget) -> LogSink:
    """The recorder of a container's output.

    Raises `Invalid` for options that can't be, `Internal` when a log server that must be there is not, OSError.
    """
    if target.driver == "none":
        return NullSink()
    delivery = delivery_options(target.options)
    if target.driver not in FILE_DRIVERS:
        cache = cache_options(target.options)
        return _feed(target, file_sink(target, cache) if cache is not None else None)
    if delivery.drops:
        return _feed(target, None)
    return file_sink(target, file_options(target.driver, target.options))


def _feed(target: LogTarget, cache: JsonFileSink | None) -> LogSink:
    from sampan.logs.feed import Feed
    from sampan.logs.status import StatusFile
    from sampan.logs.writer import start_writer

    delivery = delivery_options(target.options)
    settle = _SETTLE_SECONDS if target.driver in FILE_DRIVERS else 0.0
    status = StatusFile(target.status)
    return Feed(partial(start_writer, target), delivery, status, cache, settle_seconds=settle)
