"""What a build says, makes and refuses, over plain directories; root because owners are set."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.build.errors import BuildCancelled, DockerfileError, RunFailed
from sampan.build.events import Failure, Vertex, VertexWarning
from sampan.build.worker import RunRequest
from sampan.errors import Invalid, NotFound, Unavailable
from sampan.oci.image import ContainerDefaults
from sampan.oci.reference import parse_reference
from sampan.testing.build_bench import BuildBench

pytestmark = pytest.mark.root


def test_findings_are_warnings_of_the_definition_and_not_of_the_classic_stream(bench: BuildBench) -> None:
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


def test_with_error_true_findings_end_the_build_before_anything_runs(bench: BuildBench) -> None:
    dockerfile = "# check=error=true\nFROM base\nRUN echo x\nCMD serve\n"
    with pytest.raises(Invalid, match=r"^lint violation found for rules: JSONArgsRecommended$"):
        bench.build(dockerfile)
    assert bench.worker.runs == []
    bench.build(dockerfile, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended;error=true"})


def test_a_stage_inherits_the_build_arguments_of_the_stage_it_stands_on(bench: BuildBench) -> None:
    bench.file("a.txt", "content")
    dockerfile = (
        "FROM base AS one\nARG name=a.txt\nFROM one\nCOPY $name /got\nFROM base\nCOPY --from=1 /got /\n"
    )
    assert (bench.tree(dockerfile) / "got").read_text() == "content"


def test_a_build_speaks_dockers_classic_words(bench: BuildBench) -> None:
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


def test_the_graph_is_told_before_it_runs_and_in_buildkits_names(bench: BuildBench) -> None:
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


def test_a_mistake_in_the_dockerfile_is_told_with_the_lines_around(bench: BuildBench) -> None:
    with pytest.raises(DockerfileError):
        bench.build("FROM base\n\nRUNN x\n# more\n")
    failure = bench.reader.events[-1]
    assert isinstance(failure, Failure)
    assert (failure.vertex, failure.line) == ("", 3)
    assert failure.excerpt == ((1, "FROM base"), (2, ""), (3, "RUNN x"), (4, "# more"))


def test_a_step_without_a_layer_has_the_time_of_the_layer_before_it(bench: BuildBench) -> None:
    dockerfile = "FROM scratch\nENV A=1\nWORKDIR /w\nENV B=1\nRUN true\nWORKDIR /v\nCMD x\n"
    config = bench.worker.images[bench.build(dockerfile)]
    times = [entry.created for entry in config.history or ()]
    assert None not in times
    assert times[0] == times[1] == times[2] == times[3] <= times[4] == times[5] == config.created


def test_only_what_the_target_needs_is_built(bench: BuildBench) -> None:
    dockerfile = "FROM base AS a\nRUN write /a 1\nFROM base AS b\nRUN exit 1\nFROM a AS c\nRUN write /c 1\n"
    tree = bench.tree(dockerfile)
    assert (tree / "a").read_text() == "1"
    assert bench.text.startswith("Step 1/4 : FROM base AS a\n")
    with pytest.raises(RunFailed):
        bench.build(dockerfile, target="b")
    with pytest.raises(NotFound, match='target stage "zzz" could not be found'):
        bench.build(dockerfile, target="zzz")


def test_a_failed_command_passes_its_code_and_leaves_nothing(bench: BuildBench) -> None:
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


def test_a_cancelled_build_stops_and_leaves_nothing(tmp_path: Path) -> None:
    def runner(root: Path, request: RunRequest, output: Callable[[int, bytes], None]) -> int:
        bench.cancelled.set()
        return 137

    bench = BuildBench(tmp_path, runner)
    with pytest.raises(BuildCancelled):
        bench.build("FROM base\nRUN sleep\nRUN true\n")
    assert bench.worker.open_snapshots == []
    assert bench.table.rows == {}


def test_a_full_disk_is_told_and_the_next_try_goes_on(tmp_path: Path) -> None:
    full = ["it is"]

    def runner(root: Path, request: RunRequest, output: Callable[[int, bytes], None]) -> int:
        if full and request.args[-1] == "second":
            raise OSError(errno.ENOSPC, "No space left on device", "/x")
        return 0

    bench = BuildBench(tmp_path, runner)
    with pytest.raises(Unavailable, match=r"RUN failed on line 3 of Dockerfile: /x: no space left"):
        bench.build("FROM base\nRUN first\nRUN second\n")
    assert bench.worker.open_snapshots == []
    full.clear()
    bench.build("FROM base\nRUN first\nRUN second\n")
    assert bench.text.count("Using cache") == 1


def test_the_configuration_is_what_the_instructions_say(bench: BuildBench) -> None:
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


def test_history_is_in_buildkits_style(bench: BuildBench) -> None:
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


def test_a_run_that_changes_nothing_adds_no_layer(bench: BuildBench) -> None:
    image = bench.build("FROM base\nRUN true\n")
    assert len(bench.worker.images[image].rootfs.diff_ids) == 1


def test_triggers_of_the_base_run_first(bench: BuildBench) -> None:
    bench.file("a.txt")
    defaults = ContainerDefaults(on_build=("COPY a.txt /triggered", "RUN write /second x"))
    bench.worker.add_image("trigger", {"/x": ""}, defaults)
    image = bench.build("FROM trigger\nRUN true\n")
    tree = bench.worker.tree(image)
    assert (tree / "triggered").exists() and (tree / "second").exists()
    assert "# Executing 2 build triggers" in bench.text
    assert bench.worker.images[image].defaults.on_build is None


def test_an_image_that_can_not_be_had_is_asked_for_once_however_many_stages_stand_on_it(
    bench: BuildBench,
) -> None:
    stages = "".join(f"FROM nothere AS s{number}\nRUN true\n" for number in range(4))
    copies = "".join(f"COPY --from=s{number} / /\n" for number in range(4))
    with pytest.raises(NotFound, match="pull access denied for nothere"):
        bench.build(f"{stages}FROM base\n{copies}")
    told = [event for event in bench.reader.events if isinstance(event, Vertex)]
    asked = [event for event in told if event.name == "[internal] load metadata for nothere"]
    assert [bool(event.error) for event in asked] == [False, True]
    started = [event.digest for event in told if event.started and not event.completed]
    assert len(started) == len(set(started))


def test_an_unknown_image_is_refused_in_dockers_words(bench: BuildBench) -> None:
    with pytest.raises(NotFound, match="pull access denied for nothere"):
        bench.build("FROM nothere\n")


def test_an_image_that_cannot_be_had_is_named_and_so_is_the_stage_that_may_be_meant(
    bench: BuildBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in ("COPY --from=biulder /a /", "FROM biulder", "RUN --mount=from=biulder,target=/m x"):
        with pytest.raises(NotFound, match=r"pull access denied for biulder") as caught:
            bench.build(f"FROM base AS builder\nFROM base\n{line}\n")
        assert caught.value.hint == "Did you mean the stage builder?"

    def unreachable(*_: object, **__: object) -> None:
        raise Unavailable("dial tcp: lookup registry: no such host")

    monkeypatch.setattr(bench.worker, "resolve_image", unreachable)
    words = "failed to resolve source metadata for far/away:1: dial tcp: lookup registry: no such host"
    with pytest.raises(Unavailable, match=f"^{words}$"):
        bench.build("FROM far/away:1\n")


def test_a_source_outside_of_the_context_is_refused_with_what_can_be_done(bench: BuildBench) -> None:
    with pytest.raises(NotFound, match="COPY failed: file not found in build context") as caught:
        bench.build("FROM base\nCOPY ../shared /shared\n")
    assert "--build-context NAME=DIRECTORY" in caught.value.hint


def test_a_mistake_in_a_later_line_is_told_before_anything_runs(bench: BuildBench) -> None:
    with pytest.raises(DockerfileError, match="unknown flag: --form"):
        bench.build("FROM base\nRUN write /x 1\nCOPY --form=a b c\n")
    assert bench.worker.runs == []


def guide() -> list[str]:
    path = Path(__file__).parents[3].parent / "shared/reference/deployment-guide.ko.md"
    if not path.is_file():
        return []
    blocks = path.read_text().split("```dockerfile\n")[1:]
    return [block.partition("```")[0] for block in blocks]


@pytest.mark.skipif(not guide(), reason="../shared/reference is absent")
def test_the_dockerfiles_of_the_deployment_guide_build_as_they_stand(tmp_path: Path) -> None:
    def runner(root: Path, request: RunRequest, output: Callable[[int, bytes], None]) -> int:
        (root / "app").mkdir(exist_ok=True)
        (root / "app/dist").mkdir(exist_ok=True)
        (root / "app/dist/index.js").write_text("x")
        return 0

    bench = BuildBench(tmp_path, runner)
    for name in ("node:18", "node:18-alpine", "python:3.11-slim"):
        bench.worker.add_image(name)
    for name in ("package.json", "package-lock.json", "index.js", "requirements.txt", "app.py"):
        bench.file(name)
    built = [
        bench.worker.images[bench.build(text)]
        for text in guide()
        if text.lstrip("# B").startswith(("FROM", "a", "u"))
    ]
    commands: list[Callable[[], object] | tuple[str, ...] | None] = [image.defaults.cmd for image in built]
    assert commands[:3] == [("node", "index.js"), ("python", "app.py"), ("node", "dist/index.js")]
    assert all(image.defaults.working_dir == "/app" for image in built[:3])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("STOPSIGNAL SIGFOO", "Invalid signal: SIGFOO"),
        ("COPY --chmod=99 a /", "invalid chmod parameter"),
        ("ENV A=${B:?needed}", "B: needed"),
        ("EXPOSE http", "invalid containerPort: http"),
        ("FROM base AS last\nCOPY --from=one / ${C?}", "C: is not allowed to be unset"),
    ],
)
def test_what_can_not_work_is_told_before_any_step_is_done(
    bench: BuildBench, line: str, message: str
) -> None:
    with pytest.raises(DockerfileError, match=message):
        bench.build(f"FROM base AS one\nRUN write /x 1\n{line}\n")
    assert bench.worker.runs == []


def test_a_variable_that_a_trigger_of_the_base_sets_is_no_mistake(bench: BuildBench) -> None:
    bench.worker.add_image("trigger", {}, ContainerDefaults(on_build=("ENV A=set",)))
    bench.build("FROM trigger\nENV B=${A:?needed}\n")
    bench.build("FROM base AS one\nONBUILD ENV A=set\nFROM one\nENV B=${A:?needed}\n")
