"""How a command ends otherwise than well; `cli.main` turns these into messages and exit codes."""

from __future__ import annotations

from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.api import ApiError

USAGE_STATUS = 125


class Exit(Exception):
    """End now with this exit code; everything to be said has been said."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Failure(SampanError):
    """A message printed as it is, and an exit code."""

    kind = "invalid"

    def __init__(self, message: str, status: int = 1, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class UsageError(Failure):
    """The command line is wrong: the message is followed by where help is."""

    def __init__(self, message: str, status: int = USAGE_STATUS) -> None:
        super().__init__(message, status)


def no_such(kind: str, name: str, error: ApiError) -> SampanError:
    """The error as Docker words it for a thing that does not exist; any other error as it is."""
    return Failure(f"Error: No such {kind}: {name}") if error.status == 404 else error
