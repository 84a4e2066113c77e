"""The builder's own errors: a mistake in a Dockerfile, and a command that failed."""

from __future__ import annotations

from sampan.build.model import Place
from sampan.errors import Internal, Invalid, Unsupported


class DockerfileError(Invalid):
    """A mistake in a Dockerfile: what, where, and what was expected.

    The message begins with Docker's words and shows the line with a caret under the column.
    """

    def __init__(self, reason: str, place: Place, *, expected: str = "", hint: str = "") -> None:
        self.reason = reason
        self.place = place
        self.file = place.file
        self.line = place.line
        self.column = place.column
        self.text = place.text
        self.expected = expected
        super().__init__(_render(reason, place, expected), hint=hint)


class DockerfileUnsupported(Unsupported):
    """Something that a Dockerfile may ask for and sampan can't do, with its place."""

    def __init__(self, reason: str, place: Place, *, hint: str = "") -> None:
        self.reason = reason
        self.place = place
        self.line = place.line
        super().__init__(_render(reason, place, ""), hint=hint)


class RunFailed(Internal):
    """A command of the build ended with a status other than 0; `exit_code` is that status."""

    def __init__(self, command: str, exit_code: int, place: Place, last_output: str) -> None:
        super().__init__(
            f"The command '{command}' returned a non-zero code: {exit_code}",
            hint=f"{place.file}, line {place.line}: {place.text.strip()}",
        )
        self.exit_code = exit_code
        self.place = place
        self.last_output = last_output


class SourceChanged(Invalid):
    """A file was written, replaced or removed between its hashing and its copying; nothing of it was kept."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"changed while the build read it: {path}",
            hint="build again when nothing writes to the build context, or leave the file out in .dockerignore",
        )
        self.path = path


class BuildCancelled(Internal):
    def __init__(self) -> None:
        super().__init__("build cancelled")


def _render(reason: str, place: Place, expected: str) -> str:
    text = place.text[:400]
    number = str(place.line)
    # Tabs are kept so that the caret stands below its column whatever the terminal's tab width is.
    indent = "".join("\t" if char == "\t" else " " for char in text[: place.column - 1])
    lines = [
        f"dockerfile parse error on line {place.line}: {reason}",
        f"{place.file}:{place.line}:{place.column}",
        f"  {number} | {text}",
        f"  {' ' * len(number)} | {indent}^",
    ]
    if expected:
        lines.append(f"expected: {expected}")
    return "\n".join(lines)
