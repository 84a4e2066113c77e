"""The vertices of a plan and their names, in BuildKit's words: `[builder 2/4] RUN make`. Pure.

Only what works on files is a vertex. A base image counts as its stage's first step; `scratch` and other stages don't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.build.dockerfile.plan import SCRATCH, origins, stage_of
from sampan.build.events import Vertex
from sampan.build.model import Instruction, Plan, Stage
from sampan.build.solver.voice import Name, vertex_digest
from sampan.errors import Invalid
from sampan.oci.digest import Digest

_ON_FILES = frozenset({"RUN", "COPY", "ADD", "WORKDIR"})
_MAX_TEXT = 500


def stage_names(stage: Stage, lasts: Mapping[int, Digest], plan: Plan) -> tuple[Name, ...]:
    """FROM's and every instruction's. `lasts`: the last vertex of each stage that this one needs."""
    count = len(plan.every_stage)
    from_image = bool(stage.base) and stage.base != SCRATCH
    total = from_image + sum(one.keyword in _ON_FILES for one in stage.instructions)
    label = _label(stage, count)
    names: list[Name] = []
    number = 0
    below: tuple[Digest, ...] = () if stage.base_stage is None else _known(lasts, stage.base_stage)
    for index, instruction in enumerate((stage.origin, *stage.instructions)):
        digest = vertex_digest(str(stage.index), str(index), instruction.text)
        if instruction.keyword not in _ON_FILES and not (index == 0 and from_image):
            names.append(Name(digest))
            continue
        number += 1
        inputs = below
        for origin in origins(instruction):
            found = _stage_of(origin, plan)
            if found is not None:
                inputs += _known(lasts, found)
        shown = one_line(instruction.text) if index else f"FROM {stage.base}"
        text = f"[{label}{number:>{len(str(total))}}/{total}] {shown}"
        names.append(Name(digest, text, tuple(dict.fromkeys(inputs))))
        below = (digest,)
    return tuple(names)


def trigger_names(stage: Stage, triggers: Sequence[Instruction], plan: Plan) -> tuple[Name, ...]:
    """Of the ONBUILD triggers of a stage's base, which nobody knows before the base is there."""
    label = _label(stage, len(plan.every_stage))
    names = []
    for index, trigger in enumerate(triggers):
        digest = vertex_digest(str(stage.index), f"trigger {index}", trigger.text)
        text = f"[{label}onbuild {index + 1}/{len(triggers)}] {one_line(trigger.text)}"
        names.append(Name(digest, text if trigger.keyword in _ON_FILES else ""))
    return tuple(names)


def plan_names(plan: Plan) -> dict[int, tuple[Name, ...]]:
    """Of every stage in the plan, by its index in the Dockerfile."""
    names: dict[int, tuple[Name, ...]] = {}
    lasts: dict[int, Digest] = {}
    for stage in plan.stages:
        names[stage.index] = stage_names(stage, lasts, plan)
        told = [name.vertex for name in names[stage.index] if name.text]
        inherited = () if stage.base_stage is None else _known(lasts, stage.base_stage)
        for last in (*inherited, *told):
            lasts[stage.index] = last
    return names


def announced(names: Mapping[int, Sequence[Name]]) -> list[Vertex]:
    """The graph as it is known before anything runs."""
    return [
        Vertex(name.vertex, name.text, name.inputs) for stage in names.values() for name in stage if name.text
    ]


def one_line(text: str) -> str:
    line = " ".join(text[: 2 * _MAX_TEXT].split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…"


def _label(stage: Stage, count: int) -> str:
    if stage.name:
        return stage.name + " "
    return f"stage-{stage.index} " if count > 1 else ""


def _known(lasts: Mapping[int, Digest], stage: int) -> tuple[Digest, ...]:
    return (lasts[stage],) if stage in lasts else ()


def _stage_of(origin: str, plan: Plan) -> int | None:
    try:
        return stage_of(origin, plan.names, len(plan.every_stage))
    except Invalid:
        return None  # told when the instruction is reached
