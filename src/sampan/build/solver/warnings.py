"""BuildKit's checks in an ordinary build: their findings are warnings, and an error where the Dockerfile says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sampan.build.dockerfile.builtin_args import SYNTAX
from sampan.build.dockerfile.front_end import is_dockerfile_syntax
from sampan.build.events import VertexWarning
from sampan.build.files.context import ignore_rules
from sampan.build.model import BuildRequest, Dockerfile, Plan
from sampan.build.rules.check import build_findings, first_mistake, options_of
from sampan.build.rules.finding import Finding
from sampan.build.rules.subject import Subject, no_base, replaceable
from sampan.build.worker import Report
from sampan.errors import Invalid
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig

FindConfig = Callable[[str, str | None], ImageConfig | None]
"""From an image's name and a platform to its configuration when the image is here."""


def tell_findings(
    dockerfile: Dockerfile,
    planned: Plan,
    request: BuildRequest,
    context_fd: int,
    build_platform: str,
    find_config: FindConfig,
    report: Report,
    vertex: Digest,
) -> None:
    """Before anything is done. Nothing is pulled for it: of a base that is not here its variables are not known.

    Raises `Invalid` for `error=true` with findings, for options that can't be read, and for an instruction that can't
    work: it is better known before the first step than after all that stand above it.
    """
    options = options_of(
        dockerfile, {name: value for name, value in request.build_args.items() if value is not None}
    )

    def find_base(name: str, platform: str) -> ImageConfig | None:
        return find_config(name, platform or request.platform)

    subject = Subject(
        dockerfile,
        build_args=request.build_args,
        target=request.target,
        build_platform=build_platform,
        target_platform=request.platform or build_platform,
        find_base=replaceable(find_base, request.contexts),
        contexts=request.contexts,
        ignore=ignore_rules(context_fd, request),
        practice=False,
    )
    found = build_findings(subject, planned, options)
    for finding in found.findings:
        report(warning_of(finding, vertex, request.dockerfile or "Dockerfile"))
    if found.violation:
        raise Invalid(found.violation, hint="`# check=error=true` in the Dockerfile makes findings errors")
    if request.pull:
        subject = replace(subject, find_base=no_base)  # what is here is not what will be pulled
    mistake = first_mistake(subject, planned, {stage.index for stage in planned.stages})
    if mistake is not None:
        raise mistake


def tell_front_end(dockerfile: Dockerfile, request: BuildRequest, report: Report, vertex: Digest) -> None:
    """What is written for another front end is read as a Dockerfile all the same: mostly it is one."""
    syntax = request.build_args.get(SYNTAX) or dockerfile.syntax
    if not is_dockerfile_syntax(syntax):
        report(
            VertexWarning(
                vertex,
                f"the front end {syntax[:200]} is not loaded: {request.dockerfile or 'Dockerfile'} is read as one of "
                "docker/dockerfile",
            )
        )


def warning_of(finding: Finding, vertex: Digest, file: str) -> VertexWarning:
    """In BuildKit's form."""
    rule = finding.rule
    return VertexWarning(
        vertex,
        f"{rule.name}: {finding.message} (line {finding.first})",
        detail=(rule.description,),
        url=rule.url,
        file=file,
        line=finding.first,
    )
