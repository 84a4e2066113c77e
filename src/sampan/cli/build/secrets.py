"""`--secret id=ID[,src=FILE|,env=NAME][,type=file|env]`: what a build's steps may be given, in buildx's words."""

from __future__ import annotations

import os

from sampan.errors import Invalid, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.multiplex.link import Stream

MAX_SECRET = 500 * 1024
"""Bytes, as in buildx."""


class Secret:
    """Where a secret comes from: a variable, or else a file. It is read when a step asks for it."""

    __slots__ = ("env", "id", "path")

    def __init__(self, id: str, path: str = "", env: str = "") -> None:
        self.id = id
        self.path = path
        self.env = env

    def serve(self, stream: Stream) -> None:
        stream.write(self._read())
        stream.end()

    def _read(self) -> bytes:
        if self.env:
            return os.environb.get(os.fsencode(self.env), b"")
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_SECRET + 1)
        except OSError as error:
            raise Unavailable(f"secret {self.id}: open {self.path}: {_words(error)}") from error
        if len(data) > MAX_SECRET:
            raise _too_big(self.id)
        return data


def secret_offers(values: Sequence[str]) -> dict[tuple[str, str], Callable[[Stream], None]]:
    """Raises `Invalid`, `NotFound` (a file that is missing already now)."""
    found = [_checked(parse_secret(text), text) for text in values]
    return {("secret", one.id): one.serve for one in found}


def parse_secret(text: str) -> Secret:
    """Raises `Invalid`."""
    kind = secret_id = path = env = ""
    for field in _fields(text):
        name, equals, value = field.partition("=")
        if not equals:
            raise Invalid(f"invalid field '{field}' must be a key=value pair")
        match name.lower():
            case "type":
                if value not in ("file", "env"):
                    raise Invalid(f'unsupported secret type "{value}"')
                kind = value
            case "id":
                secret_id = value
            case "source" | "src":
                path = value
            case "env":
                env = value
            case _:
                raise Invalid(f"unexpected key '{name}' in '{field}'")
    if kind == "env" and not env:
        env, path = path, ""
    if not secret_id:
        raise Invalid(f"could not parse secrets: [{text}]: secret missing ID")
    if not env and not path:
        env, path = (secret_id, "") if secret_id in os.environ else ("", secret_id)
    return Secret(secret_id, path, env)


def _checked(secret: Secret, text: str) -> Secret:
    if secret.env:
        return secret
    try:
        size = os.stat(secret.path).st_size
    except OSError as error:
        raise NotFound(
            f"could not parse secrets: [{text}]: failed to stat {secret.path}: "
            f"stat {secret.path}: {_words(error)}"
        ) from error
    if size > MAX_SECRET:
        raise _too_big(secret.id)
    return secret


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise Invalid(f"failed to parse csv secret: {error}") from error


def _too_big(secret_id: str) -> Invalid:
    return Invalid(f"secret {secret_id} too big. max size 500KB")


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
