"""The engine killed, clients gone and disks full in the middle of backups and restores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

FILES = 800


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """The file system tells nobody of what is made in it: ask, with a deadline."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, what
        pause.wait(0.002)


def staged(sampan: Any) -> list[Path]:
    return [path for path in (sampan.engine.root / "volumes").iterdir() if path.name.startswith(".")]


def files_in(places: list[Path]) -> int:
    count = 0
    for place in places:
        for _, _, names in os.walk(place):
            count += len(names)
    return count


def fill(sampan: Any, volume: str, word: str) -> None:
    script = (
        f"for i in $(seq {FILES}); do echo {word} > /d/file$i; done; head -c 8000000 /dev/urandom > /d/zz"
    )
    sampan.ok("run", "--rm", "-v", f"{volume}:/d", "busybox", "sh", "-c", script)


def test_a_restore_whose_engine_is_killed_leaves_the_old_volume_or_the_new_one(
    fresh_sampan: Any, tmp_path: Path
) -> None:
    sampan = fresh_sampan
    files = {}
    for word in ("old", "new"):
        fill(sampan, word, word)
        files[word] = str(tmp_path / word)
        sampan.ok("volume", "backup", word, files[word])
    outcomes = []
    data = sampan.engine.root / "volumes/old/_data"
    # The last one comes when it has taken the old data's place, which goes then.
    for after in (0, 300, FILES, FILES + 1):
        sampan.ok("volume", "restore", "--force", "old", files["old"])
        inode = Path(sampan.api.api.inspect_volume("old")["Mountpoint"]).stat().st_ino
        client = sampan.start("volume", "restore", "--force", "old", files["new"])
        fresh = sampan.start("volume", "restore", f"fresh{after}", files["new"])
        until(lambda: len(staged(sampan)) > 0, "nothing is unpacked")
        if after <= FILES:
            until(
                lambda wanted=after: files_in(staged(sampan)) >= wanted or not staged(sampan),
                "it stands still",
            )
        else:
            until(lambda was=inode: data.stat().st_ino != was, "it never takes its place")
        sampan.engine.kill()
        for one in (client, fresh):
            one.communicate(timeout=30)
        sampan.engine.start()
        assert staged(sampan) == []
        difference = {word: sampan.ok("volume", "diff", "old", files[word]) for word in ("old", "new")}
        assert "" in difference.values(), difference
        outcomes.append("new" if difference["new"] == "" else "old")
        assert sampan.run("volume", "inspect", f"fresh{after}").returncode == 1 or (
            sampan.ok("volume", "diff", f"fresh{after}", files["new"]) == ""
        )
        sampan.run("volume", "rm", "-f", f"fresh{after}")
    # On a busy machine a restore may be faster than the kill, not every time.
    assert "old" in outcomes and outcomes[-1] == "new"
    assert sorted(os.listdir(sampan.engine.root / "volumes")) == ["new", "old"]


def test_containers_that_an_engine_kept_still_when_it_was_killed_go_on(fresh_sampan: Any) -> None:
    sampan = fresh_sampan
    sampan.ok("volume", "create", "vol")
    sampan.ok(
        "run", "-d", "--name", "user", "--stop-signal", "KILL", "-v", "vol:/d", "busybox", "sh", "-c",
        "head -c 200000000 /dev/urandom > /d/blob; touch /d/ready; sleep 1000",
    )  # fmt: skip
    sampan.ok("exec", "user", "sh", "-c", "until [ -e /d/ready ]; do :; done")
    for how, held in (("--pause", "paused"), ("--stop", "exited")):
        client = sampan.start("volume", "backup", how, "vol", "-")
        assert client.stdout.read(1000)  # and no more of it: the backup stands still
        assert sampan.ok("inspect", "-f", "{{.State.Status}}", "user") == held
        sampan.engine.kill()
        client.kill()
        client.communicate()
        sampan.engine.start()
        assert sampan.ok("inspect", "-f", "{{.State.Status}}", "user") == "running"
        assert sampan.ok("exec", "user", "echo", "here") == "here"
    sampan.ok("rm", "-f", "user")


def test_clients_that_leave_take_their_work_with_them(fresh_sampan: Any, tmp_path: Path) -> None:
    sampan = fresh_sampan
    sampan.ok("run", "-d", "--name", "user", "-v", "vol:/d", "busybox", "sleep", "1000")
    sampan.ok("exec", "user", "sh", "-c", "head -c 200000000 /dev/urandom > /d/blob")
    client = sampan.start("volume", "backup", "--pause", "vol", "-")
    assert client.stdout.read(1000)
    client.send_signal(signal.SIGKILL)
    client.communicate()
    until(lambda: sampan.ok("inspect", "-f", "{{.State.Status}}", "user") == "running", "it stays paused")
    file = tmp_path / "backup"
    sampan.ok("volume", "backup", "vol", str(file))
    client = sampan.start("volume", "restore", "copy", "-", stdin=subprocess.PIPE)
    client.stdin.write(file.read_bytes()[: 40 << 20])
    client.stdin.flush()
    until(lambda: files_in(staged(sampan)) > 0, "nothing is unpacked")
    client.send_signal(signal.SIGKILL)
    client.communicate()
    until(lambda: staged(sampan) == [], "what was unpacked stays")
    assert sampan.ok("volume", "ls", "-q") == "vol"
    sampan.ok("rm", "-f", "user")


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    image, place = directory / "disk", directory / "small"
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_what_the_disk_has_no_room_for_is_refused_and_gone(make_sampan: Callable[..., Any]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sampan-small-"))
    try:
        with small_disk(directory, 150) as place:
            sampan = make_sampan(place / "engine")
            try:
                sampan.ok(
                    "run", "--rm", "-v", "vol:/d", "busybox", "sh", "-c", "head -c 50000000 /dev/zero > /d/a"
                )
                file = directory / "backup"
                sampan.ok("volume", "backup", "vol", str(file))
                assert file.stat().st_size < 20_000  # a bomb, for this disk
                sampan.ok("volume", "restore", "one", str(file))
                free = os.statvfs(place).f_bavail
                refused = sampan.run("volume", "restore", "two", str(file))
                assert (refused.returncode, "no space left on device" in refused.stderr) == (1, True)
                for action in (("clone", "vol", "three"), ("snapshot", "vol")):
                    refused = sampan.run("volume", *action)
                    assert (refused.returncode, "no space left on device" in refused.stderr) == (1, True)
                assert staged(sampan) == []
                assert sampan.ok("volume", "ls", "-q").split() == ["one", "vol"]
                assert os.statvfs(place).f_bavail >= free - 100
            finally:
                sampan.close()
                sampan.engine.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
