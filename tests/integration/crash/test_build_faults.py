"""Builds whose disk gets full, whose registry goes away, whose context changes under them."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

MEGABYTE = 1 << 20


class Watched:
    """A build in the background, and which of its steps it has told as done."""

    def __init__(self, sampan: Any, *arguments: str) -> None:
        self._client = sampan.start(
            "build", "--progress", "rawjson", *arguments, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        self.steps: dict[str, dict[str, Any]] = {}
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._client.stdout:
            text = line.decode("utf-8", "replace")
            self.output += text
            if not text.startswith("{"):
                continue
            for vertex in json.loads(text).get("vertexes") or ():
                self.steps.setdefault(vertex["name"], {}).update(vertex)

    def wait(self) -> int:
        code: int = self._client.wait(120)
        self._reader.join()
        return code

    @property
    def cached(self) -> set[str]:
        return {name for name, vertex in self.steps.items() if vertex.get("cached")}


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, of that size."""
    image = directory / "disk"
    with open(image, "wb") as file:
        file.truncate(megabytes * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    place = directory / "small"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(file: Path, *, leaving: int) -> None:
    """Take what is free on the file system, but so many bytes."""
    with open(file, "wb", buffering=0) as filler:
        for size in (MEGABYTE, 4096):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)):
                    pass
        filler.truncate(max(filler.tell() - leaving, 0))
        os.fsync(filler.fileno())


@pytest.fixture
def crammed_sampan(make_sampan: Any) -> Iterator[Any]:
    """An engine with 48 MB for everything."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-small-"))
    try:
        with small_disk(directory, 48) as place:
            sampan = make_sampan(place / "engine")
            try:
                yield sampan
            finally:
                sampan.close()
                sampan.engine.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("COPY large /large", "no space left on device"),
        ("RUN dd if=/dev/zero of=/large bs=1M count=80", "No space left on device"),
    ],
)
def test_a_full_disk_fails_the_step_in_clear_words_and_keeps_the_finished_ones(
    crammed_sampan: Any, tmp_path: Path, find_problems: Any, step: str, said: str
) -> None:
    sampan = crammed_sampan
    context = tmp_path / "context"
    context.mkdir()
    with open(context / "large", "wb") as file:
        file.write(os.urandom(MEGABYTE) * 80)
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN echo first > /first\n{step}\n")
    failed = sampan.run("build", "-t", "full:1", str(context), timeout=120)
    assert failed.returncode != 0
    assert said.lower() in (failed.stdout + failed.stderr).lower(), failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert sampan.ok("images", "-q", "full") == ""
    assert find_problems(sampan) == []
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo first > /first\nRUN echo second > /second\n")
    (context / "large").unlink()
    build = Watched(sampan, "-t", "full:1", str(context))
    assert build.wait() == 0, build.output
    assert any("RUN echo first" in name for name in build.cached), build.output
    assert sampan.ok("run", "--rm", "full:1", "cat", "/first", "/second") == "first\nsecond"
    assert "Traceback" not in sampan.engine.log.read_text(errors="replace")


def test_wherever_a_build_finds_the_disk_full_it_says_so_and_the_next_one_goes_on(
    crammed_sampan: Any, tmp_path: Path, find_problems: Any
) -> None:
    """With ever more space left it is the context, a snapshot, a layer, a record or the image that finds none."""
    sampan = crammed_sampan
    (tmp_path / "file").write_bytes(os.urandom(20_000))
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS one\nWORKDIR /w\nCOPY file /w/\nRUN cp /w/file /w/again\n"
        "FROM busybox\nCOPY --from=one /w /w\nRUN mkdir /many && cd /many && seq 40 | xargs touch\n"
    )
    with tarfile.open(tmp_path / "context.tar", "w") as archive:
        archive.add(tmp_path / "file", "file")
        archive.add(tmp_path / "Dockerfile", "Dockerfile")
    context = (tmp_path / "context.tar").read_bytes()
    # A compressed one is unpacked on the engine's own disk, whatever its size.
    contexts = [gzip.compress(context), context]
    filler = sampan.engine.root.parent.parent / "filler"
    sampan.ok("build", "-q", "-t", "first:1", "-", stdin=context)
    sampan.ok("rmi", "first:1")
    outcomes = []
    for free in (0, 8, 32, 128, 400):
        sampan.ok("builder", "prune", "-af")
        _fill(filler, leaving=free * 1024)
        for sent in contexts:
            done = sampan.run("build", "-t", "full:1", "-", stdin=sent, timeout=60)
            said = done.stdout + done.stderr
            outcomes.append(done.returncode == 0)
            assert done.returncode == 0 or "no space left on device" in said.lower(), (free, said)
        filler.unlink()
        assert find_problems(sampan) == []
        sampan.ok("build", "-q", "-t", "full:1", "-", stdin=context)
        assert sampan.ok("run", "--rm", "full:1", "sh", "-c", "ls /w /many | wc -l") == "45"
        sampan.ok("rmi", "full:1")
    assert not outcomes[0] and outcomes[-1]
    assert "Traceback" not in sampan.engine.log.read_text(errors="replace")


def test_a_network_that_goes_away_while_a_base_is_pulled_fails_the_build_and_leaves_nothing_half(
    fresh_sampan: Any, slow_proxy: Any, pushed: str, tmp_path: Path, find_problems: Any
) -> None:
    sampan, base = fresh_sampan, f"{slow_proxy.host}/{pushed}"
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN wc -c < /noise > /size\n")
    slow_proxy.budget, slow_proxy.cuts = 6 * MEGABYTE, 1000
    build = Watched(sampan, "-t", "cut:1", str(tmp_path))
    assert build.wait() != 0
    assert slow_proxy.reached.is_set()
    assert "Traceback" not in build.output
    assert "/blobs/sha256:" in build.output or slow_proxy.host in build.output, build.output
    assert sampan.ok("images", "-q", "cut") == ""
    assert sampan.ok("images", "-q", base) == ""
    assert find_problems(sampan) == []
    slow_proxy.budget, slow_proxy.cuts = None, 0
    assert Watched(sampan, "-t", "cut:1", str(tmp_path)).wait() == 0
    assert sampan.ok("run", "--rm", "cut:1", "cat", "/size") == str(12 * MEGABYTE)
    assert find_problems(sampan) == []


def test_a_context_that_changes_meanwhile_is_refused_or_taken_whole_and_never_poisons_the_cache(
    fresh_sampan: Any, tmp_path: Path, find_problems: Any
) -> None:
    sampan, context, ended = fresh_sampan, tmp_path / "context", threading.Event()
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\nCOPY . /c\nRUN sort -u /c/pages/* | wc -l > /lines && cat /c/pages/* | wc -l >> /lines\n"
    )
    (context / "pages").mkdir()
    pages = [context / "pages" / str(number) for number in range(40)]

    def write(generation: int) -> None:
        for page in pages:
            page.write_text(f"{generation}\n" * 1000)

    def keep_writing() -> None:
        generation = 0
        while not ended.is_set():
            generation += 1
            write(generation)

    write(0)
    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for _ in range(4):
            build = sampan.run("build", "-t", "moving:1", str(context), timeout=120)
            output = build.stdout + build.stderr
            assert "Traceback" not in output
            assert build.returncode == 0 or "changed while" in output, output
    finally:
        ended.set()
        writer.join()
    write(-1)
    sampan.ok("build", "-q", "-t", "moving:1", str(context))
    assert sampan.ok("run", "--rm", "moving:1", "cat", "/lines") == f"1\n{40 * 1000}"
    assert sampan.ok("run", "--rm", "moving:1", "sort", "-u", "/c/pages/7") == "-1"
    assert find_problems(sampan) == []
