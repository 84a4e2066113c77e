"""A build that is told to end, as by a CI server or a terminal that is closed: it cleans up as after ctrl-C."""

from __future__ import annotations

from sampan.cli.failure import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class EndedBySignals:
    """A context in which they raise `Exit` in the main thread; one that is ignored (nohup) stays so."""

    def __init__(self) -> None:
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                self._before[number] = signal.signal(number, _end)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _end(number: int, frame: object) -> None:
    raise Exit(128 + number)
