"""Health checks as pure rules: what to run and when, and what a result says of a container."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.model import Health, HealthResult
from sampan.oci.image import Healthcheck

_SECOND = 1_000_000_000
_KEPT = 5
OUTPUT_KEPT = 4096
"""Bytes of a check's output that are kept, as in Docker."""
TIMED_OUT = -1
"""Exit code of a check that took too long."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds; with Docker's defaults filled in."""

    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int

    def delay(self, health: Health, running_for: float) -> float:
        """Seconds from one check to the next."""
        if health.status == "starting" and running_for < self.start_period:
            return min(self.start_interval, self.interval)
        return self.interval


def times_of(check: Healthcheck) -> Times:
    return Times(
        interval=(check.interval or 30 * _SECOND) / _SECOND,
        timeout=(check.timeout or 30 * _SECOND) / _SECOND,
        start_period=check.start_period / _SECOND,
        start_interval=(check.start_interval or 5 * _SECOND) / _SECOND,
        retries=check.retries or 3,
    )


def command_of(check: Healthcheck | None, shell: tuple[str, ...] | None) -> tuple[str, ...]:
    """What to run; empty: there is no check."""
    test = check.test if check is not None else ()
    if not test or test[0] == "NONE":
        return ()
    if test[0] == "CMD-SHELL":
        return (*(shell or ("/bin/sh", "-c")), " ".join(test[1:]))
    return test[1:]


def after_result(health: Health, result: HealthResult, times: Times, *, running_for: float) -> Health:
    """Docker's rules: failures during the start period do not count, one success ends it."""
    entries = (*health.log, result)[-_KEPT:]
    if result.exit_code == 0:
        return Health("healthy", 0, entries)
    if health.status == "starting" and running_for < times.start_period:
        return replace(health, log=entries)
    streak = health.failing_streak + 1
    status = "unhealthy" if streak >= times.retries else health.status
    return Health(status, streak, entries)


def kept_output(data: bytes) -> str:
    """What the log keeps of a check's output; `data` may have been read a little further than that."""
    text = data[:OUTPUT_KEPT].decode("utf-8", "replace")
    return f"{text}..." if len(data) > OUTPUT_KEPT else text


def timed_out_text(timeout: float, output: str) -> str:
    """What the log says of a check that took longer than `timeout` seconds, and had said `output` by then."""
    text = f"Health check exceeded timeout ({go_duration(round(timeout * _SECOND))})"
    return f"{text}: {output}" if output else text


def go_duration(nanoseconds: int) -> str:
    """Go's time.Duration.String: `1.5s`, `1m30s`, `500ms`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < _SECOND:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, _SECOND) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if unit > 1 else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
