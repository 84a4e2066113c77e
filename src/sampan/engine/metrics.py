"""The engine's and its containers' figures for Prometheus, under the names that Docker and cAdvisor gave them.

Dashboards and alerts that people have for `dockerd --metrics-addr` and for cAdvisor find the same series here. What
neither has begins with `sampan_`. Imported only by a daemon that was told to serve metrics.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sampan.engine.engine import Engine
from sampan.engine.settings import Settings
from sampan.engine.system import memory_total
from sampan.engine.usage import Usage
from sampan.logs.status import read_status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("id", "name", "image")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CONTAINER_ACTIONS = frozenset(
    ("create", "start", "stop", "restart", "kill", "pause", "unpause", "update", "rename")
)
_NETWORK_ACTIONS = frozenset(("create", "connect", "disconnect"))
_HEALTH = ("starting", "healthy", "unhealthy")


class Metrics:
    """Used from the event loop's thread. One page is made at a time, however many ask."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self._snapshot = _Snapshot(engine)
        self._registry.register(self._snapshot)
        ProcessCollector(registry=self._registry)
        self._container_actions = self._histogram("container", "containers")
        self._network_actions = self._histogram("network", "networks")
        self._lock = asyncio.Lock()

    def _histogram(self, noun: str, plural: str) -> Histogram:
        return Histogram(
            f"engine_daemon_{noun}_actions_seconds",
            f"Seconds that successful requests took which change {plural}",
            ("action",),
            registry=self._registry,
            buckets=_BUCKETS,
        )

    async def page(self) -> bytes:
        """All series in Prometheus' text format."""
        async with self._lock:
            self._snapshot.usages = await self._engine.containers.usages()
            return generate_latest(self._registry)

    def done(self, method: str, path: str, seconds: float) -> None:
        """Count an API request of `method` and `path` that took `seconds` and changed something."""
        noun, action = action_of(method, path)
        if noun:
            histogram = self._container_actions if noun == "container" else self._network_actions
            histogram.labels(action).observe(seconds)


def action_of(method: str, path: str) -> tuple[str, str]:
    """("container" or "network", Docker's word for the action) of a request, ("", "") when it is none of those."""
    parts = path.strip("/").split("/")
    if parts and parts[0].startswith("v1."):
        del parts[0]
    match method, parts:
        case "POST", ["commit"]:
            return "container", "commit"
        case "POST", ["containers", "create"] | ["containers", _, _] if parts[-1] in _CONTAINER_ACTIONS:
            return "container", parts[-1]
        case "GET", ["containers", _, "changes"]:
            return "container", "changes"
        case "DELETE", ["containers", _]:
            return "container", "delete"
        case "POST", ["networks", "create"] | ["networks", _, _] if parts[-1] in _NETWORK_ACTIONS:
            return "network", parts[-1]
        case "DELETE", ["networks", _]:
            return "network", "delete"
    return "", ""


class _Snapshot(Collector):
    """What is counted elsewhere, read when a page is made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.usages: list[Usage] = []

    def describe(self) -> list[Metric]:
        """Nothing is collected at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_engine()
        yield from self._of_containers()

    def _of_engine(self) -> Iterator[Metric]:
        info = self._engine.system.info()
        labels = {
            "daemon_id": info["ID"],
            "version": info["ServerVersion"],
            "commit": "",
            "architecture": info["Architecture"],
            "graphdriver": info["Driver"],
            "kernel": info["KernelVersion"],
            "os": info["OperatingSystem"],
            "os_type": info["OSType"],
            "os_version": info["OSVersion"],
        }
        facts = GaugeMetricFamily(
            "engine_daemon_engine_info", "The engine and the host it runs on", labels=tuple(labels)
        )
        facts.add_metric([str(value) for value in labels.values()], 1)
        yield facts
        yield GaugeMetricFamily(
            "engine_daemon_engine_cpus_cpus", "Processors of the host", os.cpu_count() or 1
        )
        yield GaugeMetricFamily("engine_daemon_engine_memory_bytes", "Memory of the host", memory_total())
        states = GaugeMetricFamily(
            "engine_daemon_container_states_containers", "Containers by state", labels=("state",)
        )
        counted = self._engine.containers.counts()
        for state, number in zip(("running", "paused", "stopped"), counted, strict=True):
            states.add_metric((state,), number)
        yield states
        yield from self._of_events()

    def _of_events(self) -> Iterator[Metric]:
        events = self._engine.events
        yield CounterMetricFamily("engine_daemon_events_total", "Events", sum(events.published.values()))
        yield GaugeMetricFamily(
            "engine_daemon_events_subscribers_total", "Clients that follow the events", events.subscribers
        )
        kinds = CounterMetricFamily("sampan_events_total", "Events by kind", labels=("type", "action"))
        for (kind, action), number in sorted(events.published.items()):
            kinds.add_metric((kind, action), number)
        yield kinds
        checks = self._engine.containers.health_checks
        yield CounterMetricFamily("engine_daemon_health_checks_total", "Health checks run", checks.run)
        yield CounterMetricFamily(
            "engine_daemon_health_checks_failed_total", "Health checks failed", checks.failed
        )

    def _of_containers(self) -> Iterator[Metric]:
        table = _Table()
        for usage in self.usages:
            _fill(table, usage)
            _fill_log(table, usage, self._engine.settings)
        yield from table.families()


class _Table:
    """Series of containers, gathered container by container and given out metric by metric."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def families(self) -> Iterator[Metric]:
        yield from self._families.values()

    def gauge(self, name: str, help_text: str, owner: tuple[str, ...], value: float, **more: str) -> None:
        self._add(GaugeMetricFamily, name, help_text, owner, value, more)

    def counter(self, name: str, help_text: str, owner: tuple[str, ...], value: float, **more: str) -> None:
        self._add(CounterMetricFamily, name, help_text, owner, value, more)

    def _add(
        self,
        kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        help_text: str,
        owner: tuple[str, ...],
        value: float,
        more: dict[str, str],
    ) -> None:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = kind(name, help_text, labels=(*_LABELS, *more))
        family.add_metric((*owner, *more.values()), value)


def _fill(table: _Table, usage: Usage) -> None:
    record = usage.record
    owner = (record.id, record.name, record.image)
    table.gauge(
        "container_start_time_seconds",
        "Unix time of the start",
        owner,
        _unix(record.state.started_at),
    )
    table.counter("sampan_container_restarts_total", "Restarts by policy", owner, record.restart_count)
    health = record.state.health
    if health is not None and health.status in _HEALTH:
        for status in _HEALTH:
            table.gauge(
                "sampan_container_health",
                "1 for the present state of health",
                owner,
                float(status == health.status),
                status=status,
            )
    _fill_cpu(table, usage, owner)
    _fill_memory(table, usage, owner)
    _fill_input_output(table, usage, owner)


def _fill_log(table: _Table, usage: Usage, settings: Settings) -> None:
    """Only of containers whose log has to be delivered, and met trouble."""
    record = usage.record
    owner = (record.id, record.name, record.image)
    status = read_status(settings.log_status_path(record.id))
    if status is not None:
        lines, size = status.lost_lines, status.lost_bytes
        table.counter("sampan_container_log_lost_lines_total", "Lines that no log server got", owner, lines)
        table.counter("sampan_container_log_lost_bytes_total", "Bytes of those lines", owner, size)


def _fill_cpu(table: _Table, usage: Usage, owner: tuple[str, ...]) -> None:
    cpu = usage.stats.cpu
    for name, what, nanoseconds in (
        ("usage", "Processor time", cpu.total),
        ("user", "Processor time in user mode", cpu.user),
        ("system", "Processor time in the kernel", cpu.system),
        ("cfs_throttled", "Time held back by the processor limit", cpu.throttled),
    ):
        table.counter(f"container_cpu_{name}_seconds_total", f"{what}, seconds", owner, nanoseconds / 1e9)
    table.counter("container_cpu_cfs_periods_total", "Periods of the processor limit", owner, cpu.periods)
    table.counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which it was held back",
        owner,
        cpu.throttled_periods,
    )
    table.gauge("container_threads", "Threads and processes", owner, usage.stats.pids.current)


def _fill_memory(table: _Table, usage: Usage, owner: tuple[str, ...]) -> None:
    memory = usage.stats.memory
    # What the kernel could drop at once does not count as used, as in `stats` and in cAdvisor.
    idle = memory.stat.get("total_inactive_file", memory.stat.get("inactive_file", 0))
    table.gauge("container_memory_usage_bytes", "Memory with the page cache", owner, memory.usage)
    table.gauge(
        "container_memory_working_set_bytes",
        "Memory without idle page cache",
        owner,
        max(0, memory.usage - idle),
    )
    table.gauge("container_spec_memory_limit_bytes", "Memory limit, 0 for none", owner, memory.limit or 0)
    # A counter's name would get an ending here that cAdvisor's has not.
    table.gauge("container_memory_failcnt", "Times the memory limit was met", owner, memory.failures)
    table.counter("container_oom_events_total", "Processes killed for want of memory", owner, usage.oom_kills)


def _fill_input_output(table: _Table, usage: Usage, owner: tuple[str, ...]) -> None:
    for interface, counted in usage.interfaces.items():
        for short, direction in (("rx", "receive"), ("tx", "transmit")):
            for key, words in (("bytes", "bytes"), ("packets", "packets"), ("errors", "errors")):
                table.counter(
                    f"container_network_{direction}_{words}_total",
                    f"{words.capitalize()} of the network, {direction}",
                    owner,
                    counted[f"{short}_{key}"],
                    interface=interface,
                )
            table.counter(
                f"container_network_{direction}_packets_dropped_total",
                f"Packets dropped, {direction}",
                owner,
                counted[f"{short}_dropped"],
                interface=interface,
            )
    for entry in usage.stats.io_service_bytes:
        word = {"read": "reads", "write": "writes"}.get(entry.operation.lower())
        if word:
            table.counter(
                f"container_fs_{word}_bytes_total",
                f"Bytes of block {word}",
                owner,
                entry.value,
                device=f"{entry.major}:{entry.minor}",
            )


def _unix(text: str) -> float:
    """0 for a container that has never run. `text`: RFC 3339 with nanoseconds."""
    if not text or text.startswith("0001"):
        return 0.0
    return datetime.fromisoformat(text).timestamp()
