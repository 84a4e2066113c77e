"""A root on a file system that is full: a clear error, nothing half-made, and the next try works once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

SIZE = 48 << 20
NOISE = 6 << 20
FULL = "no space left on device"


class SmallDisk:
    """An ext4 file system in a file, mounted where an engine's directory will be."""

    def __init__(self, image: Path, target: Path) -> None:
        self.target = target
        with open(image, "wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
        target.mkdir()
        subprocess.run(["mount", "-o", "loop", image, target], check=True)

    def fill(self, left: int) -> None:
        """Use the space up, but for about `left` bytes."""
        with open(self.target / "filler", "ab", buffering=0) as file:
            status = os.statvfs(self.target)
            wanted = status.f_bavail * status.f_frsize - left
            try:
                while wanted > 0:
                    wanted -= file.write(bytes(min(wanted, 4096)))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        (self.target / "filler").unlink()


@pytest.fixture
def small(request: pytest.FixtureRequest, make_sampan: Any) -> Iterator[tuple[Any, SmallDisk]]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-full-"))
    disk = SmallDisk(directory / "image", directory / "disk")
    try:
        # The run directory is on another file system, as /run is.
        sampan = make_sampan(disk.target / "engine", run_dir=directory / "run", log=directory / "daemon.log")
        try:
            yield sampan, disk
            said = sampan.engine.log.read_text()
            assert "Traceback" not in said, said
        finally:
            (disk.target / "filler").unlink(missing_ok=True)
            sampan.close()
            sampan.engine.stop()
    finally:
        subprocess.run(["umount", disk.target], check=True)
        shutil.rmtree(directory)


@pytest.fixture
def noisy(sampan: Any, session_registry: Any, tmp_path: Path) -> str:
    """An image with `NOISE` bytes in the registry, pushed by another engine."""
    (tmp_path / "noise").write_bytes(os.urandom(NOISE))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY noise /noise\n")
    name = f"{session_registry.host}/full/{os.getpid()}:1"
    sampan.ok("build", "-q", "-t", name, str(tmp_path))
    sampan.ok("push", name)
    sampan.ok("rmi", name)
    return name


def error_of(sampan: Any, name: str) -> str:
    return str(sampan.api.api.inspect_container(name)["State"]["Error"])


def test_a_pull_a_build_and_a_container_on_a_full_disk(
    small: tuple[Any, SmallDisk], noisy: str, tmp_path: Path, find_problems: Any
) -> None:
    sampan, disk = small
    disk.fill(left=NOISE // 3)
    pulled = sampan.run("pull", noisy)
    assert pulled.returncode == 1
    assert FULL in pulled.stderr.lower()
    assert sampan.ok("images", "-q", noisy) == ""
    disk.free()
    sampan.ok("pull", noisy)
    assert sampan.ok("run", "--rm", noisy, "sh", "-c", "wc -c < /noise") == str(NOISE)
    sampan.ok("rmi", noisy)

    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\nRUN dd if=/dev/urandom of=/made bs=65536 count={NOISE >> 16}\n"
    )
    (tmp_path / "noise").unlink()
    disk.fill(left=NOISE // 3)
    built = sampan.run("build", "-t", "built:1", str(tmp_path))
    assert built.returncode == 1
    assert FULL in (built.stdout + built.stderr).lower()
    assert sampan.ok("images", "-q", "built") == ""
    disk.free()
    sampan.ok("build", "-t", "built:1", str(tmp_path))

    disk.fill(left=256 << 10)
    sampan.ok("run", "-d", "--name", "logs", "busybox", "sh", "-c", "seq 1 100000; echo end; exit 4")
    assert sampan.ok("wait", "logs", timeout=30) == "4"
    assert f"the log can't be written: {disk.target}" in error_of(sampan, "logs")
    assert error_of(sampan, "logs").endswith(FULL)
    # What there was room for can be read, torn lines or not.
    assert set(sampan.ok("logs", "logs").split()) <= {*map(str, range(1, 100_001)), "end"}
    sampan.ok("rm", "logs")
    disk.fill(left=256 << 10)  # room to make the next one, which the first one's log has used up
    free = ["--name", "free", "--log-opt", "mode=non-blocking", "--log-driver", "local"]
    sampan.ok("run", "-d", *free, "busybox", "sh", "-c", "seq 1 100000; exit 5")
    assert sampan.ok("wait", "free", timeout=30) == "5"
    assert sampan.api.api.inspect_container("free")["LogStatus"]["LostLines"] > 1000
    sampan.ok("rm", "free")
    written = sampan.run("run", "--rm", "busybox", "sh", "-c", f"head -c {NOISE} /dev/zero > /x && echo done")
    assert written.returncode != 0 and "done" not in written.stdout
    disk.free()
    assert sampan.ok("run", "--rm", "busybox", "echo", "works") == "works"
    sampan.engine.kill()
    sampan.engine.start()
    assert find_problems(sampan) == []
    assert sampan.ok("run", "--rm", "built:1", "sh", "-c", "wc -c < /made") == str(NOISE)


def test_a_disk_that_is_full_to_the_last_byte(small: tuple[Any, SmallDisk], find_problems: Any) -> None:
    sampan, disk = small
    sampan.ok("run", "-d", "--name", "before", "busybox", "sleep", "1000")
    disk.fill(left=0)
    for command in (
        ["volume", "create", "vol"],
        ["create", "--name", "made", "busybox"],
        ["network", "create", "net"],
    ):
        done = sampan.run(*command)
        # What needs no new block may succeed; what fails says why.
        assert done.returncode == 0 or FULL in done.stderr.lower() or "disk is full" in done.stderr.lower()
    assert sampan.ok("exec", "before", "echo", "alive") == "alive"
    assert "before" in sampan.ok("ps")
    sampan.engine.kill()
    sampan.engine.start()
    assert sampan.ok("exec", "before", "echo", "alive") == "alive"
    disk.fill(left=0)
    sampan.ok("rm", "-f", "before")  # removing has to work on a full disk, or nobody could make room
    disk.free()
    assert sampan.ok("run", "--rm", "busybox", "echo", "works") == "works"
    sampan.clean()
    assert find_problems(sampan) == []
