"""What is told of a build that failed: the step's last output, the place in the Dockerfile, what to do next. Pure."""

from __future__ import annotations

from sampan.cli.build.text import plain
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.build.steps import Step, Steps

OUTPUT = 20
"""Lines of a failed step's output."""
_RULE = "-" * 20


class BuildFailed(Failure):
    """`told`: everything beyond the message, to be written before it; `failure`: what `build debug` takes, or ""."""

    def __init__(self, message: str, status: int, told: str, failure: str, hint: str) -> None:
        super().__init__(message, status, hint=hint)
        self.told = told
        self.failure = failure


def build_failed(message: dict[str, Any], steps: Steps) -> BuildFailed:
    """Out of the stream's line {"error", "errorDetail": {"message", "code", "sampan": {...}}}."""
    detail = message.get("errorDetail")
    detail = detail if isinstance(detail, dict) else {}
    more = detail.get("sampan")
    more = more if isinstance(more, dict) else {}
    text = _lines(str(detail.get("message") or message.get("error") or "the build failed"))
    excerpt = excerpt_text(more)
    if excerpt:
        # The engine's message shows the line too, for clients that show nothing else.
        first, *rest = text.split("\n")
        text = "\n".join([first, *(line for line in rest if line.startswith("expected: "))])
    failure = str(more.get("failure") or "")
    failure = failure if failure.isalnum() else ""
    told = _output(_failed_step(steps, str(more.get("vertex") or ""))) + excerpt
    code = detail.get("code")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 256 else 1
    hint = plain(str(more.get("hint") or ""))
    if excerpt and ", line " in hint:
        hint = ""  # the place, which is shown already
    hint = "\n".join(part for part in (hint, debug_advice(failure)) if part)
    return BuildFailed(f"ERROR: {text}", status, told, failure, hint)


def debug_advice(failure: str) -> str:
    return f"For a shell in the state before this step:\n    sampan build debug {failure}" if failure else ""


def excerpt_text(more: dict[str, Any]) -> str:
    """The lines around the place, those of the instruction marked; "" without a place."""
    excerpt, line, column = more.get("excerpt"), _whole(more.get("line")), _whole(more.get("column"))
    last = max(_whole(more.get("lastLine")), line)
    if not isinstance(excerpt, list) or not excerpt or not line:
        return ""
    out = [f"{plain(str(more.get('file') or 'Dockerfile'))}:{line}", _RULE]
    for each in excerpt:
        if not isinstance(each, dict):
            continue
        number, text = _whole(each.get("line")), str(each.get("text") or "")
        mark = ">>>" if line <= number <= last else "   "
        out.append(f" {number:3} | {mark} {plain(text)}".rstrip())
        if number == line and column > 1:
            # Tabs stay as they are, so that the caret stands under its column.
            before = "".join("\t" if char == "\t" else " " for char in text[: column - 1])
            out.append(f"     |     {before}^")
    out.append(_RULE)
    return "\n".join(out) + "\n"


def _failed_step(steps: Steps, digest: str) -> Step | None:
    named = steps.find(digest)
    if named is not None:
        return named
    failed = [step for step in steps.started if step.error and not step.cancelled]
    return failed[0] if failed else None


def _output(step: Step | None) -> str:
    if step is None or not step.tail:
        return ""
    lines = [f"{passed:.3f} {text}" for passed, text in step.tail[-OUTPUT:]]
    return "\n".join(["------", f" > {step.name}:", *lines, "------"]) + "\n"


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
