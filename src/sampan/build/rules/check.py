"""A Dockerfile's text in, a report out: the findings of all rules, and the mistake that would end a build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sampan.build.dockerfile.builtin_args import CHECK_OPTIONS
from sampan.build.dockerfile.check import check as check_shape
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import SCRATCH, plan
from sampan.build.dockerfile.state import ArgScope, StageState, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.model import Dockerfile, Plan
from sampan.build.rules.finding import Finding
from sampan.build.rules.flow import Flow
from sampan.build.rules.options import CheckOptions, parse_options
from sampan.build.rules.origins import Origins
from sampan.build.rules.practice import practice_findings
from sampan.build.rules.subject import Subject
from sampan.build.rules.writing import each_alone, writing_findings
from sampan.errors import Invalid, SampanError
from sampan.oci.image import ContainerDefaults
from sampan.oci.reference import parse_reference

MAX_TRIED = 2_000_000
"""Instructions times variables of a Dockerfile whose values are tried: each instruction looks at all variables."""


@dataclass(frozen=True, slots=True)
class Report:
    findings: tuple[Finding, ...]
    """In the order of lines."""
    options: CheckOptions = field(default_factory=CheckOptions)
    mistake: SampanError | None = None
    """What a build would end with; a `DockerfileError` knows its place."""

    @property
    def violation(self) -> str:
        """BuildKit's words when `error=true` is set and something was found; else ""."""
        if not self.options.error or not self.findings:
            return ""
        names = dict.fromkeys(finding.rule.name for finding in self.findings)
        return f"lint violation found for rules: {', '.join(names)}"


def options_of(dockerfile: Dockerfile, given: dict[str, str]) -> CheckOptions:
    """Raises `Invalid`."""
    try:
        return parse_options(given.get(CHECK_OPTIONS, dockerfile.check))
    except Invalid as error:
        raise Invalid(f"failed to parse check options: {error.message}", hint=error.hint) from error


def check_text(raw: bytes, subject: Subject, file: str = "Dockerfile") -> Report:
    """All rules over a Dockerfile that may be wrong. `subject` has everything but the parsed Dockerfile."""
    try:
        dockerfile = parse(raw, file)
    except DockerfileError as mistake:
        return _before_mistake(raw, mistake)
    try:
        options = options_of(dockerfile, subject.given)
    except Invalid as error:
        return Report((), mistake=error)
    for index, item in enumerate(dockerfile.instructions):
        try:
            check_shape(item)
        except DockerfileError as mistake:
            return _report(each_alone(dockerfile.instructions[:index]), options, mistake)
    return check(replace(subject, dockerfile=dockerfile), options)


def check(subject: Subject, options: CheckOptions) -> Report:
    """All rules over a Dockerfile whose instructions are well formed."""
    dockerfile, origins = subject.dockerfile, Origins(subject)
    early = [*writing_findings(dockerfile), *origins.findings()]
    try:
        planned = plan(
            dockerfile,
            build_args=subject.build_args,
            target=subject.target,
            build_platform=subject.build_platform,
            target_platform=subject.target_platform,
            contexts=subject.contexts,
        )
    except SampanError as mistake:
        return _report(early, options, mistake)
    stages = {stage.index for stage in planned.stages} if subject.target else set(planned.every_stage)
    flow = Flow(subject, origins)
    reached = {stage.index for stage in planned.stages}
    found = [*early, *_walk(flow, origins, stages, reached)]
    if subject.practice:
        found += practice_findings(subject, origins.bodies, flow)
    return _report(found, options, first_mistake(subject, planned, stages, names=True))


def build_findings(subject: Subject, planned: Plan, options: CheckOptions) -> Report:
    """BuildKit's rules over what a build needs."""
    if options.skip_all and not options.experimental_all and not options.experimental:
        return Report((), options)
    origins = Origins(subject)
    reached = {stage.index for stage in planned.stages}
    walked = _walk(Flow(subject, origins), origins, reached, reached)
    return _report([*writing_findings(subject.dockerfile), *origins.findings(), *walked], options, None)


def _walk(flow: Flow, origins: Origins, stages: set[int], reached: set[int]) -> Iterator[Finding]:
    for body in origins.bodies:
        found = flow.stage(body, reached=body.index in reached)
        if body.index in stages:
            yield from found
        else:
            list(found)  # what it has become may count for a stage that stands on it


def _report(found: Iterable[Finding], options: CheckOptions, mistake: SampanError | None) -> Report:
    allowed = [item for item in found if options.with_comments(item.comments).allow(item.rule)]
    return Report(tuple(sorted(allowed, key=lambda item: item.first)), options, mistake)


def _before_mistake(raw: bytes, mistake: DockerfileError) -> Report:
    """What can be said about the lines above the one that could not be parsed."""
    lines = raw.split(b"\n")[: max(mistake.line - 1, 0)]
    try:
        above = parse(b"\n".join(lines), mistake.file)
        options = options_of(above, {})
    except SampanError:
        return Report((), mistake=mistake)
    return _report(each_alone(above.instructions), options, mistake)


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except Invalid:
        return False
    return True


def first_mistake(
    subject: Subject, planned: Plan, stages: set[int], *, names: bool = False
) -> SampanError | None:
    """The first instruction of `stages` whose values can't work, as far as this is known without doing anything.

    `names`: with images that can't be: a build that looks for one tells what may be meant.
    """
    items = subject.dockerfile.instructions
    if len(items) * sum(len(item.args) for item in items if item.keyword in ("ARG", "ENV")) > MAX_TRIED:
        return None
    scope = ArgScope(subject.build_args, planned.global_args, planned.platform_args)
    ends: dict[int, StageState] = {}
    known: dict[int, bool] = {}
    for index, stage in sorted(planned.every_stage.items()):
        defaults, known[index] = ContainerDefaults(), stage.base == SCRATCH
        if stage.base_stage is not None and stage.base_stage in ends:
            defaults = ends[stage.base_stage].config
            known[index] = known[stage.base_stage] and not defaults.on_build
        elif not known[index]:
            config = subject.find_base(stage.base, stage.platform or "")
            defaults = config.defaults if config else defaults
            known[index] = config is not None and not defaults.on_build  # triggers may set variables
        state = initial_state(defaults, scope, planned.escape)
        if stage.base_stage is not None and stage.base_stage in ends:
            state = replace(state, args=ends[stage.base_stage].inherited_args())
        if names and index in stages and stage.base not in ("", SCRATCH) and not _is_reference(stage.base):
            name = json.dumps(stage.base, ensure_ascii=False)
            reason = f"failed to parse stage name {name}: invalid reference format"
            return DockerfileError(reason, stage.origin.place())
        for item in stage.instructions:
            try:
                state = apply(state, item).state
            except SampanError as mistake:
                # Without the base's variables a value with one of them can't be judged.
                if index in stages and (known[index] or "$" not in item.text):
                    return mistake
                break
        ends[index] = state
    return None
