"""The closed set of error kinds, and the two places that translate them.

Every error that sampan raises on purpose is a `SampanError`; its class says the kind. Code that
recovers from a failure looks at the kind, never at the text.
"""

from __future__ import annotations


class SampanError(Exception):
    """An error for a person to read: what happened, to what, and what to do about it.

    `message` is one sentence that names the thing and the value; `hint` is advice (may be empty).
    """

    kind = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class NotFound(SampanError):
    kind = "not found"


class Conflict(SampanError):
    """The request contradicts the present state (name in use, container running)."""

    kind = "conflict"


class Exhausted(Conflict):
    """All addresses of a network are given out. Docker's API has the status 500 for it."""

    kind = "exhausted"


class Invalid(SampanError):
    """Bad input: a value that can never work."""

    kind = "invalid"


class Unauthorized(SampanError):
    """Credentials are missing or wrong."""

    kind = "unauthorized"


class Denied(SampanError):
    """Not allowed, whoever asks with these credentials or privileges."""

    kind = "denied"


class Unavailable(SampanError):
    """A thing that is needed does not answer now; a later try may succeed."""

    kind = "unavailable"


class Unsupported(SampanError):
    """Not offered by this host or by sampan."""

    kind = "unsupported"


class Internal(SampanError):
    kind = "internal"


_HTTP_STATUS = {
    "invalid": 400,
    "unauthorized": 401,
    "denied": 403,
    "not found": 404,
    "conflict": 409,
    "internal": 500,
    "exhausted": 500,
    "unsupported": 501,
    "unavailable": 503,
}

_BY_KIND: dict[str, type[SampanError]] = {
    cls.kind: cls
    for cls in (
        NotFound,
        Conflict,
        Exhausted,
        Invalid,
        Unauthorized,
        Denied,
        Unavailable,
        Unsupported,
        Internal,
    )
}


def http_status(error: SampanError) -> int:
    """The HTTP status of the Engine API for this error's kind."""
    return _HTTP_STATUS[error.kind]


def exit_code(error: SampanError) -> int:
    """The exit code of a command that failed with this error (`run` has codes of its own)."""
    return 1


def from_kind(kind: str, message: str, *, hint: str = "") -> SampanError:
    """Rebuild an error that crossed a process border as (kind, message, hint)."""
    return _BY_KIND.get(kind, Internal)(message, hint=hint)
