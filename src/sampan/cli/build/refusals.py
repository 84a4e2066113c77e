"""Flags of `build` that mean nothing yet: refused, never ignored. Whoever gives one its meaning takes it out here."""

from __future__ import annotations

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Values

_HINTS = {
    "squash": "put what belongs together into one RUN, or copy the result into a stage of its own",
}
_HARMLESS = {
    "isolation": ("", "default", "process"),
}
"""Values that ask for nothing, or for what happens anyway."""


def refuse(flags: Values) -> None:
    """Raises `Failure` for the first flag that asks for what isn't there."""
    for name in (*_HINTS, *(name for name in _HARMLESS if name not in _HINTS)):
        value = flags[name]
        if value and value not in _HARMLESS.get(name, ()):
            shown = f"--{name}" if isinstance(value, (bool, list)) else f"--{name}={value}"
            raise Failure(f"{shown} is not supported yet", hint=_HINTS.get(name, ""))
