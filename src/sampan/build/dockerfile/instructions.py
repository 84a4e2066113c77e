"""One instruction applied to a stage's state: the next state, the work to do, the line for history. Pure.

History lines are in BuildKit's style (`RUN /bin/sh -c ... # buildkit`, `ENV A=b`), which is what
`docker history` shows for images built today.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable
from dataclasses import replace

from sampan.build.dockerfile.builtin_args import cache_id_of, hostname_of
from sampan.build.dockerfile.check import Flags, mistake
from sampan.build.dockerfile.expand import Expansion, expand_heredoc, process
from sampan.build.dockerfile.healthcheck import health_of
from sampan.build.dockerfile.heredoc import marker_of
from sampan.build.dockerfile.mounts import parse_mount
from sampan.build.dockerfile.ports import MAX_PORTS, parse_port_specs
from sampan.build.dockerfile.run_flags import network_of, security_of
from sampan.build.dockerfile.state import Applied, StageState
from sampan.build.errors import DockerfileError, DockerfileUnsupported
from sampan.build.model import (
    CopyOperation,
    Heredoc,
    Instruction,
    MountOption,
    RunOperation,
    WorkdirOperation,
)
from sampan.build.modes import parse_mode
from sampan.errors import Invalid, Unsupported

SUFFIX = " # buildkit"
_PATH_MAX = 4096
MAX_EXPANDED = 16 << 20
"""Characters."""


def apply(state: StageState, instruction: Instruction) -> Applied:
    """Raises `DockerfileError` when a value can't work, `DockerfileUnsupported`."""
    try:
        return _HANDLERS[instruction.keyword](state, instruction)
    except (DockerfileError, DockerfileUnsupported):
        raise  # it knows its place
    except Invalid as error:
        raise mistake(instruction, error.message, error.hint) from error
    except Unsupported as error:
        raise DockerfileUnsupported(error.message, instruction.place(), hint=error.hint) from error


def _quoted(items: tuple[str, ...]) -> str:
    return "[" + " ".join(json.dumps(item, ensure_ascii=False) for item in items) + "]"


class _Expander:
    """Of one instruction: all values see the variables as they were before it. Together they are bounded, as a
    variable may be long and is written in two characters."""

    def __init__(self, state: StageState, instruction: Instruction) -> None:
        self.variables = state.variables()
        self._escape = state.escape
        self._instruction = instruction
        self._left = MAX_EXPANDED

    def text(self, text: str) -> str:
        return self._processed(text).text

    def words(self, text: str) -> list[str]:
        return self._processed(text).words

    def heredoc(self, item: Heredoc) -> str:
        if not item.expand:
            return item.text
        text = expand_heredoc(item.text, self.variables)
        self._count(text)
        return text

    def _processed(self, text: str) -> Expansion:
        try:
            found = process(text, self.variables, self._escape)
        except Invalid as error:
            words = f"failed to process {json.dumps(text)}: {error.message}"
            raise mistake(self._instruction, words, fragment=text) from error
        self._count(found.text)
        return found

    def _count(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise mistake(
                self._instruction,
                f"the values of one instruction add up to more than {MAX_EXPANDED} characters",
            )


def _expanded(state: StageState, instruction: Instruction, text: str) -> str:
    return _Expander(state, instruction).text(text)


def _pairs(state: StageState, instruction: Instruction, *, kind: str) -> list[tuple[str, str]]:
    flat, expander = instruction.args, _Expander(state, instruction)
    pairs: list[tuple[str, str]] = []
    for index in range(0, len(flat), 3):
        name = expander.text(flat[index])
        if not name and kind == "ENV":  # a label's may be what is left of an unset variable
            raise mistake(instruction, f"{kind} names can not be blank", "name=value", flat[index])
        pairs.append((name, expander.text(flat[index + 1])))
    return pairs


def _env(state: StageState, instruction: Instruction) -> Applied:
    pairs = _pairs(state, instruction, kind="ENV")
    given = dict(pairs)
    env = tuple(f"{name}={value}" for name, value in {**state.environment(), **given}.items())
    args = {name: given.get(name, value) for name, value in state.args.items()}
    return Applied(
        replace(state.with_config(env=env), args=args),
        "ENV " + " ".join(f"{name}={value}" for name, value in pairs),
    )


def _label(state: StageState, instruction: Instruction) -> Applied:
    pairs = _pairs(state, instruction, kind="LABEL")
    labels = {**(state.config.labels or {}), **dict(pairs)}
    return Applied(
        state.with_config(labels=labels), "LABEL " + " ".join(f"{key}={text}" for key, text in pairs)
    )


def _arg(state: StageState, instruction: Instruction) -> Applied:
    args, expander = dict(state.args), _Expander(state, instruction)
    shown: list[str] = []
    for argument in instruction.args:
        name, equals, default = argument.partition("=")
        if not name:
            raise mistake(instruction, "ARG names can not be blank", "ARG name[=default]")
        # A default that does not count need not make sense: `ARG A=${B:?needed}`.
        counts = equals and state.scope.given.get(name) is None
        value = state.scope.value(name, expander.text(default) if counts else None)
        # Without a value of its own it is what it was, for instance in the stage that this one stands on.
        args[name] = args.get(name) if value is None else value
        if value is not None:
            expander.variables[name] = value
        shown.append(name if value is None else f"{name}={value}")
    return Applied(replace(state, args=args), "ARG " + " ".join(shown))


def _run(state: StageState, instruction: Instruction) -> Applied:
    flags = Flags(instruction)
    if flags.has("device"):
        # Without its device the command would do something else than what the author asked for.
        raise mistake(
            instruction, "RUN --device is not supported: build steps get no devices", "", "--device"
        )
    expander = _Expander(state, instruction)
    mounts = tuple(_mount(state, expander, text) for text in flags.every("mount"))
    args, script = _run_command(state, instruction)
    shown = " ".join(args)
    key_args = state.run_args()
    told = state.told_args()
    prefix = f"|{len(told)} {' '.join(told)} " if told else ""
    operation = RunOperation(
        args=args,
        env=state.run_environment(),
        key_args=key_args,
        cwd=state.cwd,
        user=state.config.user,
        network=network_of(instruction),
        mounts=mounts,
        shown=shown,
        script=script,
        security=security_of(instruction),
        hostname=hostname_of(state.scope.given),
    )
    return Applied(state, f"RUN {prefix}{shown}{SUFFIX}", operation)


def _mount(state: StageState, expander: _Expander, text: str) -> MountOption:
    mount = parse_mount(text, expander.text, state.cwd)
    return replace(mount, id=cache_id_of(mount.id, state.scope.given)) if mount.kind == "cache" else mount


def _run_command(state: StageState, instruction: Instruction) -> tuple[tuple[str, ...], str]:
    """The command, and the content of a script when a here-document brings its own interpreter."""
    if instruction.is_json:
        return instruction.args, ""
    command = instruction.args[0] if instruction.args else ""
    heredocs = instruction.heredocs
    if not heredocs:
        return (*state.shell, command), ""
    if marker_of(command) is not None:
        content = heredocs[0].text
        if content.startswith("#!"):
            return (*state.shell, _script_path(instruction, heredocs[0].name)), content
        return (*state.shell, content), ""
    whole = command + "".join(f"\n{item.content}{item.name}" for item in heredocs)
    return (*state.shell, whole), ""


def _script_path(instruction: Instruction, name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise mistake(
            instruction, f"a here-document with an interpreter can't be called {name!r}", "a file name"
        )
    return f"/dev/pipes/{name}"


def _cmd(state: StageState, instruction: Instruction) -> Applied:
    command = _command(state, instruction)
    return Applied(replace(state.with_config(cmd=command), cmd_is_own=True), f"CMD {_quoted(command)}")


def _entrypoint(state: StageState, instruction: Instruction) -> Applied:
    command = _command(state, instruction)
    state = state.with_config(entrypoint=command or None)
    if not state.cmd_is_own:
        state = state.with_config(cmd=None)
    return Applied(state, f"ENTRYPOINT {_quoted(command)}")


def _command(state: StageState, instruction: Instruction) -> tuple[str, ...]:
    """BuildKit's: the shell gets an empty command where there is none."""
    if instruction.is_json:
        return instruction.args
    return (*state.shell, instruction.args[0] if instruction.args else "")


def _copy(state: StageState, instruction: Instruction) -> Applied:
    flags = Flags(instruction)
    keyword = instruction.keyword
    names = {item.name for item in instruction.heredocs}
    if _is_heredoc(instruction.args[-1], names):
        raise mistake(instruction, f"{keyword} cannot accept a heredoc as a destination", "a path")
    expander = _Expander(state, instruction)
    *sources, destination = [expander.text(arg) for arg in instruction.args if not _is_heredoc(arg, names)]
    absolute = _absolute(state.cwd, destination)
    heredocs = tuple(Heredoc(item.name, expander.heredoc(item), item.expand) for item in instruction.heredocs)
    chown, chmod, checksum = (expander.text(flags.get(name)) for name in ("chown", "chmod", "checksum"))
    operation = CopyOperation(
        # BuildKit's: a variable that is not set stands for all of it. The checks warn of undefined variables.
        sources=tuple(source or "/" for source in sources),
        heredocs=heredocs,
        destination=absolute,
        origin=flags.get("from"),
        chown=chown,
        chmod=_checked_mode(instruction, chmod),
        is_add=keyword == "ADD",
        # BuildKit's: on a root of its own the directories above would get the mode, /etc among them.
        link=flags.truth("link") and not chmod,
        parents=flags.truth("parents"),
        exclude=tuple(flags.every("exclude")),
        checksum=checksum,
        unpack=flags.truth("unpack") if flags.has("unpack") else None,
        keep_git_dir=flags.truth("keep-git-dir"),
    )
    shown = "".join(f"--{name}={text} " for name, text in _shown_flags(operation))
    listed = [*sources, *(f"<<{item.name}" for item in heredocs), destination]
    return Applied(state, f"{keyword} {shown}{' '.join(listed)}{SUFFIX}", operation)


def _shown_flags(operation: CopyOperation) -> list[tuple[str, str]]:
    flags = [
        ("from", operation.origin),
        ("chown", operation.chown),
        ("chmod", operation.chmod),
        ("link", "true" if operation.link else ""),
        ("parents", "true" if operation.parents else ""),
        ("keep-git-dir", "true" if operation.keep_git_dir else ""),
        ("checksum", operation.checksum),
        ("unpack", "" if operation.unpack is None else str(operation.unpack).lower()),
        *(("exclude", pattern) for pattern in operation.exclude),
    ]
    return [(name, text) for name, text in flags if text]


def _is_heredoc(arg: str, names: set[str]) -> bool:
    marker = marker_of(arg) if names else None
    return marker is not None and marker.name in names


def _checked_mode(instruction: Instruction, chmod: str) -> str:
    if chmod:
        try:
            parse_mode(chmod)
        except Invalid as error:
            raise mistake(instruction, error.message, error.hint, "--chmod") from error
    return chmod


def _absolute(cwd: str, path: str) -> str:
    """A trailing slash is kept: it says that a directory is meant; so do `/.` at the end and `.` alone."""
    joined = posixpath.normpath(posixpath.join(cwd or "/", path)).replace("//", "/", 1)
    is_directory = path.endswith(("/", "/.")) or path in (".", "")
    return joined + "/" if is_directory and joined != "/" else joined


def _workdir(state: StageState, instruction: Instruction) -> Applied:
    text = _expanded(state, instruction, instruction.args[0])  # empty: the directory stays as it is
    path = posixpath.normpath(posixpath.join(state.cwd, text))
    path = "/" + path.lstrip("/")
    if len(path) >= _PATH_MAX:
        raise mistake(instruction, f"the working directory's path is longer than {_PATH_MAX - 1} characters")
    operation = WorkdirOperation(path, state.config.user or "")
    return Applied(state.with_config(working_dir=path), f"WORKDIR {path}", operation)


def _user(state: StageState, instruction: Instruction) -> Applied:
    user = _expanded(state, instruction, instruction.args[0])
    for part in user.split(":"):
        if part.isdecimal() and int(part[:12]) > 2**31 - 1:
            raise mistake(
                instruction,
                f"user {user!r}: uids and gids must be in range 0-2147483647",
                "a name or a number",
            )
    return Applied(state.with_config(user=user), f"USER {user}")


def _expose(state: StageState, instruction: Instruction) -> Applied:
    expander = _Expander(state, instruction)
    ports = parse_port_specs([word for arg in sorted(instruction.args) for word in expander.words(arg)])
    count = state.exposed + len(ports)
    if count > MAX_PORTS:
        raise mistake(instruction, f"more than {MAX_PORTS} ports in the EXPOSE instructions of a stage")
    exposed = {**(state.config.exposed_ports or {}), **{port: {} for port in ports}}
    state = replace(state.with_config(exposed_ports=dict(sorted(exposed.items()))), exposed=count)
    return Applied(state, f"EXPOSE [{' '.join(ports)}]")


def _volume(state: StageState, instruction: Instruction) -> Applied:
    expander = _Expander(state, instruction)
    paths = [expander.text(arg.strip()) for arg in instruction.args]
    if not all(paths):
        raise mistake(instruction, "VOLUME specified can not be an empty string", "a path")
    volumes = {**(state.config.volumes or {}), **{path: {} for path in paths}}
    return Applied(state.with_config(volumes=volumes), f"VOLUME [{' '.join(paths)}]")


def _stopsignal(state: StageState, instruction: Instruction) -> Applied:
    name = _expanded(state, instruction, instruction.args[0])
    if not _is_signal(name):
        raise mistake(instruction, f"Invalid signal: {name}", "a name such as SIGTERM, or a number up to 64")
    return Applied(state.with_config(stop_signal=name), f"STOPSIGNAL {name}")


def _is_signal(name: str) -> bool:
    if name.isdecimal():
        return len(name) <= 2 and 1 <= int(name) <= 64
    short = name.upper().removeprefix("SIG")
    known = {item.name.removeprefix("SIG") for item in signal.Signals} | {"POLL", "CLD", "IOT", "STKFLT"}
    return (
        short in known or re.fullmatch(r"RTM(IN(\+([1-9]|1[0-5]))?|AX(-([1-9]|1[0-4]))?)", short) is not None
    )


def _shell(state: StageState, instruction: Instruction) -> Applied:
    if not instruction.args:
        raise mistake(instruction, "SHELL requires at least one argument", '["shell", "-c"]')
    return Applied(state.with_config(shell=instruction.args), f"SHELL [{' '.join(instruction.args)}]")


def _healthcheck(state: StageState, instruction: Instruction) -> Applied:
    check = health_of(instruction)
    if check.test == ("NONE",):
        return Applied(state.with_config(healthcheck=check), "HEALTHCHECK NONE")
    shown = "".join(f"{flag} " for flag in instruction.flags)
    kind, *rest = instruction.args
    return Applied(state.with_config(healthcheck=check), f"HEALTHCHECK {shown}{kind} {_quoted(tuple(rest))}")


def _onbuild(state: StageState, instruction: Instruction) -> Applied:
    text = instruction.args[0]
    triggers = (*(state.config.on_build or ()), text)
    return Applied(state.with_config(on_build=triggers), "")


def _maintainer(state: StageState, instruction: Instruction) -> Applied:
    return Applied(replace(state, author=instruction.args[0]), f"MAINTAINER {instruction.args[0]}")


_HANDLERS: dict[str, Callable[[StageState, Instruction], Applied]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
