"""A case run on two sides at the same time, and what it found."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sampan.testing.differential.case import Case, Step
from sampan.testing.differential.compare import Ignored, Outcome, differences
from sampan.testing.differential.normalise import Normaliser

STEP_SECONDS = 60


@dataclass(frozen=True)
class Side:
    """An engine's command line. `texts`: literal texts of this side, and what stands for them in a comparison.

    `patterns`: as `texts`, but regular expressions, for what this side has in addition on purpose.
    `placeholders` are further names in braces that a command line may have, with this side's values.
    """

    name: str
    command: str
    environment: Mapping[str, str]
    place: Path
    texts: Mapping[str, str] = field(default_factory=dict)
    placeholders: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """`found` are differences, `broken` is why a side could not get as far as being compared."""

    found: list[str]
    broken: list[str]


def run_case(case: Case, expected: Side, given: Side, ignore: Ignored) -> Report:
    """Run all steps on both sides and compare them. `ignore`: JSON paths that no case compares."""
    with ThreadPoolExecutor(2) as pool:
        theirs, ours = pool.map(lambda side: _run_side(case, side), (expected, given))
    found, broken = [], []
    ignored = {**ignore, **case.ignore}
    for step, their, our in zip(case.steps, theirs, ours, strict=False):
        if step.kind == "setup":
            broken += [
                f"{side.name}: {step.line}: {outcome.code}: {outcome.out}{outcome.err}"
                for side, outcome in ((expected, their), (given, our))
                if outcome.code != 0
            ]
            continue
        if lines := differences(step.kind, their, our, ignored):
            found += [f"$ {step.line}", *(f"    {line}" for line in lines)]
    return Report(found, broken)


def _run_side(case: Case, side: Side) -> list[Outcome]:
    """The outcome of each step; the last is of a setup that failed, if one did."""
    mark = "c" + hashlib.sha256(f"{case.name}{case.text}".encode()).hexdigest()[:11].translate(
        # A name that looks like an identifier would be taken for one.
        str.maketrans("abcdef", "ghijkl")
    )
    directory = side.place / mark
    directory.mkdir(parents=True)
    texts = {str(directory): "<cwd>", mark: "<c>", **side.texts}
    normalise = Normaliser(texts, {**side.patterns, **case.but})
    outcomes = []
    try:
        for step in case.steps:
            outcome = _run_step(step, side, directory, mark)
            outcomes.append(Outcome(outcome.code, normalise(outcome.out), normalise(outcome.err)))
            if step.kind == "setup" and outcome.code != 0:
                break
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return outcomes


def _run_step(step: Step, side: Side, directory: Path, mark: str) -> Outcome:
    line = step.line
    for name, value in {"cli": side.command, "c": mark, **side.placeholders}.items():
        line = line.replace(f"{{{name}}}", value)
    process = subprocess.Popen(
        ["sh", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(side.environment),
        cwd=directory,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=STEP_SECONDS)
    except subprocess.TimeoutExpired:
        # The whole group: the shell's children hold the pipes open.
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return Outcome(-1, "", f"not done after {STEP_SECONDS} s")
    return Outcome(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
