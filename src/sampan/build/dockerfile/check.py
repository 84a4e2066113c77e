"""Pure checks of an instruction's shape: its flags and how many arguments it takes, in Docker's words."""

from __future__ import annotations

import difflib

from sampan.build.dockerfile.expand import expand
from sampan.build.errors import DockerfileError
from sampan.build.model import Instruction
from sampan.errors import Invalid

_FLAGS: dict[str, frozenset[str]] = {
    "FROM": frozenset({"platform"}),
    "RUN": frozenset({"mount", "network", "security", "device"}),
    "COPY": frozenset({"from", "chown", "chmod", "link", "parents", "exclude"}),
    "ADD": frozenset({"chown", "chmod", "link", "keep-git-dir", "checksum", "exclude", "unpack"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "start-interval", "retries"}),
}
_BOOLEAN = frozenset({"link", "parents", "keep-git-dir", "unpack"})
_REPEATABLE = frozenset({"mount", "exclude", "device"})
TRUTHS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}

_EXACTLY_ONE = frozenset({"MAINTAINER", "ONBUILD", "STOPSIGNAL", "USER", "WORKDIR"})
_AT_LEAST_ONE = frozenset({"ARG", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "SHELL", "VOLUME"})
_WITH_NAMES = frozenset({"ARG", "ENV", "LABEL"})


class Flags:
    """The flags of one instruction by name. Raises `DockerfileError` for one that it does not have."""

    def __init__(self, instruction: Instruction) -> None:
        self._instruction = instruction
        self._values: dict[str, list[str]] = {}
        known = _FLAGS.get(instruction.keyword, frozenset())
        for flag in instruction.flags:
            name, equals, value = flag.removeprefix("--").partition("=")
            if name not in known:
                raise self._mistake(f"unknown flag: --{name}{_suggestion(name, known)}", name, known)
            if name in self._values and name not in _REPEATABLE:
                raise self._mistake(f"duplicate flag specified: {name}", name, known)
            if name in _BOOLEAN:
                if equals and value.lower() not in TRUTHS:
                    raise self._mistake(f"expecting boolean value for flag {name}, not: {value}", name, known)
                value = value or "true"
            elif not equals:
                raise self._mistake(f"missing a value on flag: {name}", name, known)
            self._values.setdefault(name, []).append(value)

    def get(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def every(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def truth(self, name: str) -> bool:
        return TRUTHS[self.get(name).lower()] if name in self._values else False

    def has(self, name: str) -> bool:
        return name in self._values

    def _mistake(self, reason: str, name: str, known: frozenset[str]) -> DockerfileError:
        expected = ", ".join(f"--{flag}" for flag in sorted(known)) or "no flag"
        return DockerfileError(reason, self._instruction.place(f"--{name}"), expected=expected)


def _suggestion(name: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def check(instruction: Instruction) -> None:
    """Raises `DockerfileError` for a shape that can't work whatever the variables are."""
    keyword, args = instruction.keyword, instruction.args
    if keyword == "HEALTHCHECK" and args == ("NONE",):
        return  # whatever its flags are: Docker does not look at them
    Flags(instruction)
    if keyword in _EXACTLY_ONE and len(args) != 1:
        raise mistake(instruction, f"{keyword} requires exactly one argument", "one argument")
    if keyword in _AT_LEAST_ONE and not args:
        raise mistake(instruction, f"{keyword} requires at least one argument", "an argument")
    if keyword == "FROM" and not _is_from(args):
        raise mistake(
            instruction,
            "FROM requires either one or three arguments",
            "FROM [--platform=os/arch] image [AS name]",
        )
    if keyword in ("COPY", "ADD") and len(args) < 2:
        count = "no arguments were" if not args else "only one argument was"
        raise mistake(
            instruction,
            f"{keyword} requires at least two arguments, but {count} provided. "
            "Destination could not be determined",
            f"{keyword} source ... destination",
        )
    if keyword in _WITH_NAMES and any(not name for name in _names(instruction)):
        raise mistake(instruction, f"{keyword} names can not be blank", "name=value", "=")
    if keyword == "SHELL" and not instruction.is_json:
        raise mistake(instruction, "SHELL requires the arguments to be in JSON form", '["shell", "-c"]')
    if keyword == "RUN" and instruction.is_json and not args:
        raise mistake(instruction, "RUN requires at least one argument", "a command")
    _check_origins(instruction)
    if instruction.trigger is not None:
        _check_trigger(instruction, instruction.trigger)


def _names(instruction: Instruction) -> list[str]:
    """What ARG, ENV and LABEL name."""
    if instruction.keyword == "ARG":
        return [arg.partition("=")[0] for arg in instruction.args]
    return list(instruction.args[::3])


def _check_origins(instruction: Instruction) -> None:
    """`from` names what must be known before any variable is."""
    flags = Flags(instruction)
    origin = flags.get("from") if instruction.keyword == "COPY" else ""
    if origin and not _is_plain(origin):
        raise mistake(
            instruction,
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global "
            "scope as a workaround",
            "a stage's name or number, or an image",
            "--from",
        )
    mounts = flags.every("mount") if instruction.keyword == "RUN" else []
    for part in (part for mount in mounts for part in mount.split(",")):
        key, _, value = part.partition("=")
        if key.strip().lower() == "from" and "$" in value[:-1]:
            raise mistake(
                instruction,
                "'from' doesn't support variable expansion, define alias stage instead",
                "a stage's name or number, or an image",
                part,
            )


def _is_plain(text: str) -> bool:
    try:
        return expand(text, {}) == text
    except Invalid:
        return False


def mistake(instruction: Instruction, reason: str, expected: str = "", fragment: str = "") -> DockerfileError:
    return DockerfileError(reason, instruction.place(fragment), expected=expected)


def _is_from(args: tuple[str, ...]) -> bool:
    return len(args) == 1 or (len(args) == 3 and args[1].lower() == "as")


def _check_trigger(instruction: Instruction, trigger: Instruction) -> None:
    if trigger.keyword == "ONBUILD":
        raise mistake(instruction, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger.keyword in ("FROM", "MAINTAINER"):
        raise mistake(instruction, f"{trigger.keyword} isn't allowed as an ONBUILD trigger")
    check(trigger)
