"""The ways in which a build is shown."""

from __future__ import annotations

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MODES = ("auto", "plain", "tty", "quiet", "rawjson", "none")
CLASSIC = "classic"
"""Docker's stream as it was before BuildKit, on standard output."""


def mode_of(flag: str, environment: Mapping[str, str], *, quiet: bool, terminal: bool) -> str:
    """Which of `MODES` (but auto) or `CLASSIC`; `terminal`: standard error is one. Raises `Failure`.

    As for Docker's command line, DOCKER_BUILDKIT=0 asks for the classic stream; a terminal gets its display
    anyway, and so does who names a way of display.
    """
    wanted = flag or environment.get("BUILDKIT_PROGRESS", "") or "auto"
    if wanted not in MODES:
        raise Failure(f"invalid progress mode {wanted!r}: it is one of {', '.join(MODES)}")
    terminal = terminal and environment.get("TERM", "") != "dumb"
    if wanted == "auto" and not terminal and environment.get("DOCKER_BUILDKIT", "") == "0":
        return CLASSIC
    if quiet:
        return "quiet"
    if wanted == "tty" and not terminal:
        raise Failure("failed to get console: standard error is not a terminal", hint="use --progress plain")
    return ("tty" if terminal else "plain") if wanted == "auto" else wanted
