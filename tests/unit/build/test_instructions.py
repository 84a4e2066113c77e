"""Instructions applied to a stage's state. Expected values from Docker's Dockerfile reference."""

from __future__ import annotations

import pytest

from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.state import Applied, ArgScope, StageState, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.model import CopyOperation, RunOperation
from sampan.oci.image import ContainerDefaults

NOTHING = ContainerDefaults()


def state_after(text: str, config: ContainerDefaults = NOTHING, **args: str) -> StageState:
    return _applied(text, config, **args)[-1].state


def _applied(text: str, config: ContainerDefaults = NOTHING, **args: str) -> list[Applied]:
    scope = ArgScope(args, {"GLOBAL": "g"}, {"TARGETARCH": "amd64"})
    state = initial_state(config, scope, "\\")
    steps: list[Applied] = []
    for instruction in parse(text.encode()).instructions:
        steps.append(apply(state, instruction))
        state = steps[-1].state
    return steps


def run_of(text: str, config: ContainerDefaults = NOTHING, **args: str) -> RunOperation:
    operation = _applied(text, config, **args)[-1].operation
    assert isinstance(operation, RunOperation)
    return operation


def copy_of(text: str) -> CopyOperation:
    operation = _applied(text)[-1].operation
    assert isinstance(operation, CopyOperation)
    return operation


def test_env_of_one_line_sees_the_variables_before_it() -> None:
    env = state_after("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc").environment()
    assert (env["def"], env["ghi"]) == ("hello", "bye")


def test_env_wins_over_arg() -> None:
    run = run_of("ARG V=arg\nENV V=env\nRUN x", V="given")
    assert "V=env" in run.env and "V=given" not in run.env
    assert run.key_args == ()


def test_an_argument_is_visible_from_its_line_on() -> None:
    env = state_after("ENV A=${V:-unset}\nARG V=set\nENV B=$V").environment()
    assert (env["A"], env["B"]) == ("unset", "set")


def test_a_bare_arg_takes_the_global_or_the_platforms_value() -> None:
    assert run_of("ARG GLOBAL\nARG TARGETARCH\nARG NONE\nRUN x").key_args == ("GLOBAL=g", "TARGETARCH=amd64")
    assert run_of("RUN x").key_args == ()


def test_run_uses_the_shell_of_its_time() -> None:
    assert run_of("RUN echo $HOME").args == ("/bin/sh", "-c", "echo $HOME")
    assert run_of('SHELL ["/bin/bash", "-c"]\nRUN x').args == ("/bin/bash", "-c", "x")
    assert run_of('RUN ["a", "b"]').args == ("a", "b")


def test_run_takes_here_documents_as_script_or_input() -> None:
    assert run_of("RUN <<EOF\none\ntwo\nEOF\n").args[2] == "one\ntwo\n"
    assert run_of("RUN cat <<EOF\none\nEOF\n").args[2] == "cat <<EOF\none\nEOF"
    run = run_of("RUN <<EOF\n#!/usr/bin/python3\nprint()\nEOF\n")
    assert (run.args, run.script) == (("/bin/sh", "-c", "/dev/pipes/EOF"), "#!/usr/bin/python3\nprint()\n")


def test_an_entrypoint_forgets_the_bases_command_but_not_its_own() -> None:
    base = ContainerDefaults(cmd=("base",))
    assert state_after('ENTRYPOINT ["e"]', base).config.cmd is None
    assert state_after('CMD ["own"]\nENTRYPOINT ["e"]', base).config.cmd == ("own",)


def test_working_directories_add_up() -> None:
    assert state_after("WORKDIR /a\nWORKDIR b\nWORKDIR ../c").config.working_dir == "/a/c"
    assert state_after("ENV D=/x\nWORKDIR $D/$E").config.working_dir == "/x"
    assert state_after("WORKDIR /a\nWORKDIR $E").config.working_dir == "/a"
    assert state_after("WORKDIR $E").config.working_dir == "/"


def test_a_copys_destination_says_whether_it_is_a_directory() -> None:
    assert copy_of("WORKDIR /w\nCOPY a .").destination == "/w/"
    assert copy_of("COPY a /").destination == "/"
    assert copy_of("WORKDIR /w\nCOPY a sub/").destination == "/w/sub/"
    assert copy_of("COPY a /t/.").destination == "/t/"
    assert copy_of('COPY ["a b", "/c d"]').sources == ("a b",)


def test_the_default_path_is_added_only_when_there_is_none() -> None:
    assert state_after("ENV A=1", ContainerDefaults(env=("PATH=/x",))).config.env == ("PATH=/x", "A=1")


def test_mounts_of_run_are_parsed() -> None:
    run = run_of(
        "WORKDIR /w\nENV D=/c\nRUN --mount=type=cache,target=$D,id=k --mount=type=tmpfs,target=t,size=1m x"
    )
    cache, tmpfs = run.mounts
    assert (cache.kind, cache.target, cache.id, cache.readonly) == ("cache", "/c", "k", False)
    assert (tmpfs.target, tmpfs.size) == ("/w/t", 1 << 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE 80/xyz", "invalid proto: xyz"),
        ("EXPOSE 90-80", "invalid containerPort: 90-80"),
        ("STOPSIGNAL FOO", "Invalid signal: FOO"),
        ("HEALTHCHECK CONNECT TCP 7000", 'Unknown type "CONNECT" in HEALTHCHECK'),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK --interval=1 CMD x", "missing unit in duration"),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "cannot be negative"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("USER 99999999999", "must be in range"),
        ("ENV =x", "ENV names can not be blank"),
        ("ENV A=${B", "failed to process"),
        ("ENV A=${B:?needed}", "B: needed"),
        ("COPY --chmod=u+y a b", "invalid chmod parameter"),
        ("RUN --mount=type=nothing,target=/x y", 'unsupported mount type "nothing"'),
        ("RUN --mount=type=cache y", r'invalid mount target "/"'),
        ("RUN --mount=type=bind,target=/x,uid=1 y", r'uid not allowed for "bind" type mounts'),
        ("RUN --network=mars y", 'invalid network mode: "mars"'),
        ("RUN --security=mars y", 'security "mars" is not valid'),
    ],
)
def test_a_value_that_can_not_work_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        _applied(text)
    assert caught.value.line == 1


@pytest.mark.parametrize("name", ["SIGTERM", "term", "15", "RTMIN+3", "SIGRTMAX-2", "sigquit"])
def test_signals_go_by_name_or_number(name: str) -> None:
    assert state_after(f"STOPSIGNAL {name}").config.stop_signal == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${v#*/}", "b/c.tar.gz"),
        ("${v##*/}", "c.tar.gz"),
        ("${v%.*}", "a/b/c.tar"),
        ("${v%%.*}", "a/b/c"),
        ("${v/b/X}", "a/X/c.tar.gz"),
        ("${v//a/X}", "X/b/c.tXr.gz"),
        ("${v%nothing}", "a/b/c.tar.gz"),
        ("${e-default}", ""),
        ("${e:-default}", "default"),
        ("${e+set}", "set"),
        ("${e:+set}", ""),
    ],
)
def test_substitutions_work_as_documented(text: str, expected: str) -> None:
    env = state_after(f"ENV v=a/b/c.tar.gz e=\nENV r={text}").environment()
    assert env["r"] == expected
