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
from collections.abc import Iterator
from pathlib import Path

import measure
import report
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
        for name, text in (("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", b"root:x:0:\n")):
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


def run_all(contestants: list[Contestant], registry: str, quick: bool) -> list[Result]:
    few, many = (2, 3) if quick else (5, 15)
    with_daemon = [each for each in contestants if each.socket is not None]
    context = STATE / "context"
    build_context(context)
    image = f"{registry}/bench/large:1"
    results: list[Result] = []

    def record(result: Result) -> None:
        results.append(result)
        print(f"  {result.title}: " + ", ".join(f"{k} {v:.4g}" for k, v in result.values.items()), flush=True)

    def compare(title: str, repeat: int, work: object, target: float | None, who: list[Contestant]) -> None:
        record(Result(title, "s", measure.alternately(who, repeat, work), target))  # type: ignore[arg-type]

    compare("run --rm, bridge", many, lambda e: measure.run_seconds(e, "bridge"), 0.20, contestants)
    compare("run --rm, no network", many, lambda e: measure.run_seconds(e, "none"), 0.20, contestants)
    compare("pull", few, lambda e: measure.pull_seconds(e, image), 0.35, contestants)
    compare("cold build", few, lambda e: measure.build_seconds(e, context, False), None, contestants)
    compare("cached build", many, lambda e: measure.build_seconds(e, context, True), 0.5, contestants)
    compare("CLI start", many, measure.command_seconds, 2.5, contestants)
    record(
        Result("API", "req/s", measure.alternately(with_daemon, few, measure.requests_per_second), 0.8, True)
    )
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
    options = parser.parse_args()
    quick: bool = options.quick
    if os.geteuid() != 0:
        print("the benchmark needs root", file=sys.stderr)
        return 1
    # As an installation has it; a checkout has stale byte code after every change.
    compileall.compile_dir(PROJECT / "src", quiet=1)
    with workplace():
        return compare_all(options.large, quick)


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


def compare_all(given: Path | None, quick: bool) -> int:
    small, large = STATE / "busybox.tar", given or STATE / "large.tar"
    busybox_tar(small)
    if given is None:
        large_tar(large)
    address, registry = start_registry(STATE)
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
            names = [each.name for each in contestants]
            for each in contestants:
                prepare(each)
            publish(contestants[-1], large, f"{address}/bench/large:1")
            known = versions(contestants)
            results = run_all(contestants, address, quick)
        results += forty(starters, names, prepare, 1 if quick else 3)
    finally:
        registry.terminate()
        registry.wait()
    print("\n" + report.table(results, names))
    if not quick:
        report.write(results, names, known, PROJECT / "docs")
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
