"""Named contexts (`--build-context`) in whole builds over plain directories; root because owners are set."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sampan.build.files.context import Context
from sampan.build.worker import TransferReport
from sampan.errors import NotFound, Unsupported
from sampan.testing.build_bench import BuildBench

pytestmark = pytest.mark.root


class Opener:
    """Contexts are directories beside each other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[tuple[str, str]] = []

    def open_context(
        self, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Context:
        self.opened.append((name, value))
        try:
            return Context(os.open(self.root / value, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise NotFound(f"no context {value}") from error


class Bench(BuildBench):
    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.root = tmp_path
        for name in ("base", "other", "alpine:latest"):
            self.worker.add_image(name, {"/name": name})
        self.contexts = Opener(tmp_path)
        self.opener = self.contexts

    def with_contexts(self, dockerfile: str, contexts: dict[str, str]) -> Path:
        return self.tree(dockerfile, contexts=contexts)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM base\nCOPY --from={} /name /found\n",
        "FROM {}\nRUN write /found other\n",
        "FROM {} AS x\nFROM base\nCOPY --from=x /name /found\n",
    ],
)
@pytest.mark.parametrize("written", ["alpine", "alpine:latest", "docker.io/library/alpine"])
def test_an_image_takes_the_place_of_another(bench: Bench, dockerfile: str, written: str) -> None:
    tree = bench.with_contexts(dockerfile.format(written), {"alpine": "docker-image://other"})
    assert (tree / "found").read_text() == "other"
    # Another tag is another name.
    with pytest.raises(NotFound):
        bench.with_contexts("FROM alpine:3\nRUN true\n", {"alpine": "docker-image://other"})


def test_a_context_takes_the_place_of_a_whole_stage(bench: Bench) -> None:
    dockerfile = (
        "FROM base AS deps\nRUN exit 9\nFROM deps AS more\nRUN write /more 1\n"
        "FROM base\nCOPY --from=deps /name /n\nCOPY --from=more /more /\n"
    )
    tree = bench.with_contexts(dockerfile, {"deps": "docker-image://other"})
    assert ((tree / "n").read_text(), (tree / "more").read_text()) == ("other", "1")


def test_files_come_from_a_context_that_is_opened_once_and_cached_by_content(bench: Bench) -> None:
    source = bench.root / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub/a").write_text("a")
    (source / "left.out").write_text("x")
    (source / ".dockerignore").write_text("*.out\n")
    contexts = {"src": "src"}
    dockerfile = "FROM base\nCOPY --from=src sub /sub\nCOPY --from=src . /all\n"
    tree = bench.with_contexts(dockerfile, contexts)
    assert bench.contexts.opened == [("src", "src")]
    assert (tree / "sub/a").read_text() == "a"
    assert sorted(path.name for path in (tree / "all").iterdir()) == [".dockerignore", "sub"]
    made = bench.worker.snapshots_made
    os.utime(source / "sub/a", (1, 1))
    bench.with_contexts(dockerfile, contexts)
    assert bench.worker.snapshots_made == made
    (source / "sub/a").write_text("b")
    assert (bench.with_contexts(dockerfile, contexts) / "all/sub/a").read_text() == "b"
    # It may also be what a stage begins with.
    assert (
        bench.with_contexts("FROM src\nCOPY --from=base /name /\n", contexts) / "sub/a"
    ).read_text() == "b"


def test_a_context_that_nothing_needs_is_not_opened_and_one_that_cannot_be_opened_is_told(
    bench: Bench,
) -> None:
    bench.with_contexts("FROM base\nRUN true\n", {"gone": "gone"})
    assert bench.contexts.opened == []
    with pytest.raises(NotFound, match="no context gone"):
        bench.with_contexts("FROM base\nCOPY --from=gone a /\n", {"gone": "gone"})
    bench.opener = None
    with pytest.raises(Unsupported, match="src=src"):
        bench.build("FROM src\n", contexts={"src": "src"})
