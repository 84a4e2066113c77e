"""`make load`: hundreds of containers at once, and everything they were made of gone afterwards."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

COUNT = 500
AT_ONCE = 16
IGNORES_NOTHING = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]


@pytest.fixture
def roomy(make_sampan: Callable[..., Any]) -> Iterator[Any]:
    """An engine with addresses for all of them on its bridge."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-load-"))
    sampan = make_sampan(directory, subnet="10.199.0.1/20")
    try:
        yield sampan
    finally:
        sampan.close()
        sampan.engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def belongings(sampan: Any) -> dict[str, int]:
    """How much of each kind there is of this engine on the host."""
    engine = sampan.engine
    found: Counter[str] = Counter()
    launcher = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode("utf-8", "replace")
            groups = (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(engine.directory) in command or engine.cgroup_parent in groups:
            found["processes"] += 1
        if (process / "comm").read_text().strip() == "sampan-launcher" and str(engine.directory) in command:
            launcher = int(process.name)
    for name, path in (("host", "self"), ("launcher", str(launcher))):
        mounts = Path(f"/proc/{path}/mountinfo").read_text().splitlines()
        found[f"mounts of the {name}"] = len(mounts)
    for hierarchy in Path("/sys/fs/cgroup").glob(f"*{engine.cgroup_parent}"):
        found["control groups"] += sum(1 for each in hierarchy.rglob("*") if each.is_dir())
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found["links"] = sum(engine.bridge in line for line in links.splitlines())
    for place in (engine.root, engine.run_dir):
        for path in place.rglob("*"):
            # The database's own files grow, and are counted by their rows.
            if not path.name.startswith("metadata.db"):
                found[f"files below {place.name}"] += 1
    with sqlite3.connect(f"file:{engine.root / 'metadata.db'}?mode=ro", uri=True) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            (found[f"rows of {table}"],) = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    found["descriptors of the daemon"] = len(list(Path(f"/proc/{engine.pid}/fd").iterdir()))
    return dict(found)


def test_of_five_hundred_containers_nothing_is_left(
    roomy: Any, wait_until_empty: Callable[..., None], find_problems: Callable[[Any], list[str]]
) -> None:
    sampan = roomy
    api = sampan.api.api
    sampan.ok("run", "--rm", "busybox", "true")  # what the first container makes and keeps is there
    before = belongings(sampan)

    def create(number: int) -> str:
        made: str = api.create_container("busybox", IGNORES_NOTHING, name=f"load-{number}")["Id"]
        return made

    with ThreadPoolExecutor(AT_ONCE) as pool:
        containers = list(pool.map(create, range(COUNT)))
        list(pool.map(api.start, containers))
        assert len(api.containers(filters={"status": "running"})) == COUNT
        addresses = {each["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for each in api.containers()}
        assert len(addresses) == COUNT
        assert find_problems(sampan) == []
        during = belongings(sampan)
        assert during["processes"] >= before["processes"] + 2 * COUNT  # the count can see them
        assert during["control groups"] >= before["control groups"] + COUNT
        list(pool.map(lambda each: api.stop(each, timeout=30), containers))
        codes = Counter(api.inspect_container(each)["State"]["ExitCode"] for each in containers)
        assert codes == {0: COUNT}
        list(pool.map(api.remove_container, containers))
    assert api.containers(all=True) == []

    def difference() -> list[str]:
        after = belongings(sampan)
        names = sorted(before.keys() | after.keys())
        return [
            f"{name}: {before.get(name, 0)} before, {after.get(name, 0)} after"
            for name in names
            # Idle connections of the client and of the daemon's thread pool may come and go.
            if after.get(name, 0) > before.get(name, 0) + (40 if name.startswith("descriptors") else 0)
        ]

    wait_until_empty(difference, "left over", timeout=60)
