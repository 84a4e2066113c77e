"""`--call outline` and `targets`: what a Dockerfile can be given, and which stages it has; BuildKit's JSON. Pure."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sampan.build.model import Dockerfile, Instruction, Plan
from sampan.build.rules.finding import lines_of
from sampan.build.rules.flow import Flow
from sampan.build.rules.origins import Origins, written_platform
from sampan.build.rules.report import Json, line_ranges
from sampan.build.rules.subject import Body, Declared, Subject


def targets(dockerfile: Dockerfile, raw: bytes) -> Json:
    stages = [item for item in dockerfile.instructions if item.keyword == "FROM"]
    return {
        "targets": [_target(item, last=item is stages[-1]) for item in stages],
        "sources": [base64.b64encode(raw).decode()],
    }


def outline(subject: Subject, planned: Plan, raw: bytes) -> Json:
    """Of the plan's target: the build arguments that have a meaning for it, the secrets and the ssh agents."""
    origins = Origins(subject)
    flow = Flow(subject, origins)
    for body in origins.bodies:
        for _ in flow.stage(body):
            pass
    seen = _Seen()
    for index in _from_target_on(planned):
        seen.stage(origins, flow, origins.bodies[index])
    target = planned.target
    told: Json = {"name": target.name, "description": _description(target.origin, target.name)}
    listed = {
        "args": [_argument(one) for one in _by_line(seen.args.values())],
        "secrets": _mounts(seen.secrets),
        "ssh": _mounts(seen.ssh),
    }
    return {
        **{name: value for name, value in told.items() if value},
        **{name: items for name, items in listed.items() if items},
        "sources": [base64.b64encode(raw).decode()],
    }


@dataclass
class _Seen:
    args: dict[str, Declared] = field(default_factory=dict)
    secrets: dict[str, tuple[bool, Instruction]] = field(default_factory=dict)
    ssh: dict[str, tuple[bool, Instruction]] = field(default_factory=dict)

    def stage(self, origins: Origins, flow: Flow, body: Body) -> None:
        """What was seen of a name before stays: the target comes first."""
        known = {one.name: one for one in origins.declared}
        own = flow.declared.get(body.index, [])
        used = [*body.uses, *(one.name for one in own)]
        known |= {one.name: one for one in own if not one.inherited}
        pending, done = used[::-1], set[str]()  # as they are written
        while pending:
            name = pending.pop()
            if name in done:
                continue
            done.add(name)
            if name in known:
                self.args.setdefault(name, known[name])
                pending += known[name].needs
        for item in body.instructions:
            for kind, name, required in _wanted(flow, body, item):
                (self.secrets if kind == "secret" else self.ssh).setdefault(name, (required, item))


def _from_target_on(planned: Plan) -> list[int]:
    """The target, what it stands on, then what it takes files from, each with its own."""
    order: dict[int, None] = {}
    pending = [planned.target.index]
    while pending:
        index = pending.pop()
        if index in order:
            continue
        order[index] = None
        stage = planned.every_stage[index]
        pending += sorted(stage.needs - {stage.base_stage}, reverse=True)
        if stage.base_stage is not None:
            pending.append(stage.base_stage)
    return list(order)


def _wanted(flow: Flow, body: Body, item: Instruction) -> Iterator[tuple[str, str, bool]]:
    """Secrets and agents of a RUN: kind, id, whether the build fails without."""
    for flag in item.flags if item.keyword == "RUN" else ():
        if not flag.startswith("--mount="):
            continue
        fields: dict[str, str] = {}
        for part in flag[8:].split(","):
            key, equals, value = part.partition("=")
            expanded = flow.expanded(flow.end[body.index], value)
            fields[key.strip().lower()] = expanded.text if expanded and equals else "true"
        required = fields.get("required", "false").lower() in ("true", "1", "t")
        if fields.get("type") == "ssh":
            yield "ssh", fields.get("id") or "default", required
        elif fields.get("type") == "secret":
            target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
            source = (
                fields.get("source") or fields.get("src") or fields.get("id") or posixpath.basename(target)
            )
            if source:
                yield "secret", source, required


def _target(item: Instruction, *, last: bool) -> Json:
    name = item.args[2].lower() if len(item.args) == 3 else ""
    texts = {
        "name": name,
        "default": last,
        "description": _description(item, name),
        "base": item.args[0] if item.args else "",
        "platform": written_platform(item),
    }
    return {**{key: value for key, value in texts.items() if value}, **_location(item)}


def _argument(one: Declared) -> Json:
    texts = {"description": _description(one.item, one.name), "value": one.value}
    return {"name": one.name, **{key: text for key, text in texts.items() if text}, **_location(one.item)}


def _mounts(found: dict[str, tuple[bool, Instruction]]) -> list[Json]:
    ordered = sorted(found.items(), key=lambda one: one[1][1].place().line)
    return [
        {"name": name, **({"required": True} if required else {}), **_location(item)}
        for name, (required, item) in ordered
    ]


def _by_line(found: Iterable[Declared]) -> Sequence[Declared]:
    return sorted(found, key=lambda one: one.item.place().line)


def _location(item: Instruction) -> Json:
    return {"location": {"ranges": line_ranges(*lines_of(item))}}


def _description(item: Instruction, name: str) -> str:
    """What a comment above it says: `# NAME description`."""
    if name:
        for comment in item.comments:
            if comment.startswith(f"{name} "):
                return comment[len(name) + 1 :]
    return ""
