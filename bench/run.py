"""`make bench`: sampan beside Docker and Podman, on this machine, in one run."""

from __future__ import annotations

import argparse
import compileall
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import builds
import containers
import measure
import names
import networks
import ports
import report
import volumes
from engines import VOLATILE, Contestant, start_docker, start_podman, start_registry, start_sampan
from report import Result

PROJECT = Path(__file__).resolve().parents[1]
STATE = PROJECT / ".bench"
# Packages that bring a Debian base to about 200 MB compressed.
LARGE = "python3,perl,git,g++,openssh-client,vim"

DOCKERFILE = """FROM bench/busybox
WORKDIR /app
COPY requirements.txt .
RUN mkdir -p /opt/packages && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /opt/packages/$i; done
COPY . .
RUN cat /app/main.txt > /app/built
CMD ["cat", "/app/built"]
"""


def busybox_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("bin", "tmp", "etc", "root"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "true", "sleep", "cat", "echo", "mkdir", "ls"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, text in (
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", b"root:x:0:\n"),
            (containers.LOG_FILE.lstrip("/"), containers.log_lines()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))


def build_context(path: Path) -> None:
    path.mkdir()
    (path / "Dockerfile").write_text(DOCKERFILE)
    (path / "requirements.txt").write_text("nothing\n")
    (path / "main.txt").write_text("hello\n")
    for number in range(200):
        (path / f"source{number}.txt").write_text(f"{number}\n" * 100)


def large_tar(path: Path) -> None:
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={LARGE}", "bookworm", path], check=True
    )


def versions(contestants: list[Contestant]) -> dict[str, str]:
    found = {each.name: each.run("--version").strip() for each in contestants}
    found["python"] = sys.version.split()[0]
    return found


@dataclass(frozen=True)
class Work:
    """One line of the result: what is measured how often, and the ratio to Docker that is aimed at."""

    title: str
    measure: Callable[[Contestant], float]
    repeat: int
    target: float | None = None
    unit: str = "s"
    more: bool = False
    needs_daemon: bool = False


def works(image: str, context: Path, quick: bool) -> list[Work]:
    few, many = (2, 3) if quick else (5, 15)
    return [
        Work("run --rm, bridge", lambda e: measure.run_seconds(e, "bridge"), many, 0.20),
        Work("run --rm, no network", lambda e: measure.run_seconds(e, "none"), many, 0.20),
        Work("exec", containers.exec_seconds, few, 0.35),
        Work("stop", containers.stop_seconds, few, 0.5),
        Work("rm -f of 40", containers.remove_forty_seconds, few, 0.3),
        Work("stats of 40, CPU", containers.stats_cpu_seconds, 1 if quick else 3, 0.5, needs_daemon=True),
        Work("log throughput", containers.log_megabytes_per_second, few, 1.0, "MB/s", True),
        Work("network create, rm", networks.create_and_remove_seconds, many, 0.3),
        Work("pull", lambda e: measure.pull_seconds(e, image), few, 0.35),
        Work("cold build", lambda e: measure.build_seconds(e, context, False), few),
        Work("cached build", lambda e: measure.build_seconds(e, context, True), many, 0.5),
        Work("DNS queries", names.queries_per_second, few, 1.0, "1/s", True, needs_daemon=True),
        Work("DNS p99 under that load", names.loaded_p99_microseconds, few, 1.0, "µs", needs_daemon=True),
        Work("DNS p99, 2,000/s", names.steady_p99_microseconds, few, None, "µs", needs_daemon=True),
        Work("CLI start", measure.command_seconds, many, 2.5),
        Work("start with 100 ports", ports.start_hundred_seconds, few, 0.1, needs_daemon=True),
        Work("connect, 1000 ports", ports.connect_microseconds, 1, 0.5, "µs", needs_daemon=True),
        Work("container to container", ports.between_containers_megabits, few, 0.98, "Mbit/s", True, True),
        Work("host to published port", ports.to_published_port_megabits, few, 0.98, "Mbit/s", True, True),
        Work("API", measure.requests_per_second, few, 0.8, "req/s", True, needs_daemon=True),
    ]


def run_all(contestants: list[Contestant], chosen: list[Work]) -> list[Result]:
    results: list[Result] = []
    for work in chosen:
        who = [each for each in contestants if each.socket is not None or not work.needs_daemon]
        values = measure.alternately(who, work.repeat, work.measure)
        results.append(Result(work.title, work.unit, values, work.target, work.more))
        print(f"  {work.title}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
    return results


def run_forty(start: object, prepare: object, repeat: int) -> tuple[float, float, float]:
    """(seconds of 40 starts, PSS bytes idle, PSS bytes with 40), of an engine that is alone on the machine."""
    contestant = start()  # type: ignore[operator]
    try:
        prepare(contestant)  # type: ignore[operator]
        idle = measure.proportional_bytes(measure.pids_of(contestant))
        times = []
        for number in range(repeat):
            times.append(measure.parallel_start_seconds(contestant))
            if number < repeat - 1:
                measure.remove_all(contestant)
        full = measure.proportional_bytes(measure.pids_of(contestant))
        return sorted(times)[len(times) // 2], idle, full
    finally:
        contestant.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing is written to docs/")
    parser.add_argument("--large", type=Path, help="archive of the large image, instead of making one")
    parser.add_argument(
        "--only", help="measure only what has one of these (a|b) in its title; nothing is written to docs/"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the benchmark needs root", file=sys.stderr)
        return 1
    # As an installation has it; a checkout has stale byte code after every change.
    compileall.compile_dir(PROJECT / "src", quiet=1)
    with workplace():
        return compare_all(options.large, options.quick, options.only)


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    if STATE.exists():
        shutil.rmtree(STATE)
    volatile = STATE / VOLATILE
    volatile.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", volatile], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", volatile], check=True)
        shutil.rmtree(STATE)


def compare_all(given: Path | None, quick: bool, only: str | None) -> int:
    small, large = STATE / "busybox.tar", given or STATE / "large.tar"
    busybox_tar(small)
    build_context(STATE / "context")
    address, registry = start_registry(STATE)
    image = f"{address}/bench/large:1"
    chosen = [work for work in works(image, STATE / "context", quick) if measure.is_chosen(work.title, only)]
    pulls = any(work.title == "pull" for work in chosen)
    if pulls and given is None:
        large_tar(large)
    starters = (start_sampan, start_docker, start_podman)

    def prepare(each: Contestant) -> None:
        each.run("import", str(small), "bench/busybox")

    try:
        with contextlib.ExitStack() as running:
            contestants: list[Contestant] = []
            for start in starters:
                each = start(STATE / "one")
                if each is not None:
                    running.callback(each.stop)
                    contestants.append(each)
            who = [each.name for each in contestants]
            for each in contestants:
                prepare(each)
            if pulls:
                publish(contestants[-1], large, image)
            known = versions(contestants)
            results = run_all(contestants, chosen)
            results += builds.run_all(contestants, STATE / "builds", small, 3 if quick else 5, only)
            results += volumes.run_all(contestants, STATE, 3 if quick else 5, only)
        if only is None:
            results += forty(starters, who, prepare, 1 if quick else 3)
    finally:
        registry.terminate()
        registry.wait()
    print("\n" + report.tables(results, who))
    if not quick and only is None:
        report.write(results, who, known, PROJECT / "docs")
    return 0


def publish(each: Contestant, tar: Path, image: str) -> None:
    each.run("import", str(tar), image)
    each.run("push", *each.push_options, image)
    each.run("rmi", "-f", image)


def forty(starters: tuple[object, ...], names: list[str], prepare: object, repeat: int) -> list[Result]:
    times: dict[str, float] = {}
    idle: dict[str, float] = {}
    full: dict[str, float] = {}
    for number, (start, name) in enumerate(
        (start, name)
        for start in starters
        if (name := start.__name__.removeprefix("start_")) in names  # type: ignore[attr-defined]
    ):
        root = STATE / f"forty{number}"
        times[name], idle[name], full[name] = run_forty(lambda s=start, r=root: s(r), prepare, repeat)
        print(
            f"  {name}: 40 starts {times[name]:.2f} s, idle {idle[name] / 1e6:.0f} MB, {full[name] / 1e6:.0f} MB"
        )
    return [
        Result("40 starts in parallel", "s", times, 0.25),
        Result("memory, idle engine", "MB", idle),
        Result("memory, 40 containers", "MB", full, 0.5),
    ]


if __name__ == "__main__":
    sys.exit(main())
