"""Why a step was not taken from the cache: its inputs compared with those of the nearest earlier build of it.

Pure: the solver hands in what it keeps for every cache entry and gets reasons as lines for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import msgspec

FILES_SHOWN = 10
"""Names of files in one reason; the rest is counted."""

_TEXT_SHOWN = 120
_SHELL = "RUN /bin/sh -c "
_WORDS = 200
"""Of an instruction, that are compared."""
_MUCH_THE_SAME = 0.5


class StepInputs(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step's result depends on; `files` maps paths to content checksums. Values of secrets never get here."""

    stage: str
    instruction: str
    parent: str = ""
    """Identifies what earlier steps have put on the base."""
    base: str = ""
    """The base image: its name, and what identifies its layers."""
    args: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    settings: Mapping[str, str] = {}
    """Whatever else counts, by words for people: "user", "working directory"."""


def explain(now: StepInputs, earlier: Sequence[StepInputs], *, no_cache: bool = False) -> tuple[str, ...]:
    """Return at least one reason. `earlier`: newest first."""
    if no_cache:
        return ("the cache is off for this step (--no-cache)",)
    before = nearest(now, earlier)
    if before is None:
        return ("no earlier build of this step",)
    reasons = []
    if before.instruction != now.instruction:
        reasons.append(f"instruction changed: was {_short(_as_written(before.instruction))}")
    if before.base != now.base:
        reasons.append(f"base image changed: {before.base or 'none'} -> {now.base or 'none'}")
    if before.parent != now.parent:
        reasons.append("an earlier step changed")
    reasons.extend(_names("argument", before.args, now.args))
    reasons.extend(_names("environment", before.env, now.env))
    reasons.extend(_names("setting", before.settings, now.settings))
    reasons.extend(_files(before.files, now.files))
    return tuple(reasons) or (
        "nothing changed, but the cache has no result of this step: it failed, or was removed",
    )


def nearest(now: StepInputs, earlier: Sequence[StepInputs]) -> StepInputs | None:
    """The build of the same step with the fewest differences, the newest of equals.

    The same step is the same text; else one with the same instruction's word at the same place (in a stage of that
    name, on the same layers); else one on the same image, whatever its tag, whose text is much the same, in a stage
    of that name if there is one.
    """
    same = [one for one in earlier if one.instruction == now.instruction]
    if not same:
        word = now.instruction.split(maxsplit=1)[:1]
        alike = [one for one in earlier if one.instruction.split(maxsplit=1)[:1] == word]
        same = [one for one in alike if _place(one) == _place(now)]
        if not same:
            return _most_similar(now, alike)
    return min(same, key=lambda one: _distance(one, now), default=None)


def _place(inputs: StepInputs) -> tuple[str, str, str]:
    return inputs.stage, inputs.base, inputs.parent


def _most_similar(now: StepInputs, alike: Sequence[StepInputs]) -> StepInputs | None:
    # A step on another image is another project's, whatever they have in common.
    rated = [(_similarity(one, now), one) for one in alike if _image(one) == _image(now)]
    enough = [each for each in rated if each[0] > _MUCH_THE_SAME]
    if not enough:
        return None

    def order(each: tuple[float, StepInputs]) -> tuple[bool, float, int]:
        return each[1].stage != now.stage, -each[0], _distance(each[1], now)

    return min(enough, key=order)[1]


def _image(inputs: StepInputs) -> str:
    """The base without its tag and digest."""
    name = inputs.base.partition(" ")[0].partition("@")[0]
    before, _, tag = name.rpartition(":")
    return before if before and "/" not in tag else name


def _similarity(before: StepInputs, now: StepInputs) -> float:
    """From 0 to 1, by the words of the instructions."""
    return SequenceMatcher(None, _words(before), _words(now), autojunk=False).ratio()


def _as_written(instruction: str) -> str:
    return f"RUN {instruction.removeprefix(_SHELL)}" if instruction.startswith(_SHELL) else instruction


def _words(inputs: StepInputs) -> list[str]:
    """Without what all instructions of the kind have in common."""
    words = _as_written(inputs.instruction).split()
    return [word for word in words[:_WORDS] if not word.isupper()]


def _distance(before: StepInputs, now: StepInputs) -> int:
    pairs = (
        (before.args, now.args),
        (before.env, now.env),
        (before.files, now.files),
        (before.settings, now.settings),
    )
    changes = sum(len(_changed(old, new)) for old, new in pairs)
    return changes + (before.base != now.base) + (before.parent != now.parent) + (before.stage != now.stage)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _verb(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in before:
        return "added"
    return "changed" if name in now else "removed"


def _names(kind: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # Values are left out: people pass passwords as arguments, whatever they are told.
    return [f"{kind} {_verb(name, before, now)}: {_short(name)}" for name in _changed(before, now)]


def _files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = _changed(before, now)
    lines = [f"file {_verb(name, before, now)}: {_short(name)}" for name in names[:FILES_SHOWN]]
    if len(names) > FILES_SHOWN:
        lines.append(f"and {len(names) - FILES_SHOWN} more files")
    return lines


def _short(text: str) -> str:
    """One line without control characters, which could give orders to the terminal."""
    clean = "".join(char if char.isprintable() else "?" for char in text[: _TEXT_SHOWN + 1])
    return clean if len(text) <= _TEXT_SHOWN else clean[:_TEXT_SHOWN] + "..."
