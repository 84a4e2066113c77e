"""`COPY --parents` and `--exclude`: the reference's examples, and the cases that BuildKit tries."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sampan.errors import NotFound
from sampan.testing.build_bench import BuildBench

pytestmark = pytest.mark.root

FILES = (
    *(
        "x/a.txt",
        "y/a.txt",
        "x/y/a.txt",
        "x/y/b.txt",
        "src/a.txt",
        "src/x/b.txt",
        "src/x/y/c.txt",
        "src/n.md",
    ),
    *("t/a/b/c/d/foo", "t/a/b/c/d/e/bay", "t/a/b2/c/d/e/bar", "t/a/b/c2/d/e/baz", "t/a/b/c2/d/e2/baz"),
    *("dir1/101.png", "dir1/102.txt", "dir2/201.pdf", "dir4/401.txt", "hom1.txt", "hom2.md", "hom3"),
)


class Bench(BuildBench):
    def __init__(self, top: Path) -> None:
        super().__init__(top)
        for name in FILES:
            self.file(name, name)
        (self.context / "dir4/402.txt").symlink_to("401.txt")
        (self.context / "out").symlink_to("src")

    def files(self, lines: str) -> set[str]:
        top = self.tree(f"FROM scratch\n{lines}\n")
        found = (path for path in top.rglob("*") if path.is_symlink() or not path.is_dir())
        return {str(path.relative_to(top)) for path in found}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("COPY --parents ./x/a.txt ./y/a.txt /p/", {"p/x/a.txt", "p/y/a.txt"}),
        ("COPY --parents ./x/./y/*.txt /p/", {"p/y/a.txt", "p/y/b.txt"}),
        ("COPY --parents ./src/**/*.txt /p/", {"p/src/a.txt", "p/src/x/b.txt", "p/src/x/y/c.txt"}),
        ("COPY --parents --exclude=src/x src /p/", {"p/src/a.txt", "p/src/n.md"}),
        ("COPY --parents --exclude=**/b.txt x/y /", {"x/y/a.txt"}),
        ("COPY --parents /t/a/b/./c/d /o/", {"o/c/d/foo", "o/c/d/e/bay"}),
        ("COPY --parents /t/a/b/c/d/. /o/", {"o/t/a/b/c/d/foo", "o/t/a/b/c/d/e/bay"}),
        ("COPY --parents ./t/a/b/c/d /o/", {"o/t/a/b/c/d/foo", "o/t/a/b/c/d/e/bay"}),
        ("COPY --parents /t/a/./b/./c /o/", {"o/b/c/d/foo", "o/b/c/d/e/bay"}),
        ("COPY --parents /t/a/./*/c /o/", {"o/b/c/d/foo", "o/b/c/d/e/bay", "o/b2/c/d/e/bar"}),
        ("COPY --parents /t/a/b*/./c/**/e /o/", {"o/c/d/e/bay", "o/c/d/e/bar"}),
        (
            "COPY --parents /t/a/b/c*/./d/**/baz /t/a/b*/./c/**/bar /o/",
            {"o/d/e/baz", "o/d/e2/baz", "o/c/d/e/bar"},
        ),
        ("COPY --parents /t/a/none*/c /o/", set()),
        ("COPY --parents /t/a/b/./none* /o/", set()),
        ("COPY --parents out /o/", {"o/out"}),
        ("COPY --parents . /o/", {f"o/{name}" for name in (*FILES, "dir4/402.txt", "out")}),
        ("COPY --parents dir4/./. /o/", {"o/401.txt", "o/402.txt"}),
        ("COPY --exclude=*.txt hom* /m/", {"m/hom2.md", "m/hom3"}),
        ("COPY --exclude=*.txt --exclude=*.md hom* /m/", {"m/hom3"}),
        ("COPY --exclude=*/*.txt --exclude=101.png dir* /m/", {"m/102.txt", "m/201.pdf", "m/401.txt", "m/402.txt"}),
        ("COPY hom1.txt /a\nCOPY none* /x/\nCOPY n[o]ne /y", {"a"}),
        ("COPY ../hom3 /../src/../dir2 /m/", {"m/hom3", "m/201.pdf"}),
        ("COPY --exclude=*.png --exclude=*.txt dir* /m/", {"m/201.pdf"}),
        ("COPY --exclude=* dir* /m/", set()),
        ("ADD --exclude=*.txt dir4/ /m/", set()),
        ("COPY --exclude=*/*.txt --exclude=*.md --exclude=t --exclude=x --exclude=src --exclude=y . /m/",
         {"m/dir1/101.png", "m/dir2/201.pdf", "m/hom1.txt", "m/hom3", "m/out"}),
    ],
)  # fmt: skip
def test_parents_and_exclusions_select_what_is_documented(
    bench: Bench, lines: str, expected: set[str]
) -> None:
    assert bench.files(lines) == expected


@pytest.mark.parametrize("source", ["nothing", "t/a/none/c", "t/a/./none", "out/a.txt"])
def test_a_path_with_parents_must_exist(bench: Bench, source: str) -> None:
    with pytest.raises(NotFound, match="file not found in build context"):
        bench.tree(f"FROM scratch\nCOPY --parents {source} /o/\n")


def test_a_pattern_that_matches_nothing_is_told(bench: Bench) -> None:
    bench.tree("FROM scratch\nCOPY hom3 /\nCOPY none* /x/\n")
    assert any("nothing matches none*" in getattr(event, "short", "") for event in bench.reader.events)


def test_parents_are_directories_like_the_sources(bench: Bench) -> None:
    (bench.context / "src/x").chmod(0o2750)
    tree = bench.tree("FROM scratch\nCOPY --parents --chown=3:4 src/x/b.txt /o/\n")
    info = (tree / "o/src/x").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o2750, 3, 4)


def test_an_ignored_file_is_not_selected_by_its_parents(bench: Bench) -> None:
    (bench.context / ".dockerignore").write_text("src/x\n!src/x/y/c.txt\n")
    assert bench.files("COPY --parents src/**/*.txt /o/") == {"o/src/a.txt", "o/src/x/y/c.txt"}


def test_other_files_with_their_parents_are_another_step(bench: Bench) -> None:
    assert bench.files("COPY --parents src/a.txt /o/") == {"o/src/a.txt"}
    assert bench.files("COPY --parents src/n.md /o/") == {"o/src/n.md"}


def test_an_exclusion_may_begin_with_a_hash(bench: Bench) -> None:
    (bench.context / "dir2/#saved#").write_text("by an editor")
    assert bench.files("COPY --exclude=#*# dir2 /o/") == {"o/201.pdf"}
    assert bench.files("COPY --parents --exclude=dir2/#saved# dir2 /o/") == {"o/dir2/201.pdf"}
