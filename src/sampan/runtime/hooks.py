"""Hooks: the runtime-spec's config.md, "POSIX-platform Hooks"; the container's state is their standard input."""

from __future__ import annotations

# This imports threading, whose work after every fork takes a lot of a shim's memory: import this module late.
import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec

from sampan.errors import Internal
from sampan.oci.spec import Hook
from sampan.runtime.failure import describe


def run_hooks_leniently(hooks: Sequence[Hook], state: dict[str, Any], status: str) -> list[str]:
    """As `run_hooks`, for poststart and poststop: one that fails is a warning, and the others run (runtime.md,
    "Lifecycle"). The warnings."""
    warnings = []
    for hook in hooks:
        try:
            run_hooks((hook,), state, status)
        except Internal as error:
            warnings.append(error.message)
    return warnings


def run_hooks(hooks: Sequence[Hook], state: dict[str, Any], status: str) -> None:
    """Run `hooks` in order, as children of the caller. Raises `Internal` at the first that fails.

    `state` is the container's; `status` is put into it.
    """
    document = msgspec.json.encode({**state, "status": status})
    for index, hook in enumerate(hooks):
        what = f"error running hook #{index} ({hook.path})"
        try:
            done = subprocess.run(
                [*(hook.args or (hook.path,))],
                executable=hook.path,
                input=document,
                env=dict(entry.partition("=")[::2] for entry in hook.env),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=hook.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Internal(f"{what}: hook ran past specified timeout of {hook.timeout}s") from error
        except OSError as error:
            raise Internal(f"{what}: {describe(error)}") from error
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip()[:4096]
            code = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
            raise Internal(f"{what}: {code}" + (f", output: {said}" if said else ""))
