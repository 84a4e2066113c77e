"""One function per measurement; each returns a number for one contestant, in the unit of its name."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from engines import Contestant

PARALLEL = 40


def is_chosen(title: str, only: str | None) -> bool:
    """`only`: parts of titles, with | between them; None for all."""
    return only is None or any(part in title for part in only.split("|"))


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def alternately(
    contestants: list[Contestant], repeat: int, measure: Callable[[Contestant], float]
) -> dict[str, float]:
    """Medians; the contestants take turns, so that a slow minute of the machine meets all of them."""
    samples: dict[str, list[float]] = {each.name: [] for each in contestants}
    for _ in range(repeat):
        for each in contestants:
            samples[each.name].append(measure(each))
    return {name: statistics.median(values) for name, values in samples.items()}


def run_seconds(each: Contestant, network: str) -> float:
    options = ["--network", network] if network == "none" else []
    return seconds(lambda: each.run("run", "--rm", *options, *each.run_options, "bench/busybox", "true"))


def parallel_start_seconds(each: Contestant) -> float:
    """40 containers started at the same time; they are removed afterwards, outside the measured time."""

    def start_all() -> None:
        clients = [
            each.spawn("run", "-d", "--label", "bench", *each.run_options, "bench/busybox", "sleep", "1000")
            for _ in range(PARALLEL)
        ]
        codes = [client.wait(300) for client in clients]
        if any(codes):
            raise RuntimeError(f"{each.name}: {sum(map(bool, codes))} of {PARALLEL} starts failed")

    return seconds(start_all)


def remove_all(each: Contestant) -> None:
    containers = each.run("ps", "-aq").split()
    if containers:
        each.run("rm", "-f", *each.remove_options, *containers)


def pids_of(each: Contestant) -> set[int]:
    """The processes with the engine's directories in their command lines, and all that descend from them."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            status = (entry / "stat").read_text()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(entry.name)
        parents[pid] = int(status.rpartition(")")[2].split()[1])
        if any(place in command for place in each.places):
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def proportional_bytes(pids: set[int]) -> int:
    """The sum of the proportional set sizes of these processes (kernel threads have none)."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total


def pull_seconds(each: Contestant, image: str) -> float:
    subprocess.run([*each.command, "rmi", "-f", image], capture_output=True, env=_environment(each))
    return seconds(lambda: each.run("pull", *each.push_options, image))


def build_seconds(each: Contestant, context: Path, cached: bool) -> float:
    options = [] if cached else ["--no-cache"]
    return seconds(lambda: each.run("build", "-q", *options, "-t", "bench/app", str(context)))


def command_seconds(each: Contestant) -> float:
    return seconds(lambda: each.run("version"))


def requests_per_second(each: Contestant, duration: float = 3.0) -> float:
    """`GET /containers/json` on one connection, one after the other."""
    request = b"GET /v1.41/containers/json HTTP/1.1\r\nHost: bench\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(each.socket))
        count = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < duration:
            sock.sendall(request)
            answer = b""
            while not answer.endswith(b"]\n"):
                answer += sock.recv(65536)
            count += 1
        return count / (time.perf_counter() - begin)


def _environment(each: Contestant) -> dict[str, str]:
    return {**os.environ, **each.environment}
