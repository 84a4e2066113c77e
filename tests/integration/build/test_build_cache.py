"""The build cache of a whole engine: what it takes, what explains it, and what goes when."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

MEGABYTE = 1 << 20


def build(sampan: Any, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = sampan.run("build", *arguments, "-", stdin=text.encode())
    return done


def entries(sampan: Any) -> list[dict[str, Any]]:
    return json.loads(json.dumps(sampan.api.api.df()["BuildCache"]))  # type: ignore[no-any-return]


def disk(path: Path) -> int:
    """Apparent bytes of everything below, as du says; directories themselves left out."""
    found = subprocess.run(
        ["find", str(path), "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True
    )
    return sum(int(line) for line in found.stdout.split())


STEPS = """FROM busybox
RUN head -c 3145728 /dev/zero > /three
RUN --mount=type=cache,id=packages,target=/c head -c 2097152 /dev/zero > /c/two && head -c 1048576 /dev/zero > /one
"""


def test_every_byte_of_the_cache_is_explained_and_goes_when_it_is_asked_for(fresh_sampan: Any) -> None:
    assert build(fresh_sampan, STEPS, "-t", "kept").returncode == 0
    found = {item["Description"]: item for item in entries(fresh_sampan)}
    mount = found["cached mount packages"]
    assert (mount["Type"], mount["Size"]) == ("exec.cachemount", disk(fresh_sampan.engine.root / "caches"))
    three = next(item for name, item in found.items() if "/three" in name)
    assert (three["Type"], three["Size"], three["Shared"]) == ("regular", 3 * MEGABYTE, True)
    # What an image has too is not dangling: only the cache mount goes without --all.
    out = fresh_sampan.ok("builder", "prune", "-f")
    assert "Total reclaimed space: 2.097MB" in out
    assert disk(fresh_sampan.engine.root / "caches") == 0
    assert build(fresh_sampan, STEPS).stdout.count("Using cache") == 2
    # Without the image the bytes are the cache's own, and agree with the disk.
    fresh_sampan.ok("rmi", "kept")
    sizes = sum(item["Size"] for item in entries(fresh_sampan) if not item["Shared"])
    image = json.loads(fresh_sampan.ok("image", "inspect", "busybox:latest"))[0]
    layers = fresh_sampan.engine.root / "layers"
    own = [each for each in layers.iterdir() if f"sha256:{each.name}" not in image["RootFS"]["Layers"]]
    assert sizes == sum(disk(each / "fs") for each in own) == 4 * MEGABYTE
    table = fresh_sampan.ok("builder", "du", "--verbose")
    assert table.split()[-2:] == ["Total:", "4.194MB"]
    # The step used longest ago goes first, and only as much as it takes.
    assert build(fresh_sampan, STEPS.partition("RUN --mount")[0]).returncode == 0
    fresh_sampan.ok("image", "prune", "-f")
    fresh_sampan.ok("builder", "prune", "-f", "--max-used-space", "3500000")
    assert sum(item["Size"] for item in entries(fresh_sampan)) == 3 * MEGABYTE
    assert "Total reclaimed space: 3.146MB" in fresh_sampan.ok("builder", "prune", "-af")
    assert entries(fresh_sampan) == []


def test_filters_that_do_not_exist_are_refused_and_those_that_do_choose(sampan: Any) -> None:
    assert "invalid filter 'colour'" in sampan.run("builder", "prune", "-f", "--filter", "colour=red").stderr
    sampan.ok("builder", "prune", "-af")
    assert build(sampan, STEPS).returncode == 0
    image = sampan.ok("images", "-q", "--filter", "dangling=true").split()
    sampan.ok("builder", "prune", "-f", "--filter", "type=exec.cachemount")
    assert {item["Type"] for item in entries(sampan)} == {"regular"}
    sampan.ok("builder", "prune", "-af", "--filter", "until=1h")
    assert len(entries(sampan)) == 2
    ids = [item["ID"] for item in entries(sampan)]
    sampan.ok("builder", "prune", "-af", "--filter", f"id={ids[0]}")
    assert [item["ID"] for item in entries(sampan)] == ids[1:]
    assert sampan.run("builder", "prune", stdin=b"n\n").stdout.endswith("[y/N] ")
    assert len(entries(sampan)) == 1
    for each in image:
        sampan.run("rmi", each)


def test_a_step_under_way_keeps_its_cache_mount(fresh_sampan: Any, wait_until: Callable[..., None]) -> None:
    text = (
        "FROM busybox\nRUN --mount=type=cache,id=busy,target=/c echo here > /c/file"
        " && while ! test -e /c/go; do usleep 20000; done && cat /c/file > /got\n"
    )
    running = fresh_sampan.start("build", "-t", "got", "-")
    running.stdin.write(text.encode())
    running.stdin.close()
    caches = fresh_sampan.engine.root / "caches"
    wait_until(lambda: list(caches.glob("*/file")), "the step has written")
    (mount,) = [item for item in entries(fresh_sampan) if item["Type"] == "exec.cachemount"]
    assert mount["InUse"]
    # What other builds have left goes meanwhile: there may always be one under way.
    assert build(fresh_sampan, "FROM busybox\nRUN head -c 1048576 /dev/zero > /other\n").returncode == 0
    fresh_sampan.ok("image", "prune", "-f")
    before = disk(fresh_sampan.engine.root / "layers")
    assert "Total reclaimed space: 1.049MB" in fresh_sampan.ok("builder", "prune", "-af")
    assert before - disk(fresh_sampan.engine.root / "layers") >= MEGABYTE
    (written,) = caches.glob("*/file")
    (written.parent / "go").touch()
    assert running.wait(60) == 0
    running.stdout.close()
    running.stderr.close()
    assert fresh_sampan.ok("run", "--rm", "got", "cat", "/got") == "here"
    fresh_sampan.ok("builder", "prune", "-af")
    assert entries(fresh_sampan) == []
    assert not list(caches.glob("*/file"))


def test_builds_and_prunes_at_the_same_time_fail_none_and_leave_nothing(
    fresh_sampan: Any, tmp_path: Path
) -> None:
    ways = (
        ("-t", "named"),
        ("--cache-to", f"type=local,dest={tmp_path}/c,mode=max,mounts=true"),
        ("--cache-from", f"type=local,src={tmp_path}/c"),
        ("-o", f"type=tar,dest={tmp_path}/out.tar"),
    )
    prunes = (("builder", "prune", "-af"), ("image", "prune", "-f"), ("rmi", "-f", "named"), ("system", "df"))
    ended, failed = threading.Event(), list[str]()

    def builds(number: int) -> None:
        for round_ in range(6):
            text = (
                f"FROM busybox AS a\nRUN echo {round_ % 2} > /a\n"
                f"RUN --mount=type=cache,id=m{number % 2},target=/m echo x >> /m/f; echo {round_} > /b\n"
                "FROM busybox\nCOPY --from=a /a /b /\nRUN --mount=from=a,target=/x cat /x/a /x/b > /c\n"
            )
            done = build(fresh_sampan, text, *ways[(number + round_) % len(ways)])
            if done.returncode:
                failed.append(done.stdout + done.stderr)

    def prune() -> None:
        while not ended.is_set():
            for words in prunes:
                done = fresh_sampan.run(*words)
                if done.returncode and words[0] != "rmi":  # it may not be there
                    failed.append(done.stderr)

    builders = [threading.Thread(target=builds, args=(number,)) for number in range(3)]
    pruning = threading.Thread(target=prune)
    for thread in (*builders, pruning):
        thread.start()
    for thread in builders:
        thread.join()
    ended.set()
    pruning.join()
    assert failed == []
    fresh_sampan.run("rmi", "-f", "named")
    fresh_sampan.ok("image", "prune", "-f")
    fresh_sampan.ok("builder", "prune", "-af")
    (base,) = json.loads(fresh_sampan.ok("image", "inspect", "busybox"))[0]["RootFS"]["Layers"]
    assert [f"sha256:{path.name}" for path in (fresh_sampan.engine.root / "layers").iterdir()] == [base]
    assert not list((fresh_sampan.engine.root / "caches").iterdir())


def test_the_collection_runs_after_a_build_by_the_daemons_own_rules(
    make_sampan: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    policy = {"gc": {"enabled": True, "policy": [{"maxUsedSpace": "3500000", "all": True}]}}
    sampan = make_sampan(tmp_path / "engine", config={"builder": policy})
    try:
        assert build(sampan, STEPS, "-t", "once").returncode == 0
        sampan.ok("rmi", "once")
        assert build(sampan, "FROM busybox\nLABEL a=b\n").returncode == 0
        wait_until(
            lambda: sum(each["Size"] for each in entries(sampan) if not each["Shared"]) <= 3_500_000,
            "the collection has made room",
        )
        assert "build cache:" in sampan.engine.log.read_text()
    finally:
        sampan.close()
        sampan.engine.stop()


def test_a_daemon_killed_while_it_prunes_leaves_a_cache_that_serves(
    fresh_sampan: Any, wait_until: Callable[..., None]
) -> None:
    many = (
        "FROM busybox\nRUN --mount=type=cache,id=many,target=/c cd /c && seq 20000 | xargs touch\n"
        + STEPS[13:]
    )
    assert build(fresh_sampan, many, "-t", "many").returncode == 0
    caches = fresh_sampan.engine.root / "caches"
    pruning = fresh_sampan.start("builder", "prune", "-af")
    wait_until(lambda: list(caches.glob("remove-*")), "the removal has begun")
    fresh_sampan.engine.kill()
    pruning.communicate(timeout=60)
    fresh_sampan.engine.start()
    assert not list(caches.glob("remove-*"))
    assert build(fresh_sampan, many, "-t", "many").returncode == 0
    assert fresh_sampan.ok("run", "--rm", "many", "wc", "-c", "/three").split()[0] == "3145728"


def test_a_cache_mount_travels_as_an_archive(sampan: Any, tmp_path: Path) -> None:
    fill = "FROM busybox\nRUN --mount=type=cache,id=moving,target=/c echo treasure > /c/chest && chmod 640 /c/chest\n"
    assert build(sampan, fill).returncode == 0
    archive = tmp_path / "mount.tar"
    sampan.ok("builder", "export-mount", "moving", "-o", str(archive))
    sampan.ok("builder", "import-mount", "moved", str(archive))
    look = (
        "FROM busybox\nRUN --mount=type=cache,id=moved,target=/c"
        " stat -c %a /c/chest > /got && cat /c/chest >> /got\n"
    )
    assert build(sampan, look, "-t", "moved").returncode == 0
    assert sampan.ok("run", "--rm", "moved", "cat", "/got").split() == ["640", "treasure"]
    # What is no archive changes nothing, and what does not exist is not exported.
    done = sampan.run("builder", "import-mount", "moved", "-", stdin=b"no archive at all" * 100)
    assert done.returncode != 0
    assert build(sampan, look, "--no-cache", "-t", "moved").returncode == 0
    owned = (
        "FROM busybox\nRUN --mount=type=cache,id=owned,target=/c,uid=7,mode=700 "
        "cat /c/chest; echo mine > /c/chest; stat -c 'of %u' /c\n"
    )
    assert build(sampan, owned, "--no-cache").returncode == 0
    sampan.ok("builder", "export-mount", "owned", "-o", str(archive))
    assert build(sampan, owned.replace("mine", "other"), "--no-cache").returncode == 0
    sampan.ok("builder", "import-mount", "owned", str(archive))
    done = build(sampan, owned, "--no-cache")
    assert "mine\nof 7" in done.stdout
    assert build(sampan, owned.replace("uid=7", "uid=8"), "--no-cache").returncode == 0
    assert "several cache mounts have the id owned" in sampan.run("builder", "export-mount", "owned").stderr
    assert "No such cache mount: nobody" in sampan.run("builder", "export-mount", "nobody").stderr
    assert not list((sampan.engine.root / "caches").glob("remove-*"))


def test_the_command_line_names_stages_that_take_nothing_from_the_cache(sampan: Any) -> None:
    text = "FROM busybox AS one\nRUN echo filtered > /x\nFROM busybox\nRUN echo other > /y\nCOPY --from=one /x /z\n"
    assert build(sampan, text).returncode == 0
    again = build(sampan, text, "--no-cache-filter", "One")
    assert (again.returncode, again.stdout.count("Using cache")) == (0, 2)
    assert build(sampan, text).stdout.count("Using cache") == 3
