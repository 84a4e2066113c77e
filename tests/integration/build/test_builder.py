"""Whole builds over plain directories (`sampan.testing.fake_worker`); root because owners are set."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.build.errors import BuildCancelled, DockerfileError, RunFailed
from sampan.build.events import Explanation, Failure, Vertex, VertexWarning
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.build.solver.inputs import InputsStore
from sampan.build.worker import RunRequest
from sampan.errors import Invalid, NotFound, Unavailable
from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults
from sampan.oci.reference import parse_reference
from sampan.testing.build_reader import BuildReader
from sampan.testing.fake_worker import FakeTable, FakeWorker

pytestmark = pytest.mark.root


BASE_FILES = {"/etc/passwd": "web:x:33:44::/:/bin/sh\n", "/etc/group": "ops:x:55:\n"}


class Bench:
    """A context, a worker and a builder that keep their state from build to build."""

    def __init__(self, tmp_path: Path) -> None:
        self.context = tmp_path / "context"
        self.context.mkdir()
        self.worker = FakeWorker(tmp_path / "worker")
        self.worker.add_image("base", BASE_FILES)
        self.table = FakeTable()
        self.inputs = FakeTable()
        self.builder = Builder(self.worker, None, table=self.table, inputs=InputsStore(self.inputs))
        self.reader = BuildReader()
        self.cancelled = threading.Event()

    def file(self, path: str, text: str = "text", mode: int = 0o644) -> Path:
        target = self.context / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def build(self, dockerfile: str, **options: object) -> Digest:
        self.reader = BuildReader()
        request = BuildRequest(dockerfile_text=dockerfile.encode(), **options)  # type: ignore[arg-type]
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self.builder.build(request, fd, self.reader, self.cancelled)
        finally:
            os.close(fd)

    def tree(self, dockerfile: str, **options: object) -> Path:
        return self.worker.tree(self.build(dockerfile, **options))

    @property
    def text(self) -> str:
        return self.reader.text


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def paths(tree: Path, below: str) -> list[str]:
    top = tree / below.lstrip("/")
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_findings_are_warnings_of_the_definition_and_not_of_the_classic_stream(bench: Bench) -> None:
    bench.build("FROM base as one\nENV a b\nFROM base\nRUN echo x\nCMD serve\n")
    loading = next(item for item in bench.reader.events if isinstance(item, Vertex))
    warnings = [item for item in bench.reader.events if isinstance(item, VertexWarning)]
    assert [(item.short, item.line, item.file, item.vertex) for item in warnings] == [
        (f"{rule} (line {line})", line, "Dockerfile", loading.digest)
        for rule, line in (
            ("FromAsCasing: 'as' and 'FROM' keywords' casing do not match", 1),
            (
                "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior "
                "related to OS signals",
                5,
            ),
        )
    ]
    assert loading.name == "[internal] load build definition from Dockerfile"
    assert "arning" not in bench.text


def test_with_error_true_findings_end_the_build_before_anything_runs(bench: Bench) -> None:
    dockerfile = "# check=error=true\nFROM base\nRUN echo x\nCMD serve\n"
    with pytest.raises(Invalid, match=r"^lint violation found for rules: JSONArgsRecommended$"):
        bench.build(dockerfile)
    assert bench.worker.runs == []
    bench.build(dockerfile, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended;error=true"})


def test_a_source_that_is_an_unset_variable_is_the_whole_context(bench: Bench) -> None:
    """As with BuildKit."""
    bench.file("a.txt")
    bench.file("sub/b.txt")
    tree = bench.tree("FROM base\nCOPY a.txt $NOTHING /d/\n")
    assert paths(tree, "/d") == ["a.txt", "sub", "sub/b.txt"]


def test_a_stage_inherits_the_build_arguments_of_the_stage_it_stands_on(bench: Bench) -> None:
    bench.file("a.txt", "content")
    dockerfile = (
        "FROM base AS one\nARG name=a.txt\nFROM one\nCOPY $name /got\nFROM base\nCOPY --from=1 /got /\n"
    )
    assert (bench.tree(dockerfile) / "got").read_text() == "content"


def test_a_build_speaks_dockers_classic_words(bench: Bench) -> None:
    bench.file("a.txt")
    image = bench.build(
        'FROM base\nCOPY a.txt /\nRUN echo hello\nCMD ["x"]\n', tags=(parse_reference("me/app"),)
    )
    short = image[7:19]
    lines = bench.text.splitlines()
    assert lines[0] == "Step 1/4 : FROM base"
    assert lines[2] == "Step 2/4 : COPY a.txt /"
    assert 'Step 4/4 : CMD ["x"]' in lines
    assert "hello" in lines
    assert f" ---> {short}" in lines
    assert lines[-2:] == [f"Successfully built {short}", "Successfully tagged me/app:latest"]
    assert bench.worker.tags == {"me/app:latest": image}


def test_a_cached_rebuild_does_no_work_and_gives_the_same_image(bench: Bench) -> None:
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


def test_the_graph_is_told_before_it_runs_and_in_buildkits_names(bench: Bench) -> None:
    dockerfile = (
        "FROM base AS one\nENV A=1\nRUN write /made x\nFROM base\nWORKDIR /w\nCOPY --from=one \\\n  /made /\n"
    )
    for cached in (False, True):
        bench.build(dockerfile)
        told = [event for event in bench.reader.events if isinstance(event, Vertex)]
        planned = [event for event in told if not event.started]
        assert [event.name for event in planned] == [
            "[one 1/2] FROM base",
            "[one 2/2] RUN write /made x",
            "[stage-1 1/3] FROM base",
            "[stage-1 2/3] WORKDIR /w",
            "[stage-1 3/3] COPY --from=one /made /",
        ]
        assert planned[4].inputs == (planned[3].digest, planned[1].digest)
        last = {event.digest: event for event in told}
        assert all(event.started and event.completed and not event.error for event in last.values())
        steps = [last[event.digest].cached for event in planned if "FROM base" not in event.name]
        assert steps == [cached] * 3
        assert {event.name for event in told} >= {
            "[internal] load build definition from Dockerfile",
            "[internal] load metadata for base",
            "exporting to image",
        }


def test_a_mistake_in_the_dockerfile_is_told_with_the_lines_around(bench: Bench) -> None:
    with pytest.raises(DockerfileError):
        bench.build("FROM base\n\nRUNN x\n# more\n")
    failure = bench.reader.events[-1]
    assert isinstance(failure, Failure)
    assert (failure.vertex, failure.line) == ("", 3)
    assert failure.excerpt == ((1, "FROM base"), (2, ""), (3, "RUNN x"), (4, "# more"))


def test_a_touched_file_hits_and_a_changed_one_misses(bench: Bench) -> None:
    target = bench.file("a.txt", "one")
    first = bench.build("FROM base\nCOPY a.txt /\n")
    os.utime(target, (1, 1))
    assert bench.build("FROM base\nCOPY a.txt /\n") == first
    target.write_text("two")
    assert bench.build("FROM base\nCOPY a.txt /\n") != first
    assert "Using cache" not in bench.text


def test_what_is_not_content_does_not_count(bench: Bench) -> None:
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


def test_what_only_looks_alike_is_not_taken_from_the_cache(bench: Bench) -> None:
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


def test_a_linked_copy_is_the_same_layer_on_any_base(bench: Bench) -> None:
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


def test_the_files_that_run_sees_of_another_stage_count_and_no_others(bench: Bench) -> None:
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


def test_a_step_that_is_not_found_says_what_has_changed(bench: Bench) -> None:
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


def test_a_step_without_a_layer_has_the_time_of_the_layer_before_it(bench: Bench) -> None:
    dockerfile = "FROM scratch\nENV A=1\nWORKDIR /w\nENV B=1\nRUN true\nWORKDIR /v\nCMD x\n"
    config = bench.worker.images[bench.build(dockerfile)]
    times = [entry.created for entry in config.history or ()]
    assert None not in times
    assert times[0] == times[1] == times[2] == times[3] <= times[4] == times[5] == config.created


def test_a_changed_mode_misses(bench: Bench) -> None:
    target = bench.file("a.txt")
    bench.build("FROM base\nCOPY a.txt /\n")
    target.chmod(0o755)
    bench.build("FROM base\nCOPY a.txt /\n")
    assert "Using cache" not in bench.text


def test_an_ignored_file_does_not_disturb_the_cache(bench: Bench) -> None:
    bench.file(".dockerignore", "*.log\n")
    bench.file("a.txt")
    log = bench.file("x.log", "1")
    tree = bench.tree("FROM base\nCOPY . /c\n")
    assert paths(tree, "/c") == [".dockerignore", "a.txt"]
    log.write_text("2")
    bench.build("FROM base\nCOPY . /c\n")
    assert bench.text.count("Using cache") == 1


def test_equal_files_of_a_changed_stage_still_hit(bench: Bench) -> None:
    bench.build("FROM base AS b\nRUN write /out same\nFROM base\nCOPY --from=b /out /\n")
    bench.build("FROM base AS b\nRUN write /out same; write /other x\nFROM base\nCOPY --from=b /out /\n")
    assert bench.text.count("Using cache") == 1


def test_an_entry_whose_layer_is_gone_is_a_miss(bench: Bench) -> None:
    image = bench.build("FROM base\nRUN write /x 1\n")
    bench.worker.forget_layer(bench.worker.images[image].rootfs.diff_ids[-1])
    bench.build("FROM base\nRUN write /x 1\n")
    assert len(bench.worker.runs) == 2


def test_a_base_that_changed_is_a_miss(bench: Bench) -> None:
    bench.build("FROM base\nRUN write /x 1\n")
    bench.worker.add_image("base", {"/other": "x"})
    bench.build("FROM base\nRUN write /x 1\n")
    assert len(bench.worker.runs) == 2


def test_no_cache_runs_again(bench: Bench) -> None:
    for _ in range(2):
        bench.build("FROM base\nRUN write /x 1\n", no_cache=True)
    assert len(bench.worker.runs) == 2


def test_without_a_cache_equal_steps_of_one_build_are_done_once_all_the_same(bench: Bench) -> None:
    stages = "".join(f"FROM base AS s{number}\nRUN write /x 1\n" for number in range(6))
    copies = "".join(f"COPY --from=s{number} /x /x{number}\n" for number in range(6))
    bench.build(f"{stages}FROM base\n{copies}", no_cache=True)
    assert len(bench.worker.runs) == 1


def test_a_build_argument_that_run_could_see_counts(bench: Bench) -> None:
    dockerfile = "FROM base\nARG V=1\nRUN env V\n"
    bench.build(dockerfile)
    assert "V=1" in bench.text
    bench.build(dockerfile, build_args={"V": "2"})
    assert "V=2" in bench.text
    bench.build(dockerfile, build_args={"V": "2"})
    assert bench.text.count("Using cache") == 1


def test_a_stage_of_the_no_cache_filter_runs_again_and_others_do_not(bench: Bench) -> None:
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

    bench = Bench(tmp_path)
    bench.worker._runner = run
    dockerfile = "FROM base AS one\nRUN make\nFROM one\nRUN copy\n"
    bench.build(dockerfile)
    assert (bench.tree(dockerfile, no_cache_stages=frozenset({"one"})) / "copy").read_text() == "new"
    bench.build(dockerfile)
    assert [run.args[-1] for run in bench.worker.runs] == ["make", "copy", "make", "copy"]


def test_a_proxy_argument_reaches_run_but_neither_cache_nor_history(bench: Bench) -> None:
    dockerfile = "FROM base\nRUN env http_proxy\n"
    image = bench.build(dockerfile, build_args={"http_proxy": "http://one"})
    assert "http_proxy=http://one" in bench.text
    bench.build(dockerfile, build_args={"http_proxy": "http://two"})
    assert "Using cache" in bench.text
    assert "http://one" not in str(bench.worker.images[image])


def test_only_what_the_target_needs_is_built(bench: Bench) -> None:
    dockerfile = "FROM base AS a\nRUN write /a 1\nFROM base AS b\nRUN exit 1\nFROM a AS c\nRUN write /c 1\n"
    tree = bench.tree(dockerfile)
    assert (tree / "a").read_text() == "1"
    assert bench.text.startswith("Step 1/4 : FROM base AS a\n")
    with pytest.raises(RunFailed):
        bench.build(dockerfile, target="b")
    with pytest.raises(NotFound, match='target stage "zzz" could not be found'):
        bench.build(dockerfile, target="zzz")


def test_a_failed_command_passes_its_code_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(RunFailed) as caught:
        bench.build("FROM base\nRUN write /x 1\nRUN echo doing; exit 7\n")
    assert caught.value.message == "The command '/bin/sh -c echo doing; exit 7' returned a non-zero code: 7"
    assert caught.value.exit_code == 7
    failure = bench.reader.events[-1]
    assert isinstance(failure, Failure)
    assert (failure.file, failure.line, failure.last_line) == ("Dockerfile", 3, 3)
    assert (failure.text, failure.last_output) == ("RUN echo doing; exit 7", "doing\n")
    assert failure.excerpt == ((1, "FROM base"), (2, "RUN write /x 1"), (3, "RUN echo doing; exit 7"))
    before = failure.before
    assert before is not None
    assert bench.worker.runs[-1].diff_ids == before.diff_ids
    assert (before.operation.args[-1], before.operation.cwd) == ("echo doing; exit 7", "/")
    failed = [event for event in bench.reader.events if isinstance(event, Vertex) and event.error]
    assert [(event.digest, event.name) for event in failed] == [
        (failure.vertex, "[3/3] RUN echo doing; exit 7")
    ]
    assert caught.value.place.line == 3
    assert caught.value.last_output == "doing\n"
    assert bench.worker.open_snapshots == []
    assert bench.worker.images == {}


def test_a_failed_build_keeps_the_cache_of_what_succeeded(bench: Bench) -> None:
    with pytest.raises(RunFailed):
        bench.build("FROM base\nRUN write /x 1\nRUN exit 7\n")
    bench.build("FROM base\nRUN write /x 1\nRUN true\n")
    assert len(bench.worker.runs) == 3


def test_a_cancelled_build_stops_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    def runner(root: Path, request: object, output: object) -> int:
        bench.cancelled.set()
        return 137

    worker = FakeWorker(tmp_path / "second", runner)
    worker.add_image("base")
    bench.builder = Builder(worker, None, table=bench.table)
    with pytest.raises(BuildCancelled):
        bench.build("FROM base\nRUN sleep\nRUN true\n")
    assert worker.open_snapshots == []
    assert bench.table.rows == {}


def test_a_full_disk_is_told_and_the_next_try_goes_on(bench: Bench, tmp_path: Path) -> None:
    full = [True]

    def runner(root: Path, request: RunRequest, output: Callable[[int, bytes], None]) -> int:
        if full.pop() and request.args[-1] == "second":
            raise OSError(errno.ENOSPC, "No space left on device", "/x")
        return 0

    worker = FakeWorker(tmp_path / "second", runner)
    worker.add_image("base", {"/x": ""})
    bench.builder = Builder(worker, None, table=bench.table)
    full[:] = [True, True]
    with pytest.raises(Unavailable, match="No space left on device"):
        bench.build("FROM base\nRUN first\nRUN second\n")
    assert worker.open_snapshots == []
    full[:] = [False]
    bench.build("FROM base\nRUN first\nRUN second\n")
    assert bench.text.count("Using cache") == 1


def test_the_configuration_is_what_the_instructions_say(bench: Bench) -> None:
    image = bench.build(
        "FROM base\nENV A=1 B='two words'\nENV C=$A\nLABEL a.b=\"c d\" e=f\nEXPOSE 80 9000-9001/udp\nUSER web\n"
        'WORKDIR /srv\nWORKDIR app\nVOLUME /data /more\nSTOPSIGNAL SIGINT\nENTRYPOINT ["/e"]\nCMD c $A\n'
        'HEALTHCHECK --interval=5s --retries=2 CMD curl x\nONBUILD RUN echo\nSHELL ["/bin/bash","-c"]\n'
        "MAINTAINER me\nCMD x\n",
        labels={"l": "m $A"},
    )
    config = bench.worker.images[image]
    defaults = config.defaults
    assert defaults.env is not None and defaults.env[1:] == ("A=1", "B=two words", "C=1")
    assert defaults.env[0] == "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert defaults.labels == {"a.b": "c d", "e": "f", "l": "m $A"}
    assert defaults.exposed_ports == {"80/tcp": {}, "9000/udp": {}, "9001/udp": {}}
    assert (defaults.user, defaults.working_dir, defaults.stop_signal) == ("web", "/srv/app", "SIGINT")
    assert defaults.volumes == {"/data": {}, "/more": {}}
    assert defaults.entrypoint == ("/e",) and defaults.cmd == ("/bin/bash", "-c", "x")
    assert defaults.healthcheck is not None and defaults.healthcheck.test == ("CMD-SHELL", "curl x")
    assert defaults.healthcheck.interval == 5_000_000_000 and defaults.healthcheck.retries == 2
    assert defaults.on_build == ("RUN echo",) and defaults.shell == ("/bin/bash", "-c")
    assert config.author == "me"
    assert config.history is not None and len(config.history) == 16  # ONBUILD leaves none, as in BuildKit
    layers = [entry for entry in config.history if not entry.empty_layer]
    assert [entry.created_by for entry in layers] == ["WORKDIR /srv", "WORKDIR /srv/app"]
    assert len(config.rootfs.diff_ids) == 3


def test_history_is_in_buildkits_style(bench: Bench) -> None:
    bench.file("a.txt")
    image = bench.build('FROM base\nARG V=1\nCOPY a.txt ./\nRUN echo x\nCMD ["a", "b"]\nEXPOSE 80\n')
    history = bench.worker.images[image].history or ()
    assert [entry.created_by for entry in history] == [
        "ARG V=1",
        "COPY a.txt ./ # buildkit",
        "RUN |1 V=1 /bin/sh -c echo x # buildkit",
        'CMD ["a" "b"]',
        "EXPOSE [80/tcp]",
    ]
    assert {entry.comment for entry in history} == {"buildkit.dockerfile.v0"}


def test_a_run_that_changes_nothing_adds_no_layer(bench: Bench) -> None:
    image = bench.build("FROM base\nRUN true\n")
    assert len(bench.worker.images[image].rootfs.diff_ids) == 1


def test_triggers_of_the_base_run_first(bench: Bench) -> None:
    bench.file("a.txt")
    defaults = ContainerDefaults(on_build=("COPY a.txt /triggered", "RUN write /second x"))
    bench.worker.add_image("trigger", {"/x": ""}, defaults)
    image = bench.build("FROM trigger\nRUN true\n")
    tree = bench.worker.tree(image)
    assert (tree / "triggered").exists() and (tree / "second").exists()
    assert "# Executing 2 build triggers" in bench.text
    assert bench.worker.images[image].defaults.on_build is None


def test_from_scratch_holds_only_what_was_copied(bench: Bench) -> None:
    bench.file("a.txt")
    tree = bench.tree("FROM scratch\nCOPY a.txt /bin/\n")
    assert paths(tree, "/") == ["bin", "bin/a.txt"]


def test_an_image_can_be_copied_from_by_name(bench: Bench) -> None:
    bench.worker.add_image("tools:1", {"/usr/bin/tool": "t"})
    tree = bench.tree("FROM scratch\nCOPY --from=tools:1 /usr/bin/tool /t\n")
    assert (tree / "t").read_text() == "t"


def test_an_unknown_image_is_refused_in_dockers_words(bench: Bench) -> None:
    with pytest.raises(NotFound, match="pull access denied for nothere"):
        bench.build("FROM nothere\n")


def test_here_documents_become_files_and_scripts(bench: Bench) -> None:
    tree = bench.tree(
        "FROM base\nENV W=world\nCOPY <<EOF <<'RAW' /d/\nhello $W\nEOF\nhello $W\nRAW\n"
        "COPY <<-one /single\n\ttext\n\tone\nRUN <<X\nwrite /made by-script\nX\n"
    )
    assert (tree / "d/EOF").read_text() == "hello world\n"
    assert (tree / "d/RAW").read_text() == "hello $W\n"
    assert (tree / "single").read_text() == "text\n"
    assert (tree / "made").read_text() == "by-script"


def test_a_mistake_in_a_later_line_is_told_before_anything_runs(bench: Bench) -> None:
    with pytest.raises(DockerfileError, match="unknown flag: --form"):
        bench.build("FROM base\nRUN write /x 1\nCOPY --form=a b c\n")
    assert bench.worker.runs == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY ../x /", "file not found in build context or excluded by .dockerignore: stat x"),
        (
            "COPY nothere /",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nothere",
        ),
        (
            "COPY a b /dir",
            "When using COPY with more than one source file, the destination must be a directory",
        ),
        ("COPY d /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
        ("COPY a /etc/passwd/", "cannot copy to non-directory: /etc/passwd"),
        ("COPY a /etc/passwd/x", "cannot copy to non-directory: /etc/passwd"),
        ("COPY --chown=nobody2 a /", "no such user: nobody2"),
        ("COPY outside /x", "file not found in build context"),
    ],
)
def test_a_copy_that_can_not_work_is_refused(bench: Bench, line: str, message: str) -> None:
    for name in ("a", "b", "d/x"):
        bench.file(name)
    (bench.context / "outside").symlink_to("../../../etc/hostname")
    with pytest.raises((Invalid, NotFound, Exception), match=message):
        bench.build(f"FROM base\n{line}\n")
    assert bench.worker.open_snapshots == []


# Source -> destination -> where things must be; expected values from Docker's documentation of COPY and from
# dockerd 20.10 with the same context.
COPY_MATRIX: list[tuple[str, list[str]]] = [
    ("COPY a /t", ["t"]),
    ("COPY a /t/", ["t", "t/a"]),
    ("COPY a b /t/", ["t", "t/a", "t/b"]),
    ("COPY d /t", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY d/ /t/", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY d/sub d/x /t/", ["t", "t/x", "t/y"]),
    ("COPY d/* /t/", ["t", "t/x", "t/y"]),
    ("COPY ? /t/", ["t", "t/a", "t/b", "t/sub", "t/sub/y", "t/x"]),
    ('COPY ["a", "/t/with space"]', ["t", "t/with space"]),
    ("COPY link /t", ["t"]),
    ("COPY link /t/", ["t", "t/link"]),
    ("COPY dlink /t", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY a /deep/er/t", ["deep", "deep/er", "deep/er/t"]),
    ("WORKDIR /w\nCOPY a .", ["w", "w/a"]),
    ("WORKDIR /w\nCOPY a b ./", ["w", "w/a", "w/b"]),
    ("WORKDIR /w\nCOPY a b .", ["w", "w/a", "w/b"]),
    ("WORKDIR /w\nCOPY a sub/n", ["w", "w/sub", "w/sub/n"]),
    ("COPY a /t\nCOPY b /t", ["t"]),
    ("COPY --parents d/sub/y a /t/", ["t", "t/a", "t/d", "t/d/sub", "t/d/sub/y"]),
    ("COPY --parents ./d/./sub/y /t/", ["t", "t/sub", "t/sub/y"]),
    ("COPY --exclude=sub d /t", ["t", "t/x"]),
]


@pytest.mark.parametrize(("lines", "expected"), COPY_MATRIX, ids=[lines for lines, _ in COPY_MATRIX])
def test_copies_land_where_docker_puts_them(bench: Bench, lines: str, expected: list[str]) -> None:
    for name in ("a", "b", "d/x", "d/sub/y"):
        bench.file(name, name)
    (bench.context / "link").symlink_to("a")
    (bench.context / "dlink").symlink_to("d")
    tree = bench.tree(f"FROM scratch\n{lines}\n")
    assert paths(tree, "/") == expected
    if lines == "COPY link /t/":
        assert not (tree / "t/link").is_symlink() and (tree / "t/link").read_text() == "a"
    if lines == "COPY a /t\nCOPY b /t":
        assert (tree / "t").read_text() == "b"


def test_links_inside_a_copied_directory_stay_links(bench: Bench) -> None:
    bench.file("d/x")
    (bench.context / "d/l").symlink_to("/nowhere")
    tree = bench.tree("FROM scratch\nCOPY d /t\n")
    assert os.readlink(tree / "t/l") == "/nowhere"


def test_a_destination_behind_a_link_stays_inside_the_image(bench: Bench, tmp_path: Path) -> None:
    bench.file("a", "new")
    image = bench.worker.add_image("links", {"/usr/lib/x": ""})
    top = bench.worker._tops[image.diff_ids]
    (top / "lib").symlink_to("usr/lib")
    (top / "abs").symlink_to("/usr/lib")
    (top / "out").symlink_to("../../../../../../tmp")
    bench.file("root/lib/y")
    tree = bench.tree("FROM links\nCOPY a /abs/\nCOPY root/ /\nCOPY a /out/sampan-escaped\n")
    assert (tree / "usr/lib/a").read_text() == "new"
    assert (tree / "usr/lib/y").exists() and (tree / "lib").is_symlink()
    assert (tree / "tmp/sampan-escaped").exists() and not Path("/tmp/sampan-escaped").exists()


def test_owners_modes_and_times_are_dockers(bench: Bench) -> None:
    source = bench.file("d/x", mode=0o640)
    (bench.context / "d").chmod(0o750)
    os.chown(source, 1000, 1000)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    tree = bench.tree(
        "FROM base\nCOPY d /plain\nCOPY --chown=web d /named\nCOPY --chown=web:ops --chmod=600 d/x /x\n"
        "COPY --chown=7:8 d/x /made/x\n"
    )
    info = (tree / "plain/x").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_mtime) == (0, 0, 0o640, 1_000_000_000)
    assert ((tree / "named/x").stat().st_uid, (tree / "named/x").stat().st_gid) == (33, 44)
    assert (tree / "named").stat().st_uid == 33
    info = (tree / "x").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (33, 55, 0o600)
    assert ((tree / "made").stat().st_uid, (tree / "made").stat().st_gid) == (7, 8)


def test_hard_links_inside_a_copied_directory_stay_one_file(bench: Bench) -> None:
    os.link(bench.file("d/x"), bench.context / "d/hard")
    tree = bench.tree("FROM scratch\nCOPY d /t\n")
    assert (tree / "t/hard").stat().st_ino == (tree / "t/x").stat().st_ino


def test_files_of_a_stage_keep_their_owner(bench: Bench) -> None:
    bench.file("x")
    tree = bench.tree("FROM base AS a\nCOPY --chown=5:6 x /d/x\nFROM base\nCOPY --from=a /d/x /y\n")
    assert ((tree / "y").stat().st_uid, (tree / "y").stat().st_gid) == (5, 6)


def guide() -> list[str]:
    path = Path(__file__).parents[3].parent / "shared/reference/deployment-guide.ko.md"
    if not path.is_file():
        return []
    blocks = path.read_text().split("```dockerfile\n")[1:]
    return [block.partition("```")[0] for block in blocks]


@pytest.mark.skipif(not guide(), reason="../shared/reference is absent")
def test_the_dockerfiles_of_the_deployment_guide_build_as_they_stand(bench: Bench) -> None:
    def runner(root: Path, request: object, output: object) -> int:
        (root / "app").mkdir(exist_ok=True)
        (root / "app/dist").mkdir(exist_ok=True)
        (root / "app/dist/index.js").write_text("x")
        return 0

    worker = FakeWorker(bench.context.parent / "second", runner)  # type: ignore[arg-type]
    for name in ("node:18", "node:18-alpine", "python:3.11-slim"):
        worker.add_image(name)
    bench.builder = Builder(worker, None, table=bench.table)
    for name in ("package.json", "package-lock.json", "index.js", "requirements.txt", "app.py"):
        bench.file(name)
    built = [
        worker.images[bench.build(text)]
        for text in guide()
        if text.lstrip("# B").startswith(("FROM", "a", "u"))
    ]
    commands: list[Callable[[], object] | tuple[str, ...] | None] = [image.defaults.cmd for image in built]
    assert commands[:3] == [("node", "index.js"), ("python", "app.py"), ("node", "dist/index.js")]
    assert all(image.defaults.working_dir == "/app" for image in built[:3])


def test_a_directory_that_exists_below_the_destination_takes_over_the_sources_attributes(
    bench: Bench,
) -> None:
    bench.file("d/sub/x").parent.chmod(0o750)
    top = bench.tree("FROM base\nADD --chown=5:6 d /t\nWORKDIR /t/other\nCOPY --chown=7:8 d /t\n")
    found = (top / "t/sub").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (7, 8, 0o750)
    assert (top / "t").stat().st_uid == 5  # the destination itself is whose it was


def test_a_file_copied_to_a_link_to_a_file_is_written_behind_the_link(bench: Bench) -> None:
    bench.file("a", "new")
    (bench.context / "links").mkdir()
    (bench.context / "links/to").symlink_to("file")
    bench.file("links/file", "old")
    top = bench.tree("FROM base\nCOPY links /l\nCOPY a /l/to\n")
    assert (top / "l/to").is_symlink()
    assert (top / "l/file").read_text() == "new"
