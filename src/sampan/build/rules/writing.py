"""BuildKit's rules about how a Dockerfile is written: they look at instructions alone and expand nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sampan.build.model import Dockerfile, Instruction
from sampan.build.rules import catalog
from sampan.build.rules.finding import Finding, at


def writing_findings(dockerfile: Dockerfile) -> Iterator[Finding]:
    yield from _empty_continuations(dockerfile)
    yield from each_alone(dockerfile.instructions)
    yield from _stage_names(dockerfile)
    yield from _casing(dockerfile)


def each_alone(instructions: Sequence[Instruction]) -> Iterator[Finding]:
    """What needs no look at other instructions: told also about those above a mistake."""
    for item in instructions:
        if item.keyword == "MAINTAINER":
            yield at(catalog.MAINTAINER, "Maintainer instruction is deprecated in favor of using label", item)
        elif item.keyword == "FROM" and len(item.args) == 3:
            yield from _from(item)
        elif item.keyword == "ARG":
            yield from _described(item, [arg.partition("=")[0] for arg in item.args])


def written(instruction: Instruction) -> str:
    """The keyword as it stands in the file."""
    return instruction.text.split(maxsplit=1)[0]


def _empty_continuations(dockerfile: Dockerfile) -> Iterator[Finding]:
    for line in dockerfile.empty_continuations:
        yield Finding(catalog.EMPTY_CONTINUATION, "Empty continuation line", line, line)


def _from(item: Instruction) -> Iterator[Finding]:
    word, (_, joint, name) = written(item), item.args
    if name != name.lower():
        yield at(catalog.STAGE_NAME_CASING, f"Stage name '{name}' should be lowercase", item)
    if _consistent(word) and joint != (joint.lower() if word == word.lower() else joint.upper()):
        yield at(catalog.FROM_AS_CASING, f"'{joint}' and '{word}' keywords' casing do not match", item)
    yield from _described(item, [name.lower()])


def _described(item: Instruction, names: Sequence[str]) -> Iterator[Finding]:
    if not item.comments or not names or item.comments[-1].split(" ")[0] in names:
        return
    name = names[0] if len(names) == 1 else "<arg_key>"
    text = f"Comment for {item.keyword} should follow the format: `# {name} <description>`"
    yield at(catalog.DESCRIPTION, text, item)


def _consistent(word: str) -> bool:
    return word in (word.lower(), word.upper())


def _casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    """What is neither all upper nor all lower case has no vote in the majority; a tie is upper case's.

    The ARGs before the first FROM don't count.
    """
    starts = [index for index, item in enumerate(dockerfile.instructions) if item.keyword == "FROM"]
    counted = dockerfile.instructions[starts[0] :] if starts else ()
    words = [(item, written(item)) for item in counted]
    votes = [word == word.lower() for _, word in words if _consistent(word)]
    lower = votes.count(True) > votes.count(False)
    for item, word in words:
        if word != (word.lower() if lower else word.upper()):
            wanted = "lowercase" if lower else "uppercase"
            text = f"Command '{word}' should match the case of the command majority ({wanted})"
            yield at(catalog.INSTRUCTION_CASING, text, item, local=False)


def _stage_names(dockerfile: Dockerfile) -> Iterator[Finding]:
    seen: set[str] = set()
    for item in dockerfile.instructions:
        if item.keyword != "FROM" or len(item.args) != 3:
            continue
        name = item.args[2].lower()
        if name in ("context", "scratch"):
            text = f'Stage name should not use the same name as reserved stage "{name}"'
            yield at(catalog.RESERVED_STAGE, text, item, local=False)
        if name in seen:
            text = f'Duplicate stage name "{name}", stage names should be unique'
            yield at(catalog.DUPLICATE_STAGE, text, item, local=False)
        seen.add(name)
