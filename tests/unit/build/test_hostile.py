"""Whatever bytes come in, only the builder's own errors come out, and soon."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.build.dockerfile.expand import expand
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.dockerfile.state import ArgScope, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.files.archive import is_tar
from sampan.build.files.context import Context
from sampan.build.files.owners import resolve_owner
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.build.solver.steps import host_platform
from sampan.errors import Invalid, SampanError
from sampan.oci.ignore import IgnoreRules
from sampan.oci.image import ContainerDefaults
from sampan.testing.fake_worker import FakeTable, FakeWorker

_VOCABULARY = r"""
FROM RUN COPY ADD ENV ARG CMD LABEL USER EXPOSE HEALTHCHECK ONBUILD SHELL VOLUME WORKDIR STOPSIGNAL a b=c
$x ${x:-y} ${x##*} <<EOF EOF \ # --from=0 --mount=type=cache,target=/x ' " [ "] , AS / . -- ü
"""
_WORDS = st.sampled_from([*_VOCABULARY.split(), "\n"])
_TEXT = st.lists(st.one_of(_WORDS, st.text(max_size=4)), max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_TEXT)
def test_any_text_is_planned_or_refused(text: str) -> None:
    try:
        planned = plan(parse(text.encode("utf-8", "surrogatepass")), build_args={})
        state = initial_state(ContainerDefaults(), ArgScope({}, {}, {}), planned.escape)
        for stage in planned.stages:
            for instruction in stage.instructions:
                state = apply(state, instruction).state
    except SampanError as error:
        assert error.message


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="$x{}:-+?#%/*'\"\\ ab", max_size=60))
def test_any_word_is_expanded_or_refused(text: str) -> None:
    try:
        expand(text, {"x": "abcabc", "a": "*"})
    except Invalid as error:
        assert error.message


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="*?[]^-!\\/ab#\n", max_size=40))
def test_any_ignore_file_is_read_or_refused(text: str) -> None:
    try:
        rules = IgnoreRules(text)
    except Invalid as error:
        assert error.message
        return
    assert rules.excludes("a/b") or not rules.prunes("a/b")


@pytest.mark.parametrize(
    "text",
    [
        "${x:-" * 100_000,
        "$x" * 100_000,
        "$y" * 500_000,
        "'" + "a" * 1_000_000,
        "${x/" + "*a" * 200 + "/}",
        "${x%" + "*a" * 200 + "b}",
        "${x//*" + "a" * 8000 + "b/}",
        "${x//a?*" + "?" * 8000 + "c/}",
        "${x//" + "*?" * 4000 + "c/}",
    ],
)
@pytest.mark.parametrize("char", ["b", "a"])
def test_a_word_made_to_be_slow_ends_soon(text: str, char: str) -> None:
    assert ends_soon(lambda: expand(text, {"x": char * 16_000}))


@pytest.mark.parametrize(
    "line",
    [
        b"# syntax=a" + b" " * 4_000_000 + b"b",
        b"#" + b"\t" * 4_000_000 + b"check=" + b" \t" * 10_000 + b"a",
        b"// syntax=" + b"a\t" * 1_000_000 + b"b",
        b"RUN " + b"\\ " * 400_000 + b"a",
        b"COPY " + b"<<-a " * 100_000 + b"/",
        b"FROM " + b"1" * 1_000_000 + b"<" * 40_000,
    ],
)
def test_a_line_made_to_be_slow_ends_soon(line: bytes) -> None:
    assert ends_soon(lambda: parse(line + b"\nFROM scratch\n"))


@pytest.mark.parametrize(
    "pattern",
    [
        "**a" * 30 + "**b",
        "x" + "**a" * 30 + "**b",
        "*a" * 100 + "**b",
        "**/*a**?" + "**[a-b]" * 20 + "/c",
        "**/a/" * 30 + "b",
    ],
)
def test_an_ignore_pattern_made_to_be_slow_ends_soon(pattern: str) -> None:
    paths = ["/".join("a" * 2000), "x" + "/".join("a" * 2000), "a" * 4000]
    assert ends_soon(lambda: [IgnoreRules(pattern).excludes(path) for path in paths])


def ends_soon(work: Callable[[], object]) -> bool:
    done = threading.Event()

    def run() -> None:
        with contextlib.suppress(SampanError):
            work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(60)  # a loaded machine may take its time; the attacks would take hours


def test_an_owner_is_bounded() -> None:
    accounts = {"/etc/passwd": "big:x:4294967296:0\nbad:x:y:z\n", "/etc/group": ""}
    for name in ("big", "bad", "2147483648", "-1", "a:", "0:99999999999999999999"):
        with pytest.raises(Invalid):
            resolve_owner(name, lambda path: accounts[path])
    assert resolve_owner("5", lambda path: "") == (5, 5)


def test_the_platform_names_system_and_machine() -> None:
    assert host_platform().startswith("linux/")


def test_what_is_no_archive_is_not_taken_for_one() -> None:
    import tempfile

    for content in (
        b"",
        b"\x1f\x8bnonsense",
        b"BZh9xxxx",
        b"\xfd7zXZ\0xx",
        b"\x28\xb5\x2f\xfd",
        b"\0" * 1024,
    ):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            assert not is_tar(file.fileno())


def test_a_look_at_a_compressed_file_takes_little_memory() -> None:
    """A zstd frame (RFC 8878) of blocks that repeat one byte: four bytes for 128 KiB."""
    import tempfile
    import tracemalloc

    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    with tempfile.TemporaryFile() as file:
        file.write(b"\x28\xb5\x2f\xfd\x00\x38" + block * 5000)
        file.flush()
        tracemalloc.start()
        try:
            assert not is_tar(file.fileno())
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "line",
    [
        b"LABEL " + b" ".join(b"l%d=$b" % number for number in range(60_000)),
        b"ENV " + b" ".join(b"l%d=$b" % number for number in range(60_000)),
        b"ARG " + b" ".join(b"l%d=$b" % number for number in range(60_000)),
        b"COPY " + b"$b " * 200_000 + b"/x/",
        b"VOLUME " + b"$b " * 200_000,
        b"EXPOSE " + b"$b " * 200_000,
        b"RUN " + b"--mount=type=cache,target=/x,id=$b " * 20_000 + b"x",
        b"COPY "
        + b" ".join(b"<<%d" % number for number in range(1000))
        + b" /x/\n"
        + b"".join(b"$b\n%d\n" % number for number in range(1000)),
    ],
    ids=lambda line: line[:4].decode(),
)
def test_an_instruction_that_repeats_a_long_variable_is_refused(line: bytes) -> None:
    """Two characters stand for a million: a line of 60,000 times two would need all the memory there is."""
    text = b"FROM scratch\nENV a=" + b"1" * 60_000 + b"\nENV b=" + b"$a" * 16 + b"\n" + line + b"\n"
    state = initial_state(ContainerDefaults(), ArgScope({}, {}, {}), "\\")
    *others, last = parse(text).instructions[1:]
    for instruction in others:
        state = apply(state, instruction).state
    with pytest.raises(DockerfileError, match="add up to more than"):
        apply(state, last)


def test_a_working_directory_that_grows_without_end_is_refused() -> None:
    state = initial_state(ContainerDefaults(), ArgScope({}, {}, {}), "\\")
    instruction = parse(b"FROM a\nWORKDIR " + b"x" * 100 + b"\n").instructions[1]
    for _ in range(40):
        state = apply(state, instruction).state
    with pytest.raises(DockerfileError, match="longer than 4095"):
        apply(state, instruction)


def test_instructions_that_repeat_a_long_variable_are_refused(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "worker")
    worker.add_image("base", {})
    text = b"FROM base\nENV a=" + b"1" * 60_000 + b"\nENV b=" + b"$a" * 16 + b"\n"
    stages = b"".join(
        b"FROM base AS s%d\nARG b=%b\nLABEL l=$b\n" % (number, b"1" * 1000) for number in range(9)
    )
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for rest in (b"LABEL l%d=$b\n", b"ENV l%d=$b\n"):
            lines = b"".join(rest % number for number in range(200))
            request = BuildRequest(dockerfile_text=text + lines)
            with pytest.raises(DockerfileError, match="longer than"):
                Builder(worker, None, table=FakeTable()).build(
                    request, Context(fd), lambda _event: None, threading.Event()
                )
        assert worker.open_snapshots == []
        Builder(worker, None, table=FakeTable()).build(
            BuildRequest(dockerfile_text=stages), Context(fd), lambda _event: None, threading.Event()
        )
    finally:
        os.close(fd)


@pytest.mark.parametrize("link", [b"ONBUILD ", b"ONBUILD --x "])
def test_a_long_chain_of_onbuild_is_refused_on_its_line(link: bytes) -> None:
    with pytest.raises(DockerfileError, match="Chaining ONBUILD") as caught:
        parse(b"FROM a\n" + link * 50_000 + b"RUN x\n")
    assert caught.value.line == 2


def test_a_step_that_wants_a_device_is_refused_instead_of_run_without_it() -> None:
    instruction = parse(b"FROM a\nRUN --device=vendor.com/gpu=0 true\n").instructions[1]
    state = initial_state(ContainerDefaults(), ArgScope({}, {}, {}), "\\")
    with pytest.raises(DockerfileError, match="--device is not supported") as caught:
        apply(state, instruction)
    assert caught.value.line == 2
