"""Flags of RUN: their values, and what can be said of them before any step has run. Pure."""

from __future__ import annotations

from sampan.build.dockerfile.check import Flags, mistake
from sampan.build.dockerfile.mounts import parse_mount
from sampan.build.model import Instruction
from sampan.errors import Invalid


def network_of(instruction: Instruction) -> str:
    """ "" is the build's default. Raises `DockerfileError`."""
    network = Flags(instruction).get("network")
    if network not in ("", "default", "none", "host"):
        raise mistake(instruction, f'invalid network mode: "{network}"', "default, none or host")
    return "" if network == "default" else network


def security_of(instruction: Instruction) -> str:
    """ "" or "insecure". Raises `DockerfileError`."""
    security = Flags(instruction).get("security")
    if security not in ("", "sandbox", "insecure"):
        raise mistake(instruction, f'security "{security}" is not valid', "sandbox or insecure")
    return "" if security == "sandbox" else security


def check_run(instruction: Instruction) -> None:
    """What needs no variables to be wrong. Raises `DockerfileError`."""
    network_of(instruction)
    security_of(instruction)
    for text in Flags(instruction).every("mount"):
        if "$" in text:
            continue
        try:
            parse_mount(text, lambda value: value, "/any")
        except Invalid as error:
            raise mistake(instruction, error.message, error.hint, text) from error
