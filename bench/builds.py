"""Builds: sampan beside Docker's classic builder, BuildKit and buildah. Aims are ratios to the best of the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engines import Contestant, volatile_place
from measure import alternately, is_chosen, seconds
from report import Result

NEWEST = os.environ.get("SAMPAN_NEWEST_DOCKER", "").split()
"""A command that runs a `docker` with buildx on an engine of its own, where there is one (`newest` then)."""
BASE = "bench/busybox"
SMALL_FILES = 20_000
TREE_FILES, TREE_FILE = 512, 2 << 20
"""1 GB in files of 2 MB."""

DEMO = f"""FROM {BASE}
WORKDIR /app
COPY requirements.txt .
RUN mkdir -p /opt/packages && i=0; while [ $i -lt 300 ]; do echo "package $i" > /opt/packages/$i; i=$((i+1)); done
COPY . .
EXPOSE 8000
CMD ["cat", "app.py"]
"""
STAGES = 10
STAGE_WORK = "mkdir /out && i=0; while [ $i -lt 100 ]; do echo {0} $i > /out/$i; i=$((i+1)); done; cat /out/* > /result"
"""Every stage has its own number in it: builders do equal steps once."""


@dataclass(frozen=True)
class Builder:
    """A contestant and how it builds."""

    each: Contestant
    verb: tuple[str, ...] = ("build", "-q")

    @property
    def name(self) -> str:
        return self.each.name

    def build(self, context: Path, *options: str) -> None:
        self.each.run(*self.verb, *options, "-t", f"bench/{context.name}", str(context))


@dataclass(frozen=True)
class Work:
    """`prepare` is not timed; both get the contestant's own copy of the context."""

    title: str
    make: Callable[[Path], None]
    target: float
    prepare: Callable[[Path], None] = lambda _context: None
    options: tuple[str, ...] = ()


def builders(contestants: list[Contestant], state: Path) -> Iterator[Builder]:
    """Docker's daemon has both of its builders; buildah stands for Podman, which builds with it."""
    for each in contestants:
        if each.name == "podman":
            continue
        yield Builder(each)
        if each.name == "docker":
            embedded = {**each.environment, "DOCKER_BUILDKIT": "1"}
            yield Builder(replace(each, name="buildkit", environment=embedded))
    if NEWEST:
        yield Builder(Contestant("newest", NEWEST))
    if shutil.which("buildah"):
        yield _buildah(state)


def _buildah(state: Path) -> Builder:
    root, run = state / "buildah", volatile_place(state, "buildah")
    command = ["buildah", "--root", str(root), "--runroot", str(run), "--storage-driver", "overlay"]
    return Builder(Contestant("buildah", command), ("bud", "-q", "--layers", "--runtime", "runc"))


def import_base(builder: Builder, tar: Path) -> None:
    """The others have got it already."""
    if builder.name == "newest":
        builder.each.run("import", str(tar), BASE)
    if builder.name == "buildah":
        container = builder.each.run("from", "scratch").strip()
        builder.each.run("add", container, str(tar), "/")
        builder.each.run("commit", "-q", container, BASE)
        builder.each.run("rm", container)


def works() -> list[Work]:
    return [
        Work("build: demo, cold", _demo, 0.5, options=("--no-cache",)),
        Work("build: demo, unchanged", _demo, 0.3),
        Work("build: demo, one line changed", _demo, 0.4, _change_line),
        Work("build: ten stages", _stages, 0.5, options=("--no-cache",)),
        Work("build: 20,000 files, unchanged", _small_files, 0.3),
        Work("build: COPY of 1 GB, one file new", _large_tree, 0.6, _change_file),
    ]


def run_all(
    contestants: list[Contestant], state: Path, base: Path, repeat: int, only: str | None
) -> list[Result]:
    """Every contestant has each context for itself, and has built it once before anything is measured."""
    chosen = [work for work in works() if is_chosen(work.title, only)]
    results: list[Result] = []
    with _prepared(contestants, state, base) as all_builders:
        for work in chosen:
            contexts = {each.name: state / "contexts" / each.name / "app" for each in all_builders}
            for builder in all_builders:
                work.make(contexts[builder.name])
                builder.build(contexts[builder.name])

            def measure(each: Contestant, work: Work = work, contexts: dict[str, Path] = contexts) -> float:
                builder = next(builder for builder in all_builders if builder.each is each)
                work.prepare(contexts[each.name])
                os.sync()  # nobody writes what another one has left
                return seconds(lambda: builder.build(contexts[each.name], *work.options))

            values = alternately([builder.each for builder in all_builders], repeat, measure)
            results.append(Result(work.title, "s", values, work.target, best=True))
            print(f"  {work.title}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
            shutil.rmtree(state / "contexts")
    return results


@contextmanager
def _prepared(contestants: list[Contestant], state: Path, base: Path) -> Iterator[list[Builder]]:
    state.mkdir(parents=True, exist_ok=True)
    all_builders = list(builders(contestants, state))
    for builder in all_builders:
        import_base(builder, base)
    try:
        yield all_builders
    finally:
        for builder in all_builders:
            if builder.name == "newest":
                builder.each.run("rmi", "-f", "bench/app", BASE)
            if builder.name == "buildah":
                builder.each.run("rmi", "-a", "-f")
                subprocess.run(["umount", str(state / "buildah" / "overlay")], capture_output=True)


def _demo(context: Path) -> None:
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(DEMO)
    (context / "requirements.txt").write_text("flask==3.0.0\nredis==5.0.1\n")
    (context / "app.py").write_text("print('hello')\n" * 100)
    for number in range(200):
        (context / f"module{number}.py").write_text(f"VALUE = {number}\n" * 100)


def _change_line(context: Path) -> None:
    with (context / "app.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")


def _stages(context: Path) -> None:
    context.mkdir(parents=True)
    lines = [f"FROM {BASE} AS s{number}\nRUN {STAGE_WORK.format(number)}" for number in range(STAGES)]
    lines.append(f"FROM {BASE}")
    lines += [f"COPY --from=s{number} /result /r{number}" for number in range(STAGES)]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")


def _small_files(context: Path) -> None:
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(f"FROM {BASE}\nCOPY . /src\n")
    for number in range(SMALL_FILES):
        directory = context / f"package{number // 100}"
        if number % 100 == 0:
            directory.mkdir()
        (directory / f"file{number}.js").write_text(f"exports.value = {number};\n" * (1 + number % 60))


def _large_tree(context: Path) -> None:
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(f"FROM {BASE}\nCOPY . /data\n")
    for number in range(TREE_FILES):
        directory = context / f"part{number // 32}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}.bin").write_bytes(os.urandom(TREE_FILE))


def _change_file(context: Path) -> None:
    (context / "part0" / "0.bin").write_bytes(os.urandom(TREE_FILE))
