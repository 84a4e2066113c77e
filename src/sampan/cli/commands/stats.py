"""`sampan stats`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import FORMAT_HELP, print_listing
from sampan.cli.template_functions import Record
from sampan.client.api import ApiError, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    return [container["Id"][:12] for container in containers]


def _once(client: Client, names: list[str], *, given: bool) -> list[tuple[str, dict[str, Any]]]:
    """One reading of each; all are asked before the first answers, as each takes a second."""
    asked = [
        (name, client.begin("GET", f"/containers/{quote_path(name)}/stats", {"stream": "0"}))
        for name in names
    ]
    found = []
    for name, connection in asked:
        try:
            found.append((name, client.settle(connection) or {}))
        except ApiError as error:
            if given or error.status != 404:
                raise
    return found


def _stats(invocation: Invocation) -> int:
    flags = invocation.flags
    client = invocation.client()
    given = bool(invocation.args)
    names = _names(invocation, client)

    def show(items: list[tuple[str, dict[str, Any]]]) -> None:
        rows = [stats_record(item, name, full=flags["no-trunc"]) for name, item in items]
        print_listing(rows, flags["format"], _COLUMNS, _HEADERS)
        sys.stdout.flush()

    if flags["no-stream"]:
        show(_once(client, names, given=given))
        return 0
    from sampan.cli.follow_stats import StatsFollower

    live = sys.stdout.isatty() and flags["format"] != "json"
    for items in StatsFollower(client, names, follow=not given, every=flags["all"]).pictures():
        if live:
            sys.stdout.write(_CLEAR_SCREEN)
        show(items)
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
