"""Measurements of running containers: exec, stop, removal, statistics, logs; each of one contestant."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import measure
from engines import Contestant

LOG_FILE = "/lines"
LOG_FILE_BYTES = 10_000_000
LOG_ROUNDS = 20
STATS_SECONDS = 10.0
_SLEEPER = ("bench/busybox", "sleep", "1000")
_TERMINATED = (
    "bench/busybox",
    "sh",
    "-c",
    "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done",
)


def log_lines() -> bytes:
    """`LOG_FILE_BYTES` of lines as web servers write them, about 100 bytes each."""
    lines = []
    size = number = 0
    while size < LOG_FILE_BYTES:
        line = (
            f'10.0.{number % 256}.7 - - "GET /articles/{number} HTTP/1.1" 200 {number % 9973} "curl/7.88.1"\n'
        )
        lines.append(line)
        size += len(line)
        number += 1
    return "".join(lines).encode()[: LOG_FILE_BYTES - 1] + b"\n"


@contextlib.contextmanager
def _container(each: Contestant, *arguments: str) -> Iterator[str]:
    identity = each.run("run", "-d", "--network", "none", *each.run_options, *arguments).strip()
    try:
        yield identity
    finally:
        each.run("rm", "-f", identity)


def exec_seconds(each: Contestant, repeat: int = 5) -> float:
    """One `exec true` in a running container; the best of a few, so that only one container is needed."""
    with _container(each, *_SLEEPER) as identity:
        return min(measure.seconds(lambda: each.run("exec", identity, "true")) for _ in range(repeat))


def stop_seconds(each: Contestant) -> float:
    """`stop` of a container that ends on SIGTERM at once."""
    with _container(each, *_TERMINATED) as identity:
        while "ready" not in each.run("logs", identity):
            time.sleep(0.01)
        return measure.seconds(lambda: each.run("stop", identity))


def remove_forty_seconds(each: Contestant) -> float:
    """`rm -f` of 40 running containers in one command."""
    measure.parallel_start_seconds(each)
    containers = each.run("ps", "-aq").split()
    return measure.seconds(lambda: each.run("rm", "-f", *each.remove_options, *containers))


def stats_cpu_seconds(each: Contestant) -> float:
    """Processor time of all the engine's processes in ten seconds of `stats` for 40 containers."""
    measure.parallel_start_seconds(each)
    try:
        client = each.spawn("stats")
        try:
            time.sleep(3)  # until all streams are open: what is measured is the steady state
            before = _cpu_seconds(measure.pids_of(each))
            time.sleep(STATS_SECONDS)
            return _cpu_seconds(measure.pids_of(each)) - before
        finally:
            client.kill()
            client.wait()
    finally:
        measure.remove_all(each)


def log_megabytes_per_second(each: Contestant) -> float:
    """Lines through the json-file driver, from the container's start to its end."""
    script = f"i=0; while [ $i -lt {LOG_ROUNDS} ]; do cat {LOG_FILE}; i=$((i+1)); done"
    options = ["--log-driver", "json-file", "--log-opt", "max-size=2g", "--log-opt", "max-file=2"]
    begin = time.perf_counter()
    identity = each.run(
        "run", "-d", "--network", "none", *options, *each.run_options, "bench/busybox", "sh", "-c", script
    ).strip()
    try:
        each.run("wait", identity)
        return LOG_FILE_BYTES * LOG_ROUNDS / 1e6 / (time.perf_counter() - begin)
    finally:
        each.run("rm", "-f", identity)


def _cpu_seconds(pids: set[int]) -> float:
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
