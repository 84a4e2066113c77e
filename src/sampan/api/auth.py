"""Credentials as Docker's clients send them: X-Registry-Auth and X-Registry-Config."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from sampan.api.messages import Request
from sampan.errors import Invalid

T = TypeVar("T")


class AuthConfig(msgspec.Struct, rename="lower", frozen=True):
    """One registry's credentials. `auth` is base64 of user:password, an old form."""

    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


def registry_auth(request: Request, header: str = "x-registry-auth") -> AuthConfig:
    """The credentials for the one registry that this request is about; empty ones when none were sent."""
    return _decode(request.headers.get(header, ""), AuthConfig) or AuthConfig()


def registry_config(request: Request) -> dict[str, AuthConfig]:
    """Registry address -> credentials, for all that a build may need."""
    return _decode(request.headers.get("x-registry-config", ""), dict[str, AuthConfig]) or {}


def _decode(text: str, kind: type[T]) -> T | None:
    if not text:
        return None
    try:
        raw = base64.b64decode(text.translate(_TO_STANDARD) + "=" * (-len(text) % 4), validate=True)
        return msgspec.json.decode(raw, type=kind) if raw not in (b"", b"null") else None
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
        # The header's content is a secret: it is not repeated in the message.
        raise Invalid("malformed registry credentials: expected base64 of a JSON object") from error


_TO_STANDARD = str.maketrans("-_", "+/")
