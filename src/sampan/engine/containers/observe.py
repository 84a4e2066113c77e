"""Looking at running containers' processes: top."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sampan.engine import state
from sampan.engine.containers.base import Json, Parts
from sampan.engine.model import ContainerRecord
from sampan.errors import Conflict, Internal, Invalid

_PS_TIMEOUT = 30
_MAX_COMMAND = 128 << 10
"""Bytes of a command line that are shown."""


class Observer:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def top(self, reference: str, ps_args: str) -> Json:
        """The container's processes as the host's ps shows them; from /proc where there is no ps."""
        record = self._parts.store.find(reference).record
        if record.state.status == "restarting":
            raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
        if "\0" in ps_args:
            raise Invalid(f"ps: an argument contains a zero byte: {ps_args!r}")
        state.check_running(record)
        table = await asyncio.to_thread(self._top, record, ps_args or "-ef")
        self._parts.announce(record, "top")
        return table

    def _top(self, record: ContainerRecord, ps_args: str) -> Json:
        pids = set(self._parts.cgroup(record).pids())
        try:
            # Without them, options such as -o select the processes of our own user alone. Some can't be used with them.
            chosen = [f"-q{','.join(map(str, sorted(pids)))}"] if pids else []
            done = _run_ps([*ps_args.split(), *chosen])
            if done.returncode != 0 and chosen:
                done = _run_ps(ps_args.split())
        except FileNotFoundError:
            return _proc_table(pids)
        if done.returncode != 0:
            raise Invalid(f"ps: {done.stderr.strip().partition(chr(10))[0]}")
        return parse_ps(done.stdout, pids)


def _run_ps(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Raises `Internal` when it takes too long, and FileNotFoundError when there is none."""
    try:
        return subprocess.run(
            ["ps", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PS_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Internal("ps did not answer in time") from error


def parse_ps(output: str, pids: set[int]) -> Json:
    """Titles and the rows of these processes. Raises `Invalid` when ps was not asked for a PID column."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Invalid("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        # The last column is the command, which may contain spaces.
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            rows.append(fields)
    return {"Titles": titles, "Processes": rows}


def _proc_table(pids: set[int]) -> Json:
    titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = os.sysconf("SC_CLK_TCK")
    rows = []
    for pid in sorted(pids):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
                # A process can say that gigabytes of its memory are its arguments (PR_SET_MM).
                command = file.read(_MAX_COMMAND).replace(b"\0", b" ").decode(errors="replace")
            owner = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue  # it ended meanwhile
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        fields = stat[stat.rindex(")") + 2 :].split()
        cpu = (int(fields[11]) + int(fields[12])) // ticks
        started = time.strftime("%H:%M", time.localtime(boot + int(fields[19]) / ticks))
        used = f"{cpu // 3600:02d}:{cpu // 60 % 60:02d}:{cpu % 60:02d}"
        rows.append(
            [_user(owner), str(pid), fields[1], "0", started, "?", used, command.strip() or f"[{name}]"]
        )
    return {"Titles": titles, "Processes": rows}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
