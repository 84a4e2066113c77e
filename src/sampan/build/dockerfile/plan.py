"""Instructions to stages: what is built from what, and which stages the target needs. Pure.

What depends on a base image's configuration (variables from its ENV, ONBUILD triggers) can't be known here;
`instructions.py` deals with it stage by stage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sampan.build.dockerfile.check import Flags, check, mistake
from sampan.build.dockerfile.contexts import context_name
from sampan.build.dockerfile.expand import expand
from sampan.build.dockerfile.healthcheck import health_of
from sampan.build.errors import DockerfileError
from sampan.build.model import Dockerfile, Instruction, Place, Plan, Stage
from sampan.errors import Invalid, NotFound

MAX_STAGES = 1000
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
SCRATCH = "scratch"


def plan(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str | None],
    target: str = "",
    build_platform: str = "linux/amd64",
    target_platform: str = "",
    contexts: Collection[str] = (),
) -> Plan:
    """`contexts`: names of those that replace a stage or an image, as `context_name` writes them.

    Raises `DockerfileError`, and `NotFound` for an unknown target."""
    for instruction in dockerfile.instructions:
        check(instruction)
        if instruction.keyword == "HEALTHCHECK":
            health_of(instruction)
    head, bodies = _split(dockerfile)
    platform_args = platform_args_of(build_platform, target_platform or build_platform)
    known = {name: build_args.get(name) or value for name, value in platform_args.items()}
    last = bodies[-1][0].args
    default_target = last[2].lower() if len(last) == 3 else "default"
    known["TARGETSTAGE"] = build_args.get("TARGETSTAGE") or target or default_target
    global_args = _global_args(head, build_args, known, dockerfile.escape)
    scope = {**known, **global_args}
    stages: list[Stage] = []
    names: dict[str, int] = {}
    for index, body in enumerate(bodies):
        stage = _in_context(_stage(index, body, names, scope, dockerfile.escape), contexts)
        stages.append(stage)
        if stage.name:
            names[stage.name] = index
    every = {stage.index: _with_needs(stage, stages, names) for stage in stages}
    goal = _goal(target, names, every)
    order = _order([goal], every)
    _order(sorted(every), every)  # a circle is a mistake in stages that are not needed too
    return Plan(
        tuple(every[index] for index in order),
        tuple(head),
        global_args,
        names,
        every,
        known,
        dockerfile.escape,
    )


def stage_of(origin: str, names: Mapping[str, int], count: int) -> int | None:
    """The stage that `--from=origin` names; None when it is an image. Raises `Invalid` for a wrong index."""
    if origin.lower() in names:
        return names[origin.lower()]
    if origin.isascii() and origin.isdecimal():
        if len(origin) > 6 or int(origin) >= count:
            raise Invalid(f"invalid stage index {origin}")
        return int(origin)
    return None


def _split(dockerfile: Dockerfile) -> tuple[list[Instruction], list[list[Instruction]]]:
    """The ARGs before the first FROM, and each FROM with what follows it."""
    head: list[Instruction] = []
    bodies: list[list[Instruction]] = []
    for instruction in dockerfile.instructions:
        if instruction.keyword == "FROM":
            bodies.append([instruction])
        elif bodies:
            bodies[-1].append(instruction)
        elif instruction.keyword == "ARG":
            head.append(instruction)
        else:
            raise mistake(instruction, "no build stage in current context", "FROM before anything but ARG")
    if not bodies:
        last = dockerfile.instructions[-1]
        raise mistake(last, "no build stage in current context", "FROM")
    if len(bodies) > MAX_STAGES:
        raise mistake(bodies[MAX_STAGES][0], f"more than {MAX_STAGES} stages")
    return head, bodies


def platform_args_of(build: str, target: str) -> dict[str, str]:
    """BUILDPLATFORM, TARGETARCH and their like, of two `os/architecture[/variant]`."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        system, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        values |= {
            f"{prefix}PLATFORM": platform,
            f"{prefix}OS": system,
            f"{prefix}OSVERSION": "",
            f"{prefix}ARCH": architecture,
            f"{prefix}VARIANT": variant,
        }
    return values


def _global_args(
    head: Sequence[Instruction], build_args: Mapping[str, str | None], known: Mapping[str, str], escape: str
) -> dict[str, str]:
    values: dict[str, str] = {}
    for instruction in head:
        for argument in instruction.args:
            name, equals, default = argument.partition("=")
            given = build_args.get(name)
            if given is not None:
                values[name] = given
            elif equals:
                values[name] = _expanded(instruction, default, {**known, **values}, escape)
    return values


def _expanded(instruction: Instruction, text: str, scope: Mapping[str, str], escape: str) -> str:
    try:
        return expand(text, scope, escape)
    except Invalid as error:
        raise mistake(instruction, f"failed to process {text!r}: {error.message}", fragment=text) from error


def _stage(
    index: int, body: Sequence[Instruction], names: Mapping[str, int], scope: Mapping[str, str], escape: str
) -> Stage:
    origin = body[0]
    name = origin.args[2].lower() if len(origin.args) == 3 else ""
    if name and not _STAGE_NAME.fullmatch(name):
        what = "name can't start with a number or contain symbols"
        raise mistake(
            origin,
            f'invalid name for build stage: "{origin.args[2]}", {what}',
            "a letter, then letters, digits, `_`, `.`, `-`",
            origin.args[2],
        )
    base = _expanded(origin, origin.args[0], scope, escape)
    if not base:
        raise mistake(
            origin, f"base name ({origin.args[0]}) should not be blank", "an image or a stage", origin.args[0]
        )
    flag = Flags(origin).get("platform")
    platform = _expanded(origin, flag, scope, escape) or None
    if flag and platform is None:
        raise mistake(origin, f"empty platform value from expression {flag}", "os/architecture", flag)
    stage = names.get(base.lower())
    return Stage(
        index, name, origin, "" if stage is not None else base, stage, platform, tuple(body[1:]), frozenset()
    )


def _in_context(stage: Stage, contexts: Collection[str]) -> Stage:
    """A context replaces a stage of its name, whole, and an image that a stage begins with."""
    if stage.name and context_name(stage.name) in contexts:
        return replace(stage, base=stage.name, base_stage=None, instructions=(), is_context=True)
    if stage.base and stage.base != SCRATCH and context_name(stage.base) in contexts:
        return replace(stage, is_context=True)
    return stage


def _with_needs(stage: Stage, stages: Sequence[Stage], names: Mapping[str, int]) -> Stage:
    needs: set[int] = set() if stage.base_stage is None else {stage.base_stage}
    for instruction in stage.instructions:
        for origin in origins(instruction):
            try:
                found = stage_of(origin, names, len(stages))
            except Invalid as error:
                raise mistake(
                    instruction, error.message, f"0 to {len(stages) - 1}, or a stage's name", origin
                ) from error
            if found is not None:
                needs.add(found)
    return replace(stage, needs=frozenset(needs))


def origins(instruction: Instruction) -> list[str]:
    """The `from` of COPY, and of RUN's mounts."""
    flags = Flags(instruction)
    if instruction.keyword == "COPY":
        return [flags.get("from")] if flags.get("from") else []
    if instruction.keyword != "RUN":
        return []
    pairs = [part.partition("=") for mount in flags.every("mount") for part in mount.split(",")]
    return [value for key, _, value in pairs if key.strip().lower() == "from" and value]


def _goal(target: str, names: Mapping[str, int], every: Mapping[int, Stage]) -> int:
    if not target:
        return max(every)
    try:
        found = stage_of(target, names, len(every))
    except Invalid:
        found = None
    if found is None:
        stages = ", ".join(sorted(names)) or f"0 to {max(every)} (no stage has a name)"
        raise NotFound(f'target stage "{target}" could not be found', hint=f"the stages are: {stages}")
    return found


def _order(goals: Sequence[int], every: Mapping[int, Stage]) -> list[int]:
    """What the goals need, and they. Depth first, without recursion. Raises `DockerfileError` for a circle."""
    done: dict[int, None] = {}
    path: list[int] = []
    pending: list[tuple[int, bool]] = [(goal, False) for goal in reversed(goals)]
    while pending:
        index, leaving = pending.pop()
        if leaving:
            path.pop()
            done[index] = None
            continue
        if index in done:
            continue
        if index in path:
            raise _circle(every[index])
        path.append(index)
        pending.append((index, True))
        pending += [(need, False) for need in sorted(every[index].needs, reverse=True)]
    return list(done)


def _circle(stage: Stage) -> DockerfileError:
    place: Place = stage.origin.place()
    return DockerfileError(
        f"circular dependency detected on stage: {stage.name or stage.index}",
        place,
        expected="stages that do not need themselves",
    )
