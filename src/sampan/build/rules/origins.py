"""BuildKit's rules about FROM, and the stages as later rules need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sampan.build.dockerfile.expand import Expansion, process
from sampan.build.dockerfile.plan import SCRATCH, platform_args_of
from sampan.build.model import Instruction
from sampan.build.rules import catalog
from sampan.build.rules.finding import Finding, at
from sampan.build.rules.nearest import did_you_mean
from sampan.build.rules.subject import Body, Declared, Subject
from sampan.errors import Invalid
from sampan.oci.reference import parse_reference
from sampan.registry.platforms import parse_platform

_MANY = 1000
"""Names of build arguments among which none is suggested any more: comparing them all takes too long."""


class Origins:
    """Global build arguments and stages. What can't be expanded is left out: the builder itself refuses it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._escape = subject.dockerfile.escape
        head, bodies = _split(subject.dockerfile.instructions)
        predefined = platform_args_of(subject.build_platform, subject.target_platform)
        predefined["TARGETSTAGE"] = subject.target or "default"
        self.predefined = {name: subject.given.get(name, value) for name, value in predefined.items()}
        self.declared: list[Declared] = []
        """The build arguments before the first FROM, as they are in this build."""
        self._defaults = self._globals(head, {})
        self.declared.clear()
        self.global_args = self._globals(head, subject.given)
        self._known = {*self.global_args, *(one.name for one in self.declared)}
        self.bodies = self._bodies(bodies)

    def findings(self) -> Iterator[Finding]:
        for body in self.bodies:
            yield from self._default_name(body.origin)
        for body in self.bodies:
            yield from self._undeclared(body.origin, body.origin.args[0])
            yield from self._platform(body)
        for body in self.bodies:
            yield from self._base_platform(body)

    def _globals(self, head: Iterable[Instruction], given: Mapping[str, str]) -> dict[str, str]:
        values = dict(self.predefined)
        for item in head:
            for arg in item.args:
                name, equals, default = arg.partition("=")
                expanded = self._expanded(default, values)
                needs = frozenset[str]()
                if name in given:
                    values[name] = given[name]
                elif equals and expanded is not None:
                    values[name], needs = expanded.text, frozenset(expanded.used)
                self.declared.append(Declared(name, values.get(name, ""), item, needs))
        return values

    def _expanded(self, text: str, values: Mapping[str, str]) -> Expansion | None:
        try:
            return process(text, values, self._escape)
        except Invalid:
            return None

    def _bodies(self, parts: list[list[Instruction]]) -> tuple[Body, ...]:
        names: dict[str, int] = {}
        bodies: list[Body] = []
        for index, (origin, *rest) in enumerate(parts):
            base = self._expanded(origin.args[0], self.global_args)
            platform = self._expanded(written_platform(origin), self.global_args)
            text = base.text if base else ""
            body = Body(
                index,
                origin,
                tuple(rest),
                text,
                platform.text if platform else "",
                names.get(text.lower()),
                frozenset((base.used if base else set()) | (platform.used if platform else set())),
            )
            bodies.append(body)
            if body.name:
                names[body.name] = index
        return tuple(bodies)

    def _default_name(self, origin: Instruction) -> Iterator[Finding]:
        """With the defaults alone FROM must name an image."""
        expanded = self._expanded(origin.args[0], self._defaults)
        if expanded is None:
            return
        try:
            parse_reference(expanded.text)
        except Invalid:
            text = f"Default value for ARG {origin.args[0]} results in empty or invalid base image name"
            yield at(catalog.DEFAULT_ARG_IN_FROM, text, origin, local=False)

    def _undeclared(self, origin: Instruction, text: str) -> Iterator[Finding]:
        expanded = self._expanded(text, self.global_args)
        for name in sorted(expanded.unset - self._known) if expanded else ():
            meant = did_you_mean(name, sorted(self._known)) if len(self._known) <= _MANY else ""
            message = f"FROM argument '{name}' is not declared{meant}"
            yield at(catalog.UNDEFINED_ARG_IN_FROM, message, origin)

    def _platform(self, body: Body) -> Iterator[Finding]:
        origin, flag = body.origin, written_platform(body.origin)
        if not flag:
            return
        yield from self._undeclared(origin, flag)
        expanded = self._expanded(flag, self.global_args)
        if expanded is None:
            return
        alone = expanded.used == {"TARGETPLATFORM"} and not expanded.unset
        if alone and expanded.text == self.global_args["TARGETPLATFORM"]:
            text = (
                f"Setting platform to predefined {flag} in FROM is redundant as this is the default behavior"
            )
            yield at(catalog.REDUNDANT_PLATFORM, text, origin)
        if not expanded.used and not expanded.unset:
            yield from _constant_platform(body, expanded.text)

    def _base_platform(self, body: Body) -> Iterator[Finding]:
        """Of an image that is here: another platform than the build wants."""
        if body.parent is not None or body.base in ("", SCRATCH):
            return
        try:
            wanted = parse_platform(body.platform or self._subject.target_platform)
        except Invalid:
            return
        found = self._subject.find_base(body.base, body.platform)
        if found is None or (found.os, found.architecture) == (wanted.os, wanted.architecture):
            return
        actual = "/".join(part for part in (found.os, found.architecture, found.variant) if part)
        expected = "/".join(part for part in (wanted.os, wanted.architecture, wanted.variant) if part)
        text = (
            f'Base image {body.base} was pulled with platform "{actual}", expected "{expected}" '
            "for current build"
        )
        yield at(catalog.BASE_PLATFORM, text, body.origin, local=False)


def _constant_platform(body: Body, text: str) -> Iterator[Finding]:
    """Allowed when the stage's name tells the operating system or the architecture."""
    try:
        platform = parse_platform(text)
    except Invalid:
        return
    if platform.os not in body.name and platform.architecture not in body.name:
        message = f'FROM --platform flag should not use constant value "{text}"'
        yield at(catalog.CONST_PLATFORM, message, body.origin)


def written_platform(origin: Instruction) -> str:
    values = [flag.removeprefix("--platform=") for flag in origin.flags if flag.startswith("--platform=")]
    return values[0] if values else ""


def _split(instructions: Iterable[Instruction]) -> tuple[list[Instruction], list[list[Instruction]]]:
    """The ARGs before the first FROM, and each usable FROM with what follows it."""
    head: list[Instruction] = []
    bodies: list[list[Instruction]] = []
    for item in instructions:
        if item.keyword == "FROM" and item.args:
            bodies.append([item])
        elif bodies:
            bodies[-1].append(item)
        elif item.keyword == "ARG":
            head.append(item)
    return head, bodies
