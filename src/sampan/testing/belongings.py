"""How much of everything an engine has on its host: what is compared before and after a lot of work."""

from __future__ import annotations

import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

from sampan.testing.engine import EngineProcess


def belongings(engine: EngineProcess) -> dict[str, int]:
    """How much of each kind there is of this engine on the host. It must be running."""
    found: Counter[str] = Counter()
    launcher = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode("utf-8", "replace")
            groups = (process / "cgroup").read_text()
            name = (process / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(engine.directory) in command or engine.cgroup_parent in groups:
            found["processes"] += 1
        if name == "sampan-launcher" and str(engine.directory) in command:
            launcher = int(process.name)
    for name, path in (("host", "self"), ("launcher", str(launcher))):
        mounts = Path(f"/proc/{path}/mountinfo").read_text().splitlines()
        own = str(engine.directory)
        found[f"mounts of the {name}"] = sum(name == "launcher" or own in line for line in mounts)
    for hierarchy in Path("/sys/fs/cgroup").glob(f"*{engine.cgroup_parent}"):
        found["control groups"] += sum(1 for each in hierarchy.rglob("*") if each.is_dir())
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found["links"] = sum(engine.bridge in line for line in links.splitlines())
    for place in (engine.root, engine.run_dir):
        for file in place.rglob("*"):
            # The database's own files grow, and are counted by their rows.
            if not file.name.startswith("metadata.db"):
                found[f"files below {place.name}"] += 1
    with sqlite3.connect(f"file:{engine.root / 'metadata.db'}?mode=ro", uri=True) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            (found[f"rows of {table}"],) = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    for name, pid in (("daemon", engine.pid), ("launcher", launcher)):
        found[f"descriptors of the {name}"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        found[f"threads of the {name}"] = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return dict(found)


def grown(before: dict[str, int], after: dict[str, int], allowed: dict[str, int] | None = None) -> list[str]:
    """What there is more of than before, beyond what is `allowed` to be more."""
    return [
        f"{name}: {before.get(name, 0)} before, {count} after"
        for name, count in sorted(after.items())
        if count > before.get(name, 0) + (allowed or {}).get(name, 0)
    ]
