"""Those of BuildKit's build checks that need no variables expanded; names, messages and URLs are BuildKit's.

Not among them yet: NoEmptyContinuation, UndefinedArgInFrom, UndefinedVar, InvalidDefaultArgInFrom,
CopyIgnoredFile, InvalidDefinitionDescription, InvalidBaseImagePlatform.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sampan.build.model import Dockerfile, Instruction
from sampan.build.rules.finding import Finding, Rule, at
from sampan.build.rules.options import CheckOptions

_URL = "https://docs.docker.com/go/dockerfile/rule/"


def _rule(name: str, slug: str, description: str) -> Rule:
    return Rule(name, description, f"{_URL}{slug}/")


STAGE_NAME_CASING = _rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase")
FROM_AS_CASING = _rule(
    "FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword"
)
INSTRUCTION_CASING = _rule(
    "ConsistentInstructionCasing",
    "consistent-instruction-casing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
)
DUPLICATE_STAGE = _rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique")
RESERVED_STAGE = _rule(
    "ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"
)
MAINTAINER = _rule(
    "MaintainerDeprecated",
    "maintainer-deprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
)
MULTIPLE = _rule(
    "MultipleInstructionsDisallowed",
    "multiple-instructions-disallowed",
    "Multiple instructions of the same type should not be used in the same stage",
)
LEGACY_PAIRS = _rule(
    "LegacyKeyValueFormat",
    "legacy-key-value-format",
    "Legacy key/value format with whitespace separator should not be used",
)
SECRETS = _rule(
    "SecretsUsedInArgOrEnv",
    "secrets-used-in-arg-or-env",
    "Sensitive data should not be used in the ARG or ENV commands",
)

RULES = (
    STAGE_NAME_CASING, FROM_AS_CASING, INSTRUCTION_CASING, DUPLICATE_STAGE, RESERVED_STAGE, MAINTAINER,
    MULTIPLE, LEGACY_PAIRS, SECRETS,
)  # fmt: skip

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def findings(dockerfile: Dockerfile, options: CheckOptions) -> tuple[Finding, ...]:
    """In the order of lines."""
    if options.skip_all:
        return ()
    found = [*_casing(dockerfile), *_stage_names(dockerfile), *_bodies(dockerfile)]
    return tuple(
        sorted((item for item in found if item.rule.name not in options.skip), key=lambda item: item.first)
    )


def written(instruction: Instruction) -> str:
    """The keyword as it stands in the file."""
    return instruction.text.split(maxsplit=1)[0]


def _consistent(word: str) -> bool:
    return word in (word.lower(), word.upper())


def _from_first(dockerfile: Dockerfile) -> tuple[Instruction, ...]:
    """Without the ARGs before the first FROM, which BuildKit's rules for stages leave out."""
    starts = [index for index, item in enumerate(dockerfile.instructions) if item.keyword == "FROM"]
    return dockerfile.instructions[starts[0] :] if starts else ()


def _casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    """What is neither all upper nor all lower case has no vote in the majority; a tie is upper case's."""
    words = [(item, written(item)) for item in _from_first(dockerfile)]
    votes = [word == word.lower() for _, word in words if _consistent(word)]
    lower = votes.count(True) > votes.count(False)
    for item, word in words:
        if word != (word.lower() if lower else word.upper()):
            wanted = "lowercase" if lower else "uppercase"
            text = f"Command '{word}' should match the case of the command majority ({wanted})"
            yield at(INSTRUCTION_CASING, text, item)


def _stage_names(dockerfile: Dockerfile) -> Iterator[Finding]:
    seen: set[str] = set()
    for item in dockerfile.instructions:
        if item.keyword != "FROM" or len(item.args) != 3:
            continue
        word, (_, joint, name) = written(item), item.args
        if name != name.lower():
            yield at(STAGE_NAME_CASING, f"Stage name '{name}' should be lowercase", item)
        if _consistent(word) and joint != (joint.lower() if word == word.lower() else joint.upper()):
            yield at(FROM_AS_CASING, f"'{joint}' and '{word}' keywords' casing do not match", item)
        name = name.lower()
        if name in ("context", "scratch"):
            text = f'Stage name should not use the same name as reserved stage "{name}"'
            yield at(RESERVED_STAGE, text, item)
        if name in seen:
            yield at(DUPLICATE_STAGE, f'Duplicate stage name "{name}", stage names should be unique', item)
        seen.add(name)


def _bodies(dockerfile: Dockerfile) -> Iterator[Finding]:
    last: dict[str, Instruction] = {}
    for item in _from_first(dockerfile):
        if item.keyword == "FROM":
            last = {}
        elif item.keyword == "MAINTAINER":
            yield at(MAINTAINER, "Maintainer instruction is deprecated in favor of using label", item)
        elif item.keyword in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            if item.keyword in last:
                text = (
                    f"Multiple {written(item)} instructions should not be used in the same stage "
                    "because only the last one will be used"
                )
                yield at(MULTIPLE, text, last[item.keyword])
            last[item.keyword] = item
        elif item.keyword in ("ENV", "LABEL", "ARG"):
            yield from _pairs(item)


def _pairs(item: Instruction) -> Iterator[Finding]:
    if item.keyword != "ARG" and len(item.args) >= 3 and item.args[2] == "":
        word = written(item)
        text = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
        yield at(LEGACY_PAIRS, text, item)
    if item.keyword == "LABEL":
        return
    names = item.args[::3] if item.keyword == "ENV" else [arg.partition("=")[0] for arg in item.args]
    for name in names:
        if _SECRET.search(name) and not _HARMLESS.search(name):
            text = f'Do not use ARG or ENV instructions for sensitive data ({item.keyword} "{name}")'
            yield at(SECRETS, text, item)
