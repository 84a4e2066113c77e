"""Whatever changes between two builds: with a cache comes out what a builder that has never built anything makes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.build.errors import SourceChanged
from sampan.build.model import RunLimits
from sampan.build.worker import RunMount, RunRequest
from sampan.errors import SampanError
from sampan.testing.build_bench import BuildBench

pytestmark = pytest.mark.root

ROUNDS = 80
NAMES = ("a", "b", "a[b]", "new\nline", "sp ace", "d/x", "d/e/y", "d/e/z", "empty", "link", "other.log")
NEEDED = ("a", "b", "a[b]", "d/x", "d/e/y")
"""What lines name: without them nothing is built."""
Output = Callable[[int, bytes], None]


_TARGETS = ("/t/", "/v/", "/u/", "t/", "/etc/")
LINES: dict[str, dict[str, tuple[str, ...]]] = {
    "COPY": {
        "kind": ("COPY",),
        "word": ("COPY", "ADD"),
        "chown": ("", "", "--chown=web", "--chown=7:ops", "--chown=0"),
        "chmod": ("", "", "--chmod=700", "--chmod=u+x"),
        "exclude": ("", "", "--exclude=x", "--exclude=e"),
        "link": ("", "", "--link"),
        "source": ("a", "a b", "d", "d/", "d/*", ".", "a*", "?", "link", "empty", "d/e/.."),
        "target": _TARGETS,
    },
    "COPY --from": {
        "kind": ("COPY --from",),
        "word": ("COPY --from=one",),
        "chown": ("", "--chown=web"),
        "exclude": ("", "--exclude=c/x", "--exclude=x"),
        "link": ("", "--link"),
        "parents": ("", "", "--parents"),
        "source": ("c/a", "c/a*", "c/d", "c/a[[]b]", "c", "c/?", "c/link"),
        "target": _TARGETS,
    },
    "COPY <<": {
        "kind": ("COPY <<",),
        "word": ("COPY <<E /t/\n$A\nE", "COPY <<'E' /t/\n$A\nE", "COPY <<F /t/\n$A\nF", 'COPY ["new\\nline", "/n"]',
                 "COPY --parents d/./e a /p/"),
    },
    "RUN": {
        "kind": ("RUN",),
        "word": ("RUN",),
        "mount": (
            "",
            "--mount=target=/m",
            "--mount=target=/m,source=d",
            "--mount=target=/m,source=d,rw",
            "--mount=target=/m,source=a[b]",
            "--mount=target=/m,from=one,source=c/d",
            "--mount=target=/m,from=one,source=c/a[b]",
        ),
        "other": ("", "--mount=type=cache,target=/cache", "--mount=type=tmpfs,target=/s,size=5m", "--network=none"),
        "command": ("echo x", "echo y"),
    },
    "state": {
        "kind": ("state",),
        "word": (
            *("ENV E=1", "ENV E=2 F=$A", "ENV F=$B E=1", "ENV A=3", "ARG A=5", "ARG C=$A", "LABEL a=b"),
            *("WORKDIR /w", "WORKDIR /", "WORKDIR v", "USER web", "USER 0:ops", 'SHELL ["/bin/bash", "-c"]'),
        ),
    },
}  # fmt: skip
"""The parts that lines are made of, in their order, and what there is to choose for each."""


def _written(line: dict[str, str]) -> str:
    return " ".join(text for part, text in line.items() if text and part != "kind")


def describe(top: Path) -> list[tuple[str, int, int, int, str]]:
    """All that a tree is, but its times."""
    rows = []
    for path in sorted([top, *top.rglob("*")], key=str):
        info = path.lstat()
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        rows.append((str(path.relative_to(top)), info.st_mode, info.st_uid, info.st_gid, content))
    return rows


def _shown(mount: RunMount) -> list[object]:
    shown: list[object] = [mount.kind, mount.target, mount.readonly, mount.size]
    if mount.kind == "bind" and mount.base >= 0 and not mount.target.startswith("/cache"):
        path = Path(f"/proc/self/fd/{mount.base}").resolve() / mount.path
        shown.append(path.read_text() if path.is_file() else describe(path)[1:])
    elif mount.source:
        shown.append(Path(mount.source).read_text())
    return shown


def witness(root: Path, request: RunRequest, output: Output) -> int:
    """A command that writes down all that it could have seen, but what a cache does not count."""
    seen = [
        request.args,
        [pair for pair in request.env if "PROXY" not in pair.upper()],
        request.cwd,
        request.user,
        request.network,
        request.extra_hosts,
        request.shm_size,
        request.limits.ulimits,
        request.architecture,
        request.insecure,
        [_shown(mount) for mount in request.mounts],
        describe(root)[1:],
    ]
    word = request.args[-1].split()[-1]
    (root / f"witness-{word}").write_text(json.dumps(seen))
    return 0


@dataclass
class World:
    """A context that changes, and a Dockerfile with the options of a build."""

    chance: random.Random
    context: Path
    options: dict[str, object] = field(default_factory=dict)
    lines: list[dict[str, str]] = field(default_factory=list)
    """What was chosen for each part of each line, see `LINES`."""

    def begin(self) -> None:
        for name in NAMES:
            self._put(name, "1")
        self.lines = [self._line() for _ in range(5)]

    def change(self) -> None:
        """One thing, mostly; sometimes nothing."""
        match self.chance.randrange(12):
            case 0:
                self.lines[self.chance.randrange(len(self.lines))] = self._line()
            case 1 | 2:
                self.options = self._chosen_options()
            case 3:
                self.chance.shuffle(self.lines)
            case 4 | 5 | 6 | 7:
                line = self.chance.choice(self.lines)
                part = self.chance.choice(list(line))
                line[part] = self.chance.choice(LINES[line["kind"]][part])
            case _:
                self._change_file()

    def dockerfile(self) -> str:
        stage = "FROM base AS one\nCOPY . /c\nRUN echo stage\n"
        return stage + "FROM base\nARG A=1\nARG B\n" + "\n".join(map(_written, self.lines)) + "\n"

    def _line(self) -> dict[str, str]:
        kind = self.chance.choice(list(LINES))
        return {part: self.chance.choice(values) for part, values in LINES[kind].items()}

    def _put(self, name: str, text: str) -> None:
        path = self.context / name
        self._clear(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _clear(self, path: Path) -> None:
        for parent in list(path.parents)[::-1]:
            if (self.context in parent.parents and parent.is_symlink()) or parent.is_file():
                parent.unlink()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _change_file(self) -> None:
        name = self.chance.choice(NAMES)
        path = self.context / name
        match self.chance.randrange(9):
            case 0 | 1:
                self._put(name, self.chance.choice("123"))
            case 2 if name not in NEEDED:
                self._clear(path)
            case 3:
                self._clear(path)
                path.mkdir(parents=True)
            case 4:
                self._clear(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(
                    "nowhere" if name not in NEEDED else self.chance.choice(("/b", "/d", "/empty"))
                )
            case 5 if path.exists():
                path.chmod(self.chance.choice((0o600, 0o644, 0o755, 0o4755)))
            case 6 if path.is_file():
                # Other content under the same size and time.
                before = path.stat()
                path.write_text(self.chance.choice("123"))
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            case 7:
                rules = self.chance.choice(("", "*.log", "d/e", "**/y\n!d/e/y", "a*", "d\n!d/e"))
                (self.context / ".dockerignore").write_text(rules)
            case _ if path.exists():
                os.utime(path, (self.chance.randrange(10**9),) * 2)

    def _chosen_options(self) -> dict[str, object]:
        choose = self.chance.choice
        return {
            "build_args": choose(
                ({}, {"A": "2"}, {"A": "", "B": "x"}, {"B": "x", "HTTP_PROXY": choose("xy")})
            ),
            "network": choose(("", "default", "none")),
            "extra_hosts": choose(((), ("h:1.1.1.1",), ("h:1.1.1.2",))),
            "shm_size": choose((0, 0, 1 << 20)),
            "limits": choose(
                (RunLimits(), RunLimits(memory=1 << 20), RunLimits(ulimits=(("nofile", 9, 9),)))
            ),
        }


@pytest.mark.parametrize("seed", range(2))
def test_a_build_with_a_cache_gives_what_a_build_without_one_gives(tmp_path: Path, seed: int) -> None:
    (tmp_path / "kept").mkdir()
    bench = BuildBench(tmp_path / "kept", witness)
    world = World(random.Random(seed), bench.context)
    world.begin()
    built = hits = 0
    for number in range(ROUNDS):
        for _ in range(2):
            world.change()
        fresh_place = tmp_path / f"fresh{number}"
        fresh_place.mkdir()
        fresh = BuildBench(fresh_place, witness)
        fresh.context.rmdir()
        fresh.context = bench.context
        results: list[object] = []
        for one in (bench, fresh):
            try:
                results.append(describe(one.tree(world.dockerfile(), **world.options)))
            except SampanError as error:
                assert not isinstance(error, SourceChanged)
                results.append((type(error), str(error)))
        assert results[0] == results[1], f"round {number}\n{world.dockerfile()}\n{world.options}"
        built += isinstance(results[0], list)
        hits += bench.text.count("Using cache")
        shutil.rmtree(fresh_place)
    assert built > ROUNDS // 5 and hits > ROUNDS, (built, hits)
