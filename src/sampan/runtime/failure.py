"""Errors of the runtime, and the form in which they cross a process border."""

from __future__ import annotations

import os

import msgspec

from sampan.errors import Internal, Invalid, SampanError, from_kind

NOT_EXECUTABLE = 126
NOT_FOUND = 127


class ExecFailed(Invalid):
    """The container's program could not be executed.

    `exit_code` is the shell's convention, which Docker follows: 127 when there is no such program, 126 when
    it is there but can't be executed.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = NOT_EXECUTABLE) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Failure(msgspec.Struct, frozen=True, tag=True):
    """An error on its way to another process. `exit_code` is 0 unless it is an `ExecFailed`."""

    kind: str
    message: str
    hint: str = ""
    exit_code: int = 0

    def error(self) -> SampanError:
        """The exception again, of the class that it had."""
        if self.exit_code:
            return ExecFailed(self.message, hint=self.hint, exit_code=self.exit_code)
        return from_kind(self.kind, self.message, hint=self.hint)


def failure_of(error: BaseException, doing: str = "") -> Failure:
    """`doing` says what was under way, and is put before the words of an error of the operating system."""
    if isinstance(error, ExecFailed):
        return Failure(error.kind, error.message, error.hint, error.exit_code)
    if isinstance(error, SampanError):
        return Failure(error.kind, error.message, error.hint)
    text = describe(error)
    return Failure(Internal.kind, f"{doing}: {text}" if doing else text)


def describe(error: BaseException) -> str:
    """One line for any exception; errors of the operating system in its own words, with the path."""
    if isinstance(error, OSError) and error.errno and type(error).__str__ is OSError.__str__:
        words = os.strerror(error.errno).lower()
        return f"{error.filename}: {words}" if error.filename else words
    return str(error) or type(error).__name__
