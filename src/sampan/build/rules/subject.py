"""What is checked: a Dockerfile, and what is known about the build that it would be used in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sampan.build.dockerfile.contexts import IMAGE, context_name
from sampan.build.model import Dockerfile, Instruction
from sampan.oci.ignore import IgnoreRules
from sampan.oci.image import ImageConfig

FindBase = Callable[[str, str], ImageConfig | None]
"""From an image's name and a platform ("": the build's) to its configuration; None: it is not known."""


def replaceable(find: FindBase, contexts: Mapping[str, str]) -> FindBase:
    """Of an image that a named context replaces: the configuration of what it is replaced by, if that is an image."""

    def found(name: str, platform: str) -> ImageConfig | None:
        context = contexts.get(context_name(name), "") if contexts else ""
        if context and not context.startswith(IMAGE):
            return None
        return find(context.removeprefix(IMAGE) or name, platform)

    return found


def no_base(_name: str, _platform: str) -> ImageConfig | None:
    return None


@dataclass(frozen=True, slots=True)
class Subject:
    dockerfile: Dockerfile
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    target: str = ""
    """A stage; with "" all stages are looked at."""
    build_platform: str = "linux/amd64"
    target_platform: str = "linux/amd64"
    find_base: FindBase = no_base
    ignore: IgnoreRules | None = None
    """None: the context has no ignore file."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts: they replace the stages and images of their names (`context_name`)."""
    practice: bool = True
    """With our own rules of good practice, not BuildKit's alone."""

    @property
    def given(self) -> dict[str, str]:
        return {name: value for name, value in self.build_args.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Declared:
    """A build argument as an ARG declares it."""

    name: str
    value: str
    item: Instruction
    needs: frozenset[str] = frozenset()
    """Arguments in its default value."""
    inherited: bool = False
    """Its value is the one from before the first FROM."""


@dataclass(frozen=True, slots=True)
class Body:
    """A stage as it is written."""

    index: int
    origin: Instruction
    instructions: tuple[Instruction, ...]
    base: str
    """FROM's image or stage, expanded; "" when that failed."""
    platform: str
    """FROM's --platform, expanded."""
    parent: int | None
    """The stage that it stands on."""
    uses: frozenset[str] = frozenset()
    """Build arguments in FROM."""

    @property
    def name(self) -> str:
        return self.origin.args[2].lower() if len(self.origin.args) == 3 else ""


def ancestry(bodies: Sequence[Body], index: int) -> list[Body]:
    """The stage and those that it stands on, itself first."""
    chain = [bodies[index]]
    while (parent := chain[-1].parent) is not None:
        chain.append(bodies[parent])
    return chain
