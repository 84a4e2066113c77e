"""`sampan stats`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import FORMAT_HELP, print_listing
from sampan.cli.template_functions import Record
from sampan.client.api import ApiError, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.client.api import Client

_COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
_HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_CLEAR_SCREEN = "\x1b[2J\x1b[H"


def cpu_percent(stats: dict[str, Any]) -> float:
    """Share of one CPU between the two readings of an answer, in percent."""
    now, before = stats.get("cpu_stats") or {}, stats.get("precpu_stats") or {}
    usage, old_usage = now.get("cpu_usage") or {}, before.get("cpu_usage") or {}
    used = (usage.get("total_usage") or 0) - (old_usage.get("total_usage") or 0)
    passed = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or [])
    return used / passed * cpus * 100.0 if used > 0 and passed > 0 else 0.0


def memory_usage(memory: dict[str, Any]) -> int:
    """Bytes in use without the page cache that could be dropped (cgroup v1 and v2 name it differently)."""
    usage: int = memory.get("usage") or 0
    details = memory.get("stats") or {}
    inactive: int = details.get("total_inactive_file", details.get("inactive_file", 0))
    return usage - inactive if inactive < usage else usage


def _block_io(stats: dict[str, Any]) -> tuple[int, int]:
    totals = {"r": 0, "w": 0}
    for entry in (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        kind = str(entry.get("op", ""))[:1].lower()
        if kind in totals:
            totals[kind] += entry.get("value") or 0
    return totals["r"], totals["w"]


def stats_record(stats: dict[str, Any], named: str, *, full: bool) -> Record:
    """A row; without readings (a container that does not run) every figure is zero or missing."""
    memory = stats.get("memory_stats") or {}
    used, limit = memory_usage(memory), memory.get("limit") or 0
    networks = (stats.get("networks") or {}).values()
    received = sum(network.get("rx_bytes") or 0 for network in networks)
    sent = sum(network.get("tx_bytes") or 0 for network in networks)
    read, written = _block_io(stats)
    identity = stats.get("id") or named
    percent = used / limit * 100.0 if limit else 0.0
    return Record(
        "statsContext",
        {
            "Container": lambda: named,
            "ID": lambda: identity if full else identity[:12],
            "Name": lambda: (stats.get("name") or "--").removeprefix("/"),
            "CPUPerc": lambda: f"{cpu_percent(stats):.2f}%",
            "MemUsage": lambda: f"{units.binary_size(used)} / {units.binary_size(limit)}",
            "MemPerc": lambda: f"{percent:.2f}%",
            "NetIO": lambda: f"{units.human_size(received, 3)} / {units.human_size(sent, 3)}",
            "BlockIO": lambda: f"{units.human_size(read, 3)} / {units.human_size(written, 3)}",
            "PIDs": lambda: str((stats.get("pids_stats") or {}).get("current") or 0),
        },
    )


def _names(invocation: Invocation, client: Client) -> list[str]:
    if invocation.args:
        return invocation.args
    containers = client.call("GET", "/containers/json", {"all": invocation.flags["all"]}) or []
    return [container["Id"] for container in containers]


def _one(client: Client, name: str) -> dict[str, Any]:
    path = f"/containers/{quote_path(name)}/stats"
    try:
        answer: dict[str, Any] = client.call("GET", path, {"stream": "0"})
    except ApiError as error:
        raise no_such("container", name, error) from None
    return answer


class _Follower:
    """The stats streams of several containers, read in turn; the last reading of each is kept."""

    def __init__(self, client: Client, names: list[str]) -> None:
        self.latest: dict[str, dict[str, Any]] = {name: {} for name in names}
        self._streams: dict[str, Iterator[Any]] = {}
        for name in names:
            response = client.request("GET", f"/containers/{quote_path(name)}/stats", {"stream": "1"})
            self._streams[name] = client.messages(response)

    def step(self) -> bool:
        """One more reading of each (the engine sends one a second); False when all have ended."""
        for name, stream in list(self._streams.items()):
            message = next(stream, None)
            if message is None:
                del self._streams[name]
                self.latest.pop(name, None)
            else:
                self.latest[name] = message
        return bool(self._streams)


def _stats(invocation: Invocation) -> int:
    flags = invocation.flags
    client = invocation.client()
    names = _names(invocation, client)
    if flags["no-stream"]:
        rows = [stats_record(_one(client, name), name, full=flags["no-trunc"]) for name in names]
        print_listing(rows, flags["format"], _COLUMNS, _HEADERS)
        return 0
    try:
        follower = _Follower(client, names)
    except ApiError as error:
        raise (Failure(f"Error: No such container: {names[0]}") if error.status == 404 else error) from None
    live = sys.stdout.isatty()
    while follower.step():
        rows = [stats_record(item, name, full=flags["no-trunc"]) for name, item in follower.latest.items()]
        if live and flags["format"] != "json":
            sys.stdout.write(_CLEAR_SCREEN)
        print_listing(rows, flags["format"], _COLUMNS, _HEADERS)
        sys.stdout.flush()
    return 0


STATS = Command(
    _stats,
    "[CONTAINER...]",
    (
        Flag("all", "a", "bool", "Show all containers (by default only running ones)"),
        Flag("format", "", "string", FORMAT_HELP),
        Flag("no-stream", "", "bool", "Show one reading only"),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
    ),
    aliases=("container stats", "stats"),
)
