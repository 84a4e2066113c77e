"""What is found in the cache again and what is not, over plain directories; root because owners are set."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.build.errors import RunFailed
from sampan.build.events import Explanation
from sampan.build.worker import RunRequest
from sampan.oci.image import ContainerDefaults
from sampan.testing.build_bench import BASE_FILES, BuildBench, paths

pytestmark = pytest.mark.root


def test_a_cached_rebuild_does_no_work_and_gives_the_same_image(bench: BuildBench) -> None:
    bench.file("a.txt")
    dockerfile = (
        "FROM base AS one\nWORKDIR /w\nRUN write /made x\n"
        "FROM base\nCOPY a.txt /\nCOPY --from=one /made /\nENV A=1\n"
    )
    first = bench.build(dockerfile)
    counts = (bench.worker.snapshots_made, bench.worker.roots_opened, bench.worker.images_made)
    rows = dict(bench.table.rows)
    assert bench.build(dockerfile) == first
    assert (bench.worker.snapshots_made, bench.worker.roots_opened, bench.worker.images_made) == counts
    assert bench.table.rows == rows
    assert bench.text.count(" ---> Using cache") == 5


def test_a_touched_file_hits_and_a_changed_one_misses(bench: BuildBench) -> None:
    target = bench.file("a.txt", "one")
    first = bench.build("FROM base\nCOPY a.txt /\n")
    os.utime(target, (1, 1))
    assert bench.build("FROM base\nCOPY a.txt /\n") == first
    target.write_text("two")
    assert bench.build("FROM base\nCOPY a.txt /\n") != first
    assert "Using cache" not in bench.text


def test_what_is_not_content_does_not_count(bench: BuildBench) -> None:
    bench.file("a.txt")
    steps = "RUN write /x 1\nWORKDIR /w\nCOPY a.txt /\n"
    bench.build("FROM base\n" + steps)
    bench.worker.add_image("base", BASE_FILES, ContainerDefaults(labels={"made": "again"}))
    counts = (bench.worker.snapshots_made, len(bench.worker.runs))
    image = bench.build('FROM base\nLABEL a=b\nMAINTAINER me\nCMD ["x"]\nEXPOSE 80\n' + steps)
    assert (bench.worker.snapshots_made, len(bench.worker.runs)) == counts
    assert bench.worker.images[image].config.labels == {"made": "again", "a": "b"}
    bench.build("FROM base\n" + steps, network="default")
    assert (bench.worker.snapshots_made, len(bench.worker.runs)) == counts
    # What RUN could see counts, and COPY goes on a layer that it made.
    for line in ("ENV E=1\n", "ARG V=1\n", "USER web\n"):
        runs = len(bench.worker.runs)
        bench.build("FROM base\n" + line + steps)
        assert len(bench.worker.runs) == runs + 1, line
    for flag in ("--chown=1", "--chmod=600"):
        made = bench.worker.snapshots_made
        bench.build("FROM base\n" + steps.replace("COPY", f"COPY {flag}"))
        assert bench.worker.snapshots_made == made + 1, flag


def test_what_only_looks_alike_is_not_taken_from_the_cache(bench: BuildBench) -> None:
    """CVE-2024-24557: images with equal configuration and history, files with equal metadata, but other content."""
    bench.worker.add_image("good", {"/tool": "good"})
    bench.worker.add_image("evil", {"/tool": "evil"})
    for options in ({}, {"no_cache": True}):
        bench.build("FROM evil\nRUN write /x 1\nCOPY --from=evil /tool /t\n", **options)
    assert "Using cache" not in bench.text
    tree = bench.tree("FROM good\nRUN write /x 1\nCOPY --from=good /tool /t\n")
    assert "Using cache" not in bench.text
    assert ((tree / "tool").read_text(), (tree / "t").read_text()) == ("good", "good")
    file = bench.file("a", "evil")
    os.utime(file, (1, 1))
    bench.build("FROM base\nCOPY a /\n")
    file.write_text("good")
    os.utime(file, (1, 1))
    assert (bench.tree("FROM base\nCOPY a /\n") / "a").read_text() == "good"


def test_a_linked_copy_is_the_same_layer_on_any_base(bench: BuildBench) -> None:
    bench.worker.add_image(
        "other", {"/etc/passwd": "web:x:33:44::/:/bin/sh\n", "/etc/group": "", "/here": "x"}
    )
    bench.file("a.txt")
    steps = "COPY --link --chown=web a.txt /etc/a\nRUN write /run 1\n"
    first = bench.build("FROM base\n" + steps)
    made = bench.worker.snapshots_made
    second = bench.build("FROM other\n" + steps)
    assert bench.worker.snapshots_made == made + 1  # of RUN alone
    layers = [bench.worker.images[image].rootfs.diff_ids for image in (first, second)]
    assert layers[0][1] == layers[1][1] and layers[0][2] != layers[1][2]
    tree = bench.worker.tree(second)
    assert paths(tree, "/") == ["etc", "etc/a", "etc/group", "etc/passwd", "here", "run"]
    assert ((tree / "etc/a").stat().st_uid, (tree / "etc/a").stat().st_gid) == (33, 44)
    # Names are looked up in the base: the same name can be another number.
    bench.worker.add_image("third", {"/etc/passwd": "web:x:34:44::/:/bin/sh\n"})
    third = bench.worker.tree(bench.build("FROM third\n" + steps))
    assert (third / "etc/a").stat().st_uid == 34


def test_the_files_that_run_sees_of_another_stage_count_and_no_others(bench: BuildBench) -> None:
    def runs(first: str, mount: str) -> int:
        before = len(bench.worker.runs)
        bench.build(f"FROM base AS b\nRUN {first}\nFROM base\nRUN --mount=from=b,target=/m,{mount} true\n")
        return len(bench.worker.runs) - before

    one, other = "mkdir /[d]; write /[d]/f 1", "mkdir /[d]; write /[d]/f 1; write /more x"
    changed = "mkdir /[d]; write /[d]/f 2"
    assert [runs(first, "source=/[d]") for first in (one, other, changed, one)] == [2, 1, 2, 0]
    # Of a whole root its layers are what counts.
    assert [runs(first, "rw") for first in (one, other, one)] == [1, 1, 0]
    bench.file("[d]/f", "1")
    for content, count in (("1", 1), ("1", 0), ("2", 1)):
        bench.file("[d]/f", content)
        before = len(bench.worker.runs)
        bench.build("FROM base\nRUN --mount=target=/m,source=[d] true\n")
        assert len(bench.worker.runs) - before == count


def test_a_step_that_is_not_found_says_what_has_changed(bench: BuildBench) -> None:
    bench.file("src/a", "1")
    bench.file("src/b", "1")

    def reasons(dockerfile: str, **options: object) -> list[tuple[str, ...]]:
        bench.build(dockerfile, explain=True, **options)
        return [event.reasons for event in bench.reader.events if isinstance(event, Explanation)]

    text = "FROM base AS one\nARG V=1\nRUN env V\nFROM base\nCOPY src /s\nCOPY --from=one /made /\n"
    text = text.replace("RUN env V", "RUN env V; write /made x")
    assert reasons(text) == [("no earlier build of this step",)] * 3
    rows = dict(bench.inputs.rows)
    assert reasons(text) == []
    assert bench.inputs.rows == rows  # a hit writes nothing
    bench.file("src/b", "2")
    assert reasons(text) == [("file changed: src/b",), ("an earlier step changed",)]
    assert reasons(text, build_args={"V": "secret word"}) == [("argument changed: V",)]
    assert reasons(text.replace("FROM base\n", "FROM base\nWORKDIR /w\n"))[0] == (
        "no earlier build of this step",
    )
    assert reasons(text, no_cache=True)[0] == ("the cache is off for this step (--no-cache)",)
    kept = [zlib.decompress(body) for body in bench.inputs.rows.values()]
    assert not any(b"secret word" in body for body in kept)


def test_a_changed_mode_misses(bench: BuildBench) -> None:
    target = bench.file("a.txt")
    bench.build("FROM base\nCOPY a.txt /\n")
    target.chmod(0o755)
    bench.build("FROM base\nCOPY a.txt /\n")
    assert "Using cache" not in bench.text


def test_an_ignored_file_does_not_disturb_the_cache(bench: BuildBench) -> None:
    bench.file(".dockerignore", "*.log\n")
    bench.file("a.txt")
    log = bench.file("x.log", "1")
    tree = bench.tree("FROM base\nCOPY . /c\n")
    assert paths(tree, "/c") == [".dockerignore", "a.txt"]
    log.write_text("2")
    bench.build("FROM base\nCOPY . /c\n")
    assert bench.text.count("Using cache") == 1


def test_equal_files_of_a_changed_stage_still_hit(bench: BuildBench) -> None:
    bench.build("FROM base AS b\nRUN write /out same\nFROM base\nCOPY --from=b /out /\n")
    bench.build("FROM base AS b\nRUN write /out same; write /other x\nFROM base\nCOPY --from=b /out /\n")
    assert bench.text.count("Using cache") == 1


def test_an_entry_whose_layer_is_gone_is_a_miss(bench: BuildBench) -> None:
    image = bench.build("FROM base\nRUN write /x 1\n")
    bench.worker.forget_layer(bench.worker.images[image].rootfs.diff_ids[-1])
    bench.build("FROM base\nRUN write /x 1\n")
    assert len(bench.worker.runs) == 2


def test_a_base_that_changed_is_a_miss(bench: BuildBench) -> None:
    bench.build("FROM base\nRUN write /x 1\n")
    bench.worker.add_image("base", {"/other": "x"})
    bench.build("FROM base\nRUN write /x 1\n")
    assert len(bench.worker.runs) == 2


def test_no_cache_runs_again(bench: BuildBench) -> None:
    for _ in range(2):
        bench.build("FROM base\nRUN write /x 1\n", no_cache=True)
    assert len(bench.worker.runs) == 2


def test_without_a_cache_equal_steps_of_one_build_are_done_once_all_the_same(bench: BuildBench) -> None:
    stages = "".join(f"FROM base AS s{number}\nRUN write /x 1\n" for number in range(6))
    copies = "".join(f"COPY --from=s{number} /x /x{number}\n" for number in range(6))
    bench.build(f"{stages}FROM base\n{copies}", no_cache=True)
    assert len(bench.worker.runs) == 1


def test_a_build_argument_that_run_could_see_counts(bench: BuildBench) -> None:
    dockerfile = "FROM base\nARG V=1\nRUN env V\n"
    bench.build(dockerfile)
    assert "V=1" in bench.text
    bench.build(dockerfile, build_args={"V": "2"})
    assert "V=2" in bench.text
    bench.build(dockerfile, build_args={"V": "2"})
    assert bench.text.count("Using cache") == 1


def test_a_stage_of_the_no_cache_filter_runs_again_and_others_do_not(bench: BuildBench) -> None:
    dockerfile = "FROM base AS one\nRUN write /x 1\nFROM base\nRUN write /y 1\nCOPY --from=one /x /z\n"
    bench.build(dockerfile)
    bench.build(dockerfile, no_cache_stages=frozenset({"one"}))
    assert [run.args[-1] for run in bench.worker.runs] == ["write /x 1", "write /y 1", "write /x 1"]


def test_a_step_is_not_found_again_on_a_parent_that_came_out_otherwise(tmp_path: Path) -> None:
    contents = iter(("old", "new"))

    def run(root: Path, request: RunRequest, _output: Callable[[int, bytes], None]) -> int:
        if request.args[-1] == "make":
            (root / "made").write_text(next(contents))
        else:
            (root / "copy").write_text((root / "made").read_text())
        return 0

    bench = BuildBench(tmp_path, run)
    dockerfile = "FROM base AS one\nRUN make\nFROM one\nRUN copy\n"
    bench.build(dockerfile)
    assert (bench.tree(dockerfile, no_cache_stages=frozenset({"one"})) / "copy").read_text() == "new"
    bench.build(dockerfile)
    assert [run.args[-1] for run in bench.worker.runs] == ["make", "copy", "make", "copy"]


def test_a_proxy_argument_reaches_run_but_neither_cache_nor_history(bench: BuildBench) -> None:
    dockerfile = "FROM base\nRUN env http_proxy\n"
    image = bench.build(dockerfile, build_args={"http_proxy": "http://one"})
    assert "http_proxy=http://one" in bench.text
    bench.build(dockerfile, build_args={"http_proxy": "http://two"})
    assert "Using cache" in bench.text
    assert "http://one" not in str(bench.worker.images[image])


def test_a_failed_build_keeps_the_cache_of_what_succeeded(bench: BuildBench) -> None:
    with pytest.raises(RunFailed):
        bench.build("FROM base\nRUN write /x 1\nRUN exit 7\n")
    bench.build("FROM base\nRUN write /x 1\nRUN true\n")
    assert len(bench.worker.runs) == 3


def test_what_a_directory_itself_is_counts_only_where_a_step_sees_it(bench: BuildBench) -> None:
    """COPY takes what is in a directory, as BuildKit does; clones and temporary directories differ in their modes."""
    bench.file("d/x")

    def cached(*dockerfile: str) -> int:
        bench.build("FROM base\n" + "\n".join(dockerfile) + "\n")
        return bench.text.count("Using cache")

    copies = ("COPY . /all", "COPY d /d", "COPY d/ /e/", "ADD d /f")
    mounts = ("RUN --mount=target=/m true", "RUN --mount=target=/m,source=d true")
    for lines in (copies, mounts):
        (bench.context / "d").chmod(0o755)
        assert cached(*lines) == 0
        bench.context.chmod(0o700)
        assert cached(*lines) == len(lines)
        bench.context.chmod(0o755)
        (bench.context / "d").chmod(0o711)  # that is something in the context, and what the second one mounts
        assert cached(*lines) == 0
    assert cached("COPY d /d") == 0
    (bench.context / "d").chmod(0o755)
    assert cached("COPY d /d") == 1
