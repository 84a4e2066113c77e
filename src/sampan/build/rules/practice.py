"""sampan's own rules of good practice, told by --check alone: what the image stands on, runs as and copies. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from sampan.build.dockerfile.plan import SCRATCH, stage_of
from sampan.build.model import Instruction
from sampan.build.rules.finding import Finding, Rule, at
from sampan.build.rules.flow import Flow
from sampan.build.rules.practice_run import install_step, run_findings
from sampan.build.rules.subject import Body, Subject, ancestry
from sampan.errors import Invalid
from sampan.oci.image import ContainerDefaults
from sampan.oci.reference import DEFAULT_TAG, parse_reference

RUNS_AS_ROOT = Rule(
    "RunsAsRoot",
    "A process that breaks out of its container has the rights on the host that it had inside; root has all of them",
    fix="Make a user (RUN useradd -r app) and end the last stage with USER app, after the steps that need root.",
)
UNPINNED_BASE = Rule(
    "UnpinnedBaseImage",
    "Without a tag, or with latest, the base is another image tomorrow, and a build that worked may fail or change",
    fix="Name a version: FROM debian:12.5, or a digest: FROM debian:12.5@sha256:...",
)
BASE_WITHOUT_DIGEST = Rule(
    "BaseImageWithoutDigest",
    "A tag can be moved to another image; a digest always names the same bytes",
    fix="Add the digest: FROM debian:12.5@sha256:... (docker image inspect shows it under RepoDigests).",
    experimental=True,
)
ADD_FOR_COPY = Rule(
    "AddInsteadOfCopy",
    "ADD also fetches URLs and unpacks archives: a file whose name or content changes may be treated in another way",
    fix="Write COPY; keep ADD for archives, URLs and Git repositories.",
)
COPY_BEFORE_INSTALL = Rule(
    "CopyBeforeDependencies",
    "With all sources copied before the dependencies are installed, any change of a source installs them anew",
    fix="Copy the lists of dependencies first (COPY package.json package-lock.json ./), install, then COPY . .",
)
NO_IGNORE_FILE = Rule(
    "MissingDockerignore",
    "A copy of the whole context takes along .git, local builds and secrets, and is invalidated by any of them",
    fix="Write a .dockerignore beside the Dockerfile that names what the image does not need.",
)
NO_HEALTHCHECK = Rule(
    "MissingHealthcheck",
    "A service whose port is open but does not answer looks well to the engine, which can't restart it",
    fix="Add HEALTHCHECK CMD with a command that asks the service, or HEALTHCHECK NONE if something else does.",
)

_ROOT_USERS = frozenset({"root", "0", ""})
_UNPRIVILEGED = ("nonroot", "rootless", "unprivileged")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst")


def practice_findings(subject: Subject, bodies: tuple[Body, ...], flow: Flow) -> Iterator[Finding]:
    """`flow` has walked through all stages."""
    if not bodies:
        return
    target = _target(subject, bodies)
    chain = ancestry(bodies, target.index)
    for body in bodies:
        yield from _pinned(body)
        yield from _copies(subject, body, flow)
        yield from _order(flow, body)
        shell = flow.start_shell(body)
        yield from run_findings(body, shell, flow.end[body.index].env, kept=body in chain)
    yield from _user(subject, chain, flow)
    yield from _health(subject, chain)


def _target(subject: Subject, bodies: tuple[Body, ...]) -> Body:
    names = {body.name: body.index for body in bodies if body.name}
    try:
        found = stage_of(subject.target, names, len(bodies)) if subject.target else None
    except Invalid:
        found = None
    return bodies[-1 if found is None else found]


def _pinned(body: Body) -> Iterator[Finding]:
    if body.parent is not None or body.base in ("", SCRATCH):
        return
    try:
        reference = parse_reference(body.base)
    except Invalid:
        return
    if reference.digest is not None:
        return
    if reference.tag in (None, DEFAULT_TAG):
        yield at(UNPINNED_BASE, f"Base image {body.base} can be another one at the next build", body.origin)
    else:
        yield at(BASE_WITHOUT_DIGEST, f"Base image {body.base} is named without a digest", body.origin)


def _base_defaults(subject: Subject, chain: list[Body]) -> ContainerDefaults | None:
    """Of the image that the stages stand on; None: unknown, or there is none."""
    lowest = chain[-1]
    config = None if lowest.base in ("", SCRATCH) else subject.find_base(lowest.base, lowest.platform)
    return config.defaults if config else None


def _user(subject: Subject, chain: list[Body], flow: Flow) -> Iterator[Finding]:
    for body in chain:
        users = [item for item in body.instructions if item.keyword == "USER" and item.args]
        if users:
            facts = flow.end[body.index]
            expanded = flow.expanded(facts, users[-1].args[0])
            if expanded is None or (expanded.unset and not facts.base_known):
                return
            if expanded.text.partition(":")[0] in _ROOT_USERS:
                yield at(RUNS_AS_ROOT, "The image runs as root: its last USER says so", users[-1])
            return
    defaults = _base_defaults(subject, chain)
    user = defaults.user.partition(":")[0] if defaults else ""
    if user in _ROOT_USERS and not any(word in chain[-1].base for word in _UNPRIVILEGED):
        yield at(RUNS_AS_ROOT, "The image runs as root: no USER says otherwise", chain[0].origin)


def _health(subject: Subject, chain: list[Body]) -> Iterator[Finding]:
    items = [item for body in chain for item in body.instructions]
    exposed = [item for item in items if item.keyword == "EXPOSE"]
    if not exposed or any(item.keyword == "HEALTHCHECK" for item in items):
        return
    defaults = _base_defaults(subject, chain)
    if defaults is None or defaults.healthcheck is None:
        yield at(NO_HEALTHCHECK, "The image exposes a port and has no health check", exposed[0])


def _copies(subject: Subject, body: Body, flow: Flow) -> Iterator[Finding]:
    for item in body.instructions:
        if item.keyword not in ("COPY", "ADD") or _from_elsewhere(item):
            continue
        sources = list(flow.sources(flow.end[body.index], item))
        if item.keyword == "ADD" and sources and _plain(item, sources):
            yield at(ADD_FOR_COPY, f"ADD {' '.join(sources)[:200]} needs nothing that COPY can't do", item)
        if subject.ignore is None and any(_is_root(source) for source in sources):
            yield at(NO_IGNORE_FILE, "The whole context is copied, and there is no .dockerignore", item)


def _from_elsewhere(item: Instruction) -> bool:
    return any(flag.startswith("--from=") for flag in item.flags)


def _is_root(source: str) -> bool:
    return posixpath.normpath(source) in (".", "/", "//")


def _plain(item: Instruction, sources: list[str]) -> bool:
    """Nothing to fetch or to unpack: neither by its name nor, for a pattern, by what it may match."""
    if len(sources) != len(item.args) - 1 or any(
        flag.startswith(("--unpack", "--checksum")) for flag in item.flags
    ):
        return False
    return not any(source.lower().endswith(_ARCHIVES) or source.endswith("*") for source in sources)


def _order(flow: Flow, body: Body) -> Iterator[Finding]:
    """All sources in one COPY, and the first installation of dependencies after it."""
    for index, item in enumerate(body.instructions):
        if item.keyword == "RUN" and install_step(item):
            return
        if item.keyword != "COPY" or _from_elsewhere(item):
            continue
        if not any(_is_root(source) for source in flow.sources(flow.end[body.index], item)):
            continue
        later = [step for step in body.instructions[index + 1 :] if step.keyword == "RUN"]
        names = [name for step in later if (name := install_step(step))]
        if names:
            yield at(COPY_BEFORE_INSTALL, f"All sources are copied before {names[0]}", item)
        return
