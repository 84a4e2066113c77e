"""BuildKit's rules about the instructions of stages, which need to know what stood before: variables, shell."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sampan.build.dockerfile.contexts import context_name
from sampan.build.dockerfile.expand import Expansion, process
from sampan.build.dockerfile.parse import parse_trigger
from sampan.build.dockerfile.plan import SCRATCH
from sampan.build.dockerfile.state import DEFAULT_PATH
from sampan.build.model import Instruction
from sampan.build.rules import catalog
from sampan.build.rules.finding import Finding, at
from sampan.build.rules.nearest import did_you_mean
from sampan.build.rules.origins import Origins
from sampan.build.rules.subject import Body, Declared, Subject
from sampan.build.rules.writing import written
from sampan.errors import Invalid

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_NOT_ENVIRONMENT = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_HEREDOC = re.compile(r"\d*<<-?\s*[^<]+")
_REMOTE = re.compile(r"(?:https?|git|ssh)://|git@[^/]*:")
_EVERYTHING = frozenset({"*", "**", "**/*"})
_MAX_NAMES = 100
"""Undefined variables of one word that are told."""
_MAX_COMPARISONS = 200_000
"""Names compared for suggestions in one Dockerfile; it is a stranger's, and comparing is what takes longest."""
_MAX_COPIED = 1_000_000
"""Variables that stages inherit in one Dockerfile; beyond, what a stage has inherited is not known."""
_MAX_VARIABLE = 64 << 10
"""Characters of a value that is carried on: only names matter here."""


@dataclass
class StageFacts:
    """What a stage has become so far, as far as the rules ask."""

    env: dict[str, str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    """Build arguments, with or without a value, those of the stages below too."""
    shell: tuple[str, ...] = ()
    """What SHELL, or the base image, says; () is Docker's own."""
    workdir_set: bool = False
    base_known: bool = True
    """False: the base image is not here, so that any variable may come from it."""
    triggers: list[str] = field(default_factory=list)
    """ONBUILD of this stage."""


class Flow:
    """Walks through stages in the order of the file; `end` then tells what each has become."""

    def __init__(self, subject: Subject, origins: Origins) -> None:
        self._subject = subject
        self._origins = origins
        self._escape = subject.dockerfile.escape
        self._comparisons = 0
        self._copied = 0
        self.end: dict[int, StageFacts] = {}
        self.declared: dict[int, list[Declared]] = {}
        """Of each stage."""

    def stage(self, body: Body, *, reached: bool = True) -> Iterator[Finding]:
        """`reached`: the target needs it; BuildKit lets ONBUILD triggers act in such stages alone."""
        facts, triggers = self._start(body)
        triggers = triggers if reached else []
        if body.name and context_name(body.name) in self._subject.contexts:
            self.end[body.index] = StageFacts(base_known=False)  # nothing of it is done
            return
        last: dict[str, Instruction] = {}
        declared = self.declared[body.index] = list[Declared]()
        for item in (*triggers, *body.instructions):
            if item.keyword in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
                yield from _repeated(item, last)
            yield from self._instruction(facts, item, declared)
        self.end[body.index] = facts

    def _start(self, body: Body) -> tuple[StageFacts, list[Instruction]]:
        """FROM, and the triggers of what it names, which stand on FROM's line."""
        if body.parent is not None:
            before = self.end[body.parent]
            self._copied += len(before.env) + len(before.declared)
            if self._copied > _MAX_COPIED:
                before = StageFacts(shell=before.shell, workdir_set=before.workdir_set, base_known=False)
            facts = replace(before, env=dict(before.env), declared=set(before.declared), triggers=[])
            texts: Iterable[str] = before.triggers
        elif body.base == SCRATCH:
            facts, texts = StageFacts(), ()
        else:
            config = self._subject.find_base(body.base, body.platform)
            defaults = config.defaults if config else None
            pairs = (pair.partition("=") for pair in (defaults.env if defaults else None) or ())
            facts = StageFacts({name: value for name, _, value in pairs}, base_known=config is not None)
            facts.shell = (defaults.shell if defaults else None) or ()
            texts = (defaults.on_build if defaults else None) or ()
        facts.env.setdefault("PATH", DEFAULT_PATH)
        return facts, [item for text in texts for item in self._trigger(text, body.origin)]

    def _trigger(self, text: str, origin: Instruction) -> Iterator[Instruction]:
        try:
            item = parse_trigger(text, self._escape)
        except Invalid:
            return  # the builder refuses it
        yield replace(item, segments=origin.segments[:1], heredocs=(), comments=(), file=origin.file)

    def _instruction(
        self, facts: StageFacts, item: Instruction, declared: list[Declared]
    ) -> Iterator[Finding]:
        keyword = item.keyword
        if keyword == "ARG":
            yield from self._arg(facts, item, declared)
        elif keyword == "ONBUILD":
            facts.triggers.extend(item.args[:1])
        else:
            yield from self._undefined(facts, item)
        if keyword in ("ENV", "LABEL"):
            yield from self._pairs(facts, item)
        elif keyword == "SHELL":
            facts.shell = item.args
        elif keyword in ("CMD", "ENTRYPOINT") and not item.is_json and not facts.shell:
            text = (
                f"JSON arguments recommended for {written(item)} to prevent unintended behavior "
                "related to OS signals"
            )
            yield at(catalog.JSON_ARGS, text, item)
        elif keyword == "WORKDIR" and item.args:
            yield from self._workdir(facts, item)
        elif keyword == "EXPOSE":
            yield from self._expose(facts, item)
        elif keyword in ("COPY", "ADD"):
            yield from self._copy(facts, item)

    def start_shell(self, body: Body) -> tuple[str, ...]:
        """The shell that the stage begins with; of stages that have been walked through."""
        if body.parent is not None:
            return self.end[body.parent].shell
        config = None if body.base in ("", SCRATCH) else self._subject.find_base(body.base, body.platform)
        return (config.defaults.shell if config else None) or ()

    def expanded(self, facts: StageFacts, text: str, *, raw: bool = False) -> Expansion | None:
        try:
            return process(text, facts.env, "\\" if raw else self._escape, keep_quotes=raw)
        except Invalid:
            return None

    def _undefined(self, facts: StageFacts, item: Instruction) -> Iterator[Finding]:
        for text, raw in _words(item):
            if "$" in text:
                yield from self._unset(facts, item, text, raw=raw)

    def _unset(
        self, facts: StageFacts, item: Instruction, text: str, *, raw: bool = False
    ) -> Iterator[Finding]:
        expanded = self.expanded(facts, text, raw=raw)
        if expanded is None or not facts.base_known:
            return
        for name in sorted(expanded.unset - facts.declared - _NOT_ENVIRONMENT)[:_MAX_NAMES]:
            self._comparisons += len(facts.env)
            meant = did_you_mean(name, facts.env, "$") if self._comparisons <= _MAX_COMPARISONS else ""
            message = f"Usage of undefined variable '${name}'{meant}"
            yield at(catalog.UNDEFINED_VAR, message, item)

    def _arg(self, facts: StageFacts, item: Instruction, declared: list[Declared]) -> Iterator[Finding]:
        given, inherited = self._subject.given, self._origins.global_args
        for argument in item.args:
            name, equals, default = argument.partition("=")
            yield from _sensitive("ARG", name, item)
            value, from_head = given.get(name), False
            if value is None and equals:
                yield from self._unset(facts, item, default)
                expanded = self.expanded(facts, default)
                value = expanded.text if expanded else ""
            elif value is None:
                value, from_head = inherited.get(name), name in inherited
            declared.append(Declared(name, value or "", item, inherited=from_head))
            if value is not None and name not in _NOT_ENVIRONMENT:
                facts.env[name] = value[:_MAX_VARIABLE]
            facts.declared.add(name)

    def _pairs(self, facts: StageFacts, item: Instruction) -> Iterator[Finding]:
        word, changed = written(item), dict[str, str]()
        for index in range(0, len(item.args) - 2, 3):
            if item.args[index + 2] == "":
                text = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
                yield at(catalog.LEGACY_PAIRS, text, item)
            if item.keyword == "ENV":
                name, value = (self.expanded(facts, part) for part in item.args[index : index + 2])
                if name is not None:
                    yield from _sensitive("ENV", name.text, item)
                    changed[name.text] = value.text[:_MAX_VARIABLE] if value else ""
        facts.env |= changed

    def _workdir(self, facts: StageFacts, item: Instruction) -> Iterator[Finding]:
        """The first WORKDIR alone: with it corrected, the others are right too."""
        expanded = self.expanded(facts, item.args[0])
        if expanded and not facts.workdir_set and not expanded.text.startswith("/"):
            path = json.dumps(expanded.text, ensure_ascii=False)
            text = f"Relative workdir {path} can have unexpected results if the base image changes"
            yield at(catalog.WORKDIR_RELATIVE, text, item)
        facts.workdir_set = True

    def _expose(self, facts: StageFacts, item: Instruction) -> Iterator[Finding]:
        for argument in sorted(item.args):
            expanded = self.expanded(facts, argument)
            for port in expanded.words if expanded else ():
                container, _, protocol = port.rpartition(":")[2].partition("/")
                if protocol.lower() not in ("", "tcp", "udp", "sctp") or not container:
                    return
                if protocol != protocol.lower():
                    text = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    yield at(catalog.EXPOSE_CASING, text, item)
                if port.rpartition(":")[0].strip(":"):
                    text = (
                        "EXPOSE instruction should not define an IP address or host-port mapping, "
                        f"found '{port}'"
                    )
                    yield at(catalog.EXPOSE_FORMAT, text, item)

    def _copy(self, facts: StageFacts, item: Instruction) -> Iterator[Finding]:
        """With a `!` in the ignore file nothing is said: a file of an ignored directory may be let in again."""
        rules = self._subject.ignore
        if not rules or any(negated for negated, _ in rules.patterns):
            return
        if any(flag.startswith("--from=") for flag in item.flags):
            return
        for source in self.sources(facts, item):
            path = posixpath.normpath(source)
            if path in (".", "/") and not any(pattern in _EVERYTHING for _, pattern in rules.patterns):
                continue
            if rules.excludes(path):
                command = "Add" if item.keyword == "ADD" else "Copy"
                shown = json.dumps(path, ensure_ascii=False)
                text = f"Attempting to {command} file {shown} that is excluded by .dockerignore"
                yield at(catalog.COPY_IGNORED, text, item)

    def sources(self, facts: StageFacts, item: Instruction) -> Iterator[str]:
        """The sources of COPY or ADD that are paths in the context, expanded."""
        for argument in item.args[:-1]:
            expanded = None if _HEREDOC.fullmatch(argument) else self.expanded(facts, argument)
            if expanded and expanded.text and not _REMOTE.match(expanded.text):
                yield expanded.text


def _words(item: Instruction) -> Iterator[tuple[str, bool]]:
    """The words in which BuildKit expands variables of this instruction; True: quotes stay, in here-documents."""
    keyword, args = item.keyword, item.args
    if keyword in ("ENV", "LABEL"):
        yield from ((text, False) for index, text in enumerate(args) if index % 3 < 2)
    elif keyword in ("WORKDIR", "USER", "STOPSIGNAL", "VOLUME"):
        yield from ((text, False) for text in args)
    elif keyword in ("COPY", "ADD"):
        flags = ("chown", "chmod", "checksum") if keyword == "ADD" else ("chown", "chmod")
        for flag in item.flags:
            name, _, value = flag.removeprefix("--").partition("=")
            if name in flags:
                yield value, False
        yield from ((text, False) for text in args if not _HEREDOC.fullmatch(text))
        yield from ((doc.content, True) for doc in item.heredocs if doc.expand)
    elif keyword == "RUN":
        for flag in item.flags:
            if flag.startswith("--mount="):
                yield from ((part.partition("=")[2], False) for part in flag[8:].split(","))


def _repeated(item: Instruction, last: dict[str, Instruction]) -> Iterator[Finding]:
    """Told where the one stands that has no effect."""
    before = last.get(item.keyword)
    if before is not None:
        text = (
            f"Multiple {written(item)} instructions should not be used in the same stage "
            "because only the last one will be used"
        )
        yield replace(at(catalog.MULTIPLE, text, before), comments=item.comments)
    last[item.keyword] = item


def _sensitive(keyword: str, name: str, item: Instruction) -> Iterator[Finding]:
    if _SECRET.search(name) and not _HARMLESS.search(name):
        text = f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{name}")'
        yield at(catalog.SECRETS, text, item)
