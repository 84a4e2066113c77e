"""Every instruction, flag and expansion of the Dockerfile reference. Values are the reference's or BuildKit's."""

from __future__ import annotations

import stat

import pytest

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.expand import expand
from sampan.build.dockerfile.front_end import is_dockerfile_syntax
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse, parse_trigger
from sampan.build.dockerfile.plan import plan
from sampan.build.dockerfile.state import Applied, ArgScope, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.model import CopyOperation, Heredoc, RunOperation
from sampan.build.modes import parse_mode
from sampan.errors import Invalid
from sampan.oci.image import ContainerDefaults

_SUM = "sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d"


def last_of(text: str) -> Applied:
    state = initial_state(ContainerDefaults(), ArgScope({}, {}, {}), "\\")
    applied = Applied(state, "")
    for instruction in parse(text.encode()).instructions:
        check(instruction)
        applied = apply(applied.state, instruction)
    return applied


def copy_of(text: str) -> CopyOperation:
    operation = last_of(text).operation
    assert isinstance(operation, CopyOperation)
    return operation


def run_of(text: str) -> RunOperation:
    operation = last_of(text).operation
    assert isinstance(operation, RunOperation)
    return operation


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("CMD top -b", "cmd", ("/bin/sh", "-c", "top -b")),
        ('CMD ["top", "-b"]', "cmd", ("top", "-b")),
        ("CMD [ top ]", "cmd", ("/bin/sh", "-c", "[ top ]")),
        ("CMD [NaN]", "cmd", ("/bin/sh", "-c", "[NaN]")),
        ('CMD ["\\ud800"]', "cmd", ("\ufffd",)),
        ("CMD", "cmd", ("/bin/sh", "-c", "")),
        ("CMD []", "cmd", ()),
        ("ENTRYPOINT", "entrypoint", ("/bin/sh", "-c", "")),
        ("ENTRYPOINT exec top", "entrypoint", ("/bin/sh", "-c", "exec top")),
        ('ENTRYPOINT ["top"]', "entrypoint", ("top",)),
        ('SHELL ["/bin/bash", "-c"]\nCMD x', "cmd", ("/bin/bash", "-c", "x")),
        ('SHELL ["powershell", "-command"]', "shell", ("powershell", "-command")),
        ("USER patrick:users", "user", "patrick:users"),
        ("ENV U=1\nUSER $U", "user", "1"),
        ("WORKDIR /a\nWORKDIR b\nWORKDIR c", "working_dir", "/a/b/c"),
        ("ENV DIRPATH=/path\nWORKDIR $DIRPATH/$DIRNAME", "working_dir", "/path"),
        ('VOLUME ["/var/log", "/x y"]', "volumes", {"/var/log": {}, "/x y": {}}),
        ("VOLUME /var/log /var/db", "volumes", {"/var/log": {}, "/var/db": {}}),
        ("ENV V='/a b '\nVOLUME $V", "volumes", {"/a b ": {}}),
        ('VOLUME [" /a ", "/b"]', "volumes", {"/a": {}, "/b": {}}),
        ("EXPOSE 80/udp 80", "exposed_ports", {"80/tcp": {}, "80/udp": {}}),
        ("EXPOSE 7000-7002/UDP", "exposed_ports", {"7000/udp": {}, "7001/udp": {}, "7002/udp": {}}),
        ("ENV P='1 2'\nEXPOSE $P", "exposed_ports", {"1/tcp": {}, "2/tcp": {}}),
        ("EXPOSE 1 ${P:-''} \"\"", "exposed_ports", {"1/tcp": {}}),
        ("STOPSIGNAL SIGKILL", "stop_signal", "SIGKILL"),
        ("ENV S=9\nSTOPSIGNAL $S", "stop_signal", "9"),
        (
            'LABEL "com.example.vendor"="ACME Incorporated"',
            "labels",
            {"com.example.vendor": "ACME Incorporated"},
        ),
        ("LABEL a=b \\\n  c='d e' f=g\\ h", "labels", {"a": "b", "c": "d e", "f": "g h"}),
        ("LABEL $UNSET=x a=b", "labels", {"": "x", "a": "b"}),
        ('LABEL d="spans\\\nlines"', "labels", {"d": "spanslines"}),
        (
            "ONBUILD RUN /usr/bin/python-build --dir /app",
            "on_build",
            ("RUN /usr/bin/python-build --dir /app",),
        ),
        ("ONBUILD COPY <<a <<b /d\n1\na\n2\nb", "on_build", ("COPY <<a <<b /d\n1\na\n2\nb",)),
        ("ONBUILD RUN <<-EOF\n\tx\n\tEOF\nUSER u", "on_build", ("RUN <<-EOF\n\tx\nEOF",)),
    ],
)
def test_an_instruction_configures_the_image(text: str, field: str, expected: object) -> None:
    assert getattr(last_of(text).state.config, field) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'ENV MY_NAME="John Doe" MY_DOG=Rex\\ The\\ Dog MY_CAT=fluffy',
            ["John Doe", "Rex The Dog", "fluffy"],
        ),
        ("ENV ONE TWO= THREE=world", ["TWO= THREE=world"]),
        ("ENV A=\\$foo B=\\${foo} C='$x'", ["$foo", "${foo}", "$x"]),
        ("ENV 한국어=값\nENV X=$한국어", ["값", "값"]),
    ],
)
def test_env_sets_what_the_reference_shows(text: str, expected: list[str]) -> None:
    environment = last_of(text).state.environment()
    environment.pop("PATH")
    assert list(environment.values()) == expected


def test_a_health_check_has_all_of_its_times() -> None:
    text = "HEALTHCHECK --interval=5m --timeout=3s --start-period=1s --start-interval=500ms --retries=+3 CMD curl"
    check = last_of(text).state.config.healthcheck
    assert check is not None and check.test == ("CMD-SHELL", "curl")
    assert (check.interval, check.timeout, check.retries) == (300 * 10**9, 3 * 10**9, 3)
    assert (check.start_period, check.start_interval) == (10**9, 500 * 10**6)
    many = last_of("HEALTHCHECK --retries=2147483647 CMD curl").state.config.healthcheck
    assert many is not None and many.retries == 2**31 - 1
    with pytest.raises(DockerfileError, match="invalid --retries"):
        last_of("HEALTHCHECK --retries=2147483648 CMD curl")
    none = last_of("HEALTHCHECK --interval=5m NONE").state.config.healthcheck
    assert none is not None and none.test == ("NONE",)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("COPY a b /c/", "sources", ("a", "b")),
        ("COPY a /c/.", "destination", "/c/"),
        ("WORKDIR /w\nCOPY a ./", "destination", "/w/"),
        ("WORKDIR /w\nCOPY a .", "destination", "/w/"),
        ("WORKDIR /w\nCOPY a c..", "destination", "/w/c.."),
        ('COPY ["a b", "/c"]', "sources", ("a b",)),
        ("COPY arr[[]0].txt /", "sources", ("arr[[]0].txt",)),
        ("ENV F=/bar\nCOPY \\$F /q", "sources", ("$F",)),
        ("COPY a\u00a0b /c", "sources", ("a\u00a0b",)),
        ("COPY --from=build /a /b", "origin", "build"),
        ("COPY --from=nginx:latest /a /b", "origin", "nginx:latest"),
        ("ENV O=1:2\nCOPY --chown=$O a b", "chown", "1:2"),
        ("ARG MODE=440\nCOPY --chmod=$MODE . .", "chmod", "440"),
        ("COPY --chmod=u=rwX,go=rX . .", "chmod", "u=rwX,go=rX"),
        ("COPY --chmod=+x s /", "chmod", "+x"),
        ("COPY --chmod=0007777 s /", "chmod", "0007777"),
        ("COPY --link a b", "link", True),
        ("COPY --link=false a b", "link", False),
        ("COPY --link --chmod=600 a /etc/", "link", False),
        ("COPY --parents ./x/./y/*.txt /p/", "parents", True),
        ("COPY --exclude=*.txt --exclude=*.md hom* /m/", "exclude", ("*.txt", "*.md")),
        ("ENV X=y\nCOPY --exclude=$X a b", "exclude", ("$X",)),
        (
            "COPY --exclude='a b' --exclude=\"c\\\\*\" --exclude='\\\\?' d e",
            "exclude",
            ("a b", "c\\*", "\\?"),
        ),
        ("ADD --keep-git-dir=true https://h/r.git#v1 /b", "keep_git_dir", True),
        (f"ENV S={_SUM}\nADD --checksum=$S https://h/f /", "checksum", _SUM),
        ("ADD --unpack https://h/f.tar /", "unpack", True),
        ("ADD --unpack=false f.tar .", "unpack", False),
        ("ADD f.tar .", "unpack", None),
        ("ADD --exclude=a --link --chmod=644 --chown=u f .", "exclude", ("a",)),
        ("COPY <<-a <<'b' /d/\n\t$PATH\ta\n\ta\n$PATH\nb", "heredocs", None),
    ],
)
def test_copy_and_add_know_their_flags(text: str, field: str, expected: object) -> None:
    value = getattr(copy_of(text), field)
    if field == "heredocs":
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        expected = (Heredoc("a", f"{path}\ta\n", True), Heredoc("b", "$PATH\n", False))
    assert value == expected


@pytest.mark.parametrize(
    ("content", "expected"), [('"q"', '"q"'), ("\\", ""), ("\\\\", "\\"), ("\\$", "$"), ("a\\n", "an")]
)
def test_a_copied_here_document_loses_its_escapes_and_keeps_its_quotes(content: str, expected: str) -> None:
    assert copy_of(f"COPY <<EOF f\n{content}\nEOF").heredocs[0].content == expected + "\n"
    assert copy_of(f"COPY <<'EOF' f\n{content}\nEOF").heredocs[0].content == content + "\n"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RUN <<EOF\na\nEOF", "a\n"),
        ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF", "a\nb\n"),
        ("RUN 3<<EOF\na\nEOF", "a\n"),
        ("RUN <<  EOF\na\nEOF", "a\n"),
        ("RUN <<'one two'\na\none two", "a\n"),
        ("RUN <<eo'f'\na\neof", "a\n"),
        ("RUN <<'e'o\\'f\na\neo'f", "a\n"),
        ("RUN <<EOF\r\na\r\nEOF\r\n", "a\r\n"),
        ("RUN <<-EOF python3\n\ta\n\tEOF", "<<-EOF python3\n\ta\nEOF"),
        ("RUN <<  EOF  > foo\nEOF", "<<  EOF  > foo\nEOF"),
        ("RUN <<A cat <<B\n1\nA\n2\nB", "<<A cat <<B\n1\nA\n2\nB"),
        ('RUN "<<NOHEREDOC"', '"<<NOHEREDOC"'),
        ("RUN cat <<< word", "cat <<< word"),
        ("RUN echo $((1<<3))", "echo $((1<<3))"),
        ("RUN echo a\\\n# comment\n  b", "echo a  b"),
    ],
)
def test_run_has_the_command_of_its_here_documents(text: str, command: str) -> None:
    assert run_of(text).args == ("/bin/sh", "-c", command)


def test_a_here_document_with_an_interpreter_is_a_script() -> None:
    run = run_of("RUN <<-EOF\n\t#!/bin/awk -f\n\tBEGIN\n\tEOF")
    assert (run.args, run.script) == (("/bin/sh", "-c", "/dev/pipes/EOF"), "#!/bin/awk -f\nBEGIN\n")


def test_run_knows_its_flags() -> None:
    run = run_of("RUN --network=none --security=sandbox --mount=type=tmpfs,target=/t --mount=target=/c x")
    assert run.network == "none"
    assert [(mount.kind, mount.target, mount.readonly) for mount in run.mounts] == [
        ("tmpfs", "/t", False),
        ("bind", "/c", True),
    ]


def test_build_arguments_for_the_builder_name_the_host_of_steps_and_the_namespace_of_caches() -> None:
    (instruction,) = parse(b"RUN --mount=type=cache,target=/c --mount=type=bind,target=/b x").instructions
    given = {"BUILDKIT_SANDBOX_HOSTNAME": "foo", "BUILDKIT_CACHE_MOUNT_NS": "team"}
    state = initial_state(ContainerDefaults(), ArgScope(given, {}, {}), "\\")
    run = apply(state, instruction).operation
    assert isinstance(run, RunOperation)
    assert (run.hostname, [mount.id for mount in run.mounts]) == ("foo", ["team//c", ""])
    assert not any(name.startswith("BUILDKIT_") for name in run.env)
    bad = initial_state(ContainerDefaults(), ArgScope({"BUILDKIT_SANDBOX_HOSTNAME": "a\nb"}, {}, {}), "\\")
    with pytest.raises(DockerfileError, match="invalid BUILDKIT_SANDBOX_HOSTNAME"):
        apply(bad, instruction)


def test_of_arg_and_env_the_later_one_counts() -> None:
    state = last_of("ARG A=arg\nENV A=env").state
    assert (state.variables()["A"], state.environment()["A"]) == ("env", "env")
    run = run_of("ENV A=env\nARG A=arg\nRUN x")
    assert "A=arg" in run.env and "A=env" not in run.env and run.key_args == ("A=arg",)
    assert last_of("ENV A=env\nARG A=arg\nENV B=$A").state.environment() | {"PATH": ""} == {
        "PATH": "",
        "A": "env",
        "B": "arg",
    }
    assert last_of("ENV A=env\nARG A\nENV B=$A").state.environment()["B"] == "env"


def test_the_default_of_an_argument_that_is_given_need_not_make_sense() -> None:
    (instruction,) = parse(b"ARG A=${B:?needed}").instructions
    given = initial_state(ContainerDefaults(), ArgScope({"A": "1"}, {}, {}), "\\")
    assert apply(given, instruction).state.variables()["A"] == "1"
    with pytest.raises(DockerfileError, match="B: needed"):
        last_of("ARG A=${B:?needed}")


@pytest.mark.parametrize(
    ("mount", "field", "expected"),
    [
        ("type=cache,target=/c,sharing=LOCKED", "sharing", "locked"),
        ("type=tmpfs,target=/t,size=1.5g", "size", 3 << 29),
        ("type=tmpfs,target=/t,size=64 KiB", "size", 64 << 10),
        ("type=TMPFS,dst=t", "target", "/t"),
        ("target=/b,rw=true", "readonly", False),
    ],
)
def test_a_mount_is_what_buildkit_makes_of_it(mount: str, field: str, expected: object) -> None:
    (option,) = run_of(f"RUN --mount='{mount}' x").mounts
    assert getattr(option, field) == expected


def test_history_tells_the_arguments_that_run_sees_in_their_order() -> None:
    assert last_of("ARG Z=1 A\nENV Z=2\nRUN x").history == "RUN |2 Z=2 A= /bin/sh -c x # buildkit"


def test_history_tells_that_a_git_directory_is_kept() -> None:
    assert "--keep-git-dir=true" in last_of("ADD --keep-git-dir https://h/r.git /").history


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY --from=$S a b", "variable expansion is not supported for --from"),
        ("RUN --mount=from=$S,target=/x y", "'from' doesn't support variable expansion"),
        ("ARG N=none\nRUN --network=$N x", 'invalid network mode: "\\$N"'),
        ("COPY <<EOF <<EOF\na\nEOF\nb\nEOF", "COPY cannot accept a heredoc as a destination"),
        ("RUN <<EOF\na", "unterminated heredoc"),
        ("ONBUILD RUN <<EOF\na", "unterminated heredoc"),
        ("RUN <<../x\n#!/bin/sh\n../x", "can't be called '../x'"),
        ("COPY --chmod=10000 a b", "invalid chmod parameter: '10000'. it should be octal"),
        ("COPY --chmod=u+ a, b", None),
        ("COPY --chmod=u+x, a b", "invalid chmod parameter"),
        ("COPY --chmod=rwx a b", "invalid chmod parameter"),
        ("COPY --chmod=8 a b", "invalid chmod parameter"),
        ("COPY --unpack a b", "unknown flag: --unpack"),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("ADD --parents a b", "unknown flag: --parents"),
        ("RUN --link x", "unknown flag: --link"),
        ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ('CMD ["a", 1]', "arrays must be comprised of strings only"),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("//syntax=other/language\nx", "front end of its own"),
        ('{"syntax": "other/language",\n "x": 1}', "front end of its own"),
        ("#!/usr/bin/other\n// syntax = other", "front end of its own"),
        ("# escape=x\nRUN a", "invalid ESCAPE 'x'"),
        ("# check=a\n# CHECK=b\nRUN a", "only one check parser directive"),
    ],
)
def test_what_buildkit_refuses_is_refused_on_its_line(text: str, message: str | None) -> None:
    if message is None:
        assert last_of(text)
        return
    with pytest.raises(DockerfileError, match=message) as caught:
        last_of(text)
    assert 1 <= caught.value.line <= text.count("\n") + 1


def test_directives_are_read_behind_a_hash_bang_line_but_not_escape() -> None:
    parsed = parse(
        b"#!/usr/bin/env x\n# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nRUN a\\\n b"
    )
    assert (parsed.syntax, parsed.check, parsed.escape) == ("docker/dockerfile:1", "skip=all", "\\")
    assert parsed.instructions[0].args == ("a b",)


@pytest.mark.parametrize("line", ["#directive=v", "# directive =v", "#\tdirective= v", "#\t  dIrEcTiVe=v"])
def test_a_directive_may_have_blanks_and_any_case(line: str) -> None:
    text = line.replace("directive", "syntax").replace("dIrEcTiVe", "sYnTaX")
    assert parse(f"{text}\nFROM a\n".encode()).syntax == "v"
    assert parse(f"# comment\n{text}\nFROM a\n".encode()).syntax == ""


@pytest.mark.parametrize(
    ("syntax", "known"),
    [
        ("", True),
        ("docker/dockerfile:1", True),
        ("docker/dockerfile:1.7-labs", True),
        ("docker.io/docker/dockerfile-upstream:master", True),
        ("mirror.example.com:5000/hub/docker/dockerfile@sha256:" + "0" * 64, True),
        ("dockerfile.v0", True),
        ("docker/dockerfile:1 some words", True),
        ("tonistiigi/other:1", False),
        ("docker/other", False),
        ("evil/dockerfile", False),
        ("No Reference", False),
    ],
)
def test_the_syntax_of_a_dockerfile_is_told_from_other_languages(syntax: str, known: bool) -> None:
    assert is_dockerfile_syntax(syntax) is known


def test_targetstage_is_the_stage_that_is_built() -> None:
    text = b"FROM a AS one\nFROM b-$TARGETSTAGE AS Two\nARG TARGETSTAGE\n"
    assert plan(parse(text), build_args={}).target.base == "b-two"
    assert plan(parse(text), build_args={}, target="one").platform_args["TARGETSTAGE"] == "one"
    assert plan(parse(b"FROM a"), build_args={}).platform_args["TARGETSTAGE"] == "default"


def test_a_trigger_with_a_here_document_runs_in_the_next_build() -> None:
    kept = last_of("ONBUILD COPY --chmod=600 <<EOF /x\n$A\nEOF").state.config.on_build
    assert kept is not None
    trigger = parse_trigger(kept[0])
    assert (trigger.keyword, trigger.heredocs[0].content) == ("COPY", "$A\n")


_FOO = "()[]{}^$.*?|\\x"


@pytest.mark.parametrize(
    ("word", "env", "expected"),
    [
        ("${x:-y}${e:-y}${u:-y}", {"x": "1", "e": ""}, "1yy"),
        ("${x-y}${e-y}${u-y}", {"x": "1", "e": ""}, "1y"),
        ("${x:+y}${e:+y}${u:+y}", {"x": "1", "e": ""}, "y"),
        ("${x+y}${e+y}${u+y}", {"x": "1", "e": ""}, "yy"),
        ("${x:?m}${x?m}${e?m}", {"x": "1", "e": ""}, "11"),
        ("${u:-${x}$x'$x'\"$x\"}", {"x": "1"}, "11$x1"),
        ("${s#f*b}", {"s": "foobarbaz"}, "arbaz"),
        ("${s##f*b}", {"s": "foobarbaz"}, "az"),
        ("${s%b*}", {"s": "foobarbaz"}, "foobar"),
        ("${s%%b*}", {"s": "foobarbaz"}, "foo"),
        ("${s/ba/fo}", {"s": "foobarbaz"}, "fooforbaz"),
        ("${s//ba/fo}", {"s": "foobarbaz"}, "fooforfoz"),
        ("${F#()[]{\\}^$.\\*\\?|\\\\}", {"F": _FOO}, "x"),
        ("${F%%\\**}", {"F": "xx**"}, "xx"),
        ("${F#*x*y}", {"F": "xxyy"}, "y"),
        ("${F#*}|${F#}|${F##}|${F%}", {"F": "xxyy"}, "xxyy|xxyy|xxyy|xxyy"),
        ("${F#?\\?}", {"F": "???y"}, "?y"),
        ("${F%%\\**\\*}", {"F": "a***yy*"}, "a"),
        ("${F#$B}|${F%%$E}", {"F": "xxyy", "B": "x", "E": ""}, "xyy|xxyy"),
        ("${F/$N/.} - ${F//$N/.}", {"F": "/foo*/*/*.txt", "N": "\\*/"}, "/foo.*/*.txt - /foo..*.txt"),
        ("${F/$N/} - ${F//$N/}", {"F": "/tmp/tmp/bar.txt", "N": "/tmp"}, "/tmp/bar.txt - /bar.txt"),
        ("${F/$N/$R} - ${F//$N/$R}", {"F": "/a/foo/b/c", "N": "/?/", "R": "/"}, "/foo/b/c - /foo/c"),
        ("${F//\\//\\/}", {"F": "/tmp/foo.txt"}, "\\/tmp\\/foo.txt"),
        ("${F/$B/ww}", {"F": "xxyy", "B": ""}, "wwxxyy"),
        ("${F///}${u///}", {"F": "xxyy"}, "xxyy"),
        ("${F//*/z}${F//y*/z}${F//$B/z}", {"F": "xy", "B": ""}, "zxzzxzyz"),
        ('${F#"a\\*"}', {"F": "a\\bc"}, "bc"),
        ("$1$@$x${x}y$", {"x": "v"}, "vvy$"),
    ],
)
def test_a_word_is_expanded_as_buildkit_does(word: str, env: dict[str, str], expected: str) -> None:
    assert expand(word, env) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${e:?}", "e: is not allowed to be empty"),
        ("${e:?msg}", "e: msg"),
        ("${u:?}", "u: is not allowed to be unset"),
        ("${u?not $x}", "u: not 1"),
        ("${x:#}", "unsupported modifier"),
        ("${x:%%}", "unsupported modifier"),
        ("${x=a}", "unsupported modifier"),
        ("${x//ww}", "end of statement|missing"),
        ("${x#\\y}", "invalid escape"),
        ("${x", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("'a", "single-quote"),
        ('"a', "double-quote"),
    ],
)
def test_a_word_that_buildkit_refuses_is_refused(word: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        expand(word, {"x": "1", "e": ""})


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        # From chmod(1) of FreeBSD, whose rules BuildKit follows (without a umask).
        ("644", 0o755, 0o644),
        ("go-w", 0o777, 0o755),
        ("=rw,+X", 0o644, 0o666),
        ("=rw,+X", 0o700, 0o777),
        ("+X", 0o644, 0o644),
        ("+X", 0o744, 0o755),
        ("u=rwx,go=rx", 0o600, 0o755),
        ("u=rwx,go=u-w", 0o640, 0o755),
        ("go=", 0o777, 0o700),
        ("g=u-w", 0o720, 0o750),
        ("u=rwX,go=rX", 0o600, 0o644),
        ("u=rwX,go=rX", 0o100, 0o755),
        ("+x", 0o644, 0o755),
        ("u+s,g+s", 0o755, 0o6755),
        ("o+s", 0o755, 0o755),
        ("+t", 0o777, 0o1777),
        ("a-x", 0o777, 0o666),
        ("u-X", 0o700, 0o600),
        ("a=", 0o6777, 0),
        ("g=o,o=", 0o704, 0o740),
        ("u+g-w", 0o460, 0o460),
    ],
)
def test_a_symbolic_mode_changes_what_it_names(change: str, before: int, after: int) -> None:
    assert oct(parse_mode(change).apply(before, is_dir=False)) == oct(after)


def test_a_capital_x_makes_every_directory_searchable() -> None:
    change = parse_mode("u=rwX,go=rX")
    assert change.apply(0o600, is_dir=True) == 0o755
    assert stat.filemode(stat.S_IFREG | change.apply(0o600, is_dir=False)) == "-rw-r--r--"
