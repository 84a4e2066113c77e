"""HEALTHCHECK as the image's configuration has it. Pure; no variable takes part."""

from __future__ import annotations

import re

from sampan.build.dockerfile.check import Flags, mistake
from sampan.build.dockerfile.timespan import parse_duration
from sampan.build.model import Instruction
from sampan.errors import Invalid
from sampan.oci.image import Healthcheck

_MAX_RETRIES = 2**31 - 1


def health_of(instruction: Instruction) -> Healthcheck:
    """Raises `DockerfileError`."""
    kind, rest = instruction.args[0], instruction.args[1:]
    if kind == "NONE":
        if rest:
            raise mistake(instruction, "HEALTHCHECK NONE takes no arguments", "nothing after NONE")
        return Healthcheck(test=("NONE",))
    if kind != "CMD":
        raise mistake(instruction, f'Unknown type "{kind}" in HEALTHCHECK (try CMD)', "CMD or NONE", kind)
    if not rest:
        raise mistake(instruction, "Missing command after HEALTHCHECK CMD", "a command")
    flags = Flags(instruction)
    return Healthcheck(
        test=("CMD", *rest) if instruction.is_json else ("CMD-SHELL", rest[0]),
        interval=_span(instruction, flags, "interval"),
        timeout=_span(instruction, flags, "timeout"),
        start_period=_span(instruction, flags, "start-period"),
        start_interval=_span(instruction, flags, "start-interval"),
        retries=_retries(instruction, flags.get("retries") or "0"),
    )


def _retries(instruction: Instruction, text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,10}", text) or int(text) > _MAX_RETRIES:
        raise mistake(instruction, f"invalid --retries {text!r}", "a number", "--retries")
    if int(text) < 0:
        raise mistake(instruction, f"--retries cannot be negative ({text})", "a number", "--retries")
    return int(text)


def _span(instruction: Instruction, flags: Flags, name: str) -> int:
    """Nanoseconds."""
    text = flags.get(name)
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except Invalid as error:
        raise mistake(instruction, error.message, "a time such as 30s or 1m30s", f"--{name}") from error
    if value != 0 and value < 1_000_000:
        raise mistake(
            instruction, f'Interval "{name}" cannot be less than 1ms', "at least 1ms, or 0", f"--{name}"
        )
    return value
