"""`build --explain`: why steps were done anew, as the engine told it. Pure."""

from __future__ import annotations

from sampan.cli.build.text import plain
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.build.steps import Steps
    from sampan.cli.flags import Values


def wants_json(flags: Values) -> bool:
    """Whether the reasons go to standard output as JSON. Raises `Failure` for a format that isn't there."""
    if flags["format"] and not flags["explain"]:
        raise Failure("--format is for --list-context, --check and --explain")
    if flags["format"] not in ("", "json"):
        raise Failure(f"unknown format {flags['format']!r} of --explain: it is json or nothing")
    return bool(flags["format"])


def note_reasons(steps: Steps, said: Any) -> None:
    """Take in {"explain": {"vertex": …, "reasons": […]}}; what has another form is left out."""
    told = said.get("explain") if isinstance(said, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("reasons"), list):
        return
    step = steps.find(str(told.get("vertex")))
    if step is not None:
        reasons = [plain(reason) for reason in told["reasons"] if isinstance(reason, str)]
        step.reasons += reasons
        step.notes += [f"NOT CACHED: {reason}" for reason in reasons]


def as_json(steps: Steps, image: str) -> dict[str, Any]:
    """Every step of the Dockerfile that is work, in the order in which they began."""
    return {
        "image": image,
        "steps": [
            {"step": step.name, "cached": step.cached, "reasons": step.reasons}
            for step in steps.started
            if step.cacheable
        ],
    }
