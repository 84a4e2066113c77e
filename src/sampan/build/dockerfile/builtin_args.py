"""Build arguments that speak to the builder itself and need no ARG, as the Dockerfile reference lists them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.build.dockerfile.check import TRUTHS
from sampan.errors import Invalid

CACHE_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"
CHECK_OPTIONS = "BUILDKIT_DOCKERFILE_CHECK"
HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"
INLINE_CACHE = "BUILDKIT_INLINE_CACHE"
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
SYNTAX = "BUILDKIT_SYNTAX"
_WITHOUT_MEANING = ("BUILDKIT_BUILD_NAME", "BUILDKIT_MULTI_PLATFORM")
"""docs/compatibility.md says why."""
BUILTIN_ARGS = frozenset(
    (CACHE_NAMESPACE, CHECK_OPTIONS, HOSTNAME, INLINE_CACHE, KEEP_GIT_DIR, SYNTAX, *_WITHOUT_MEANING)
)

Given = Mapping[str, str | None]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


def hostname_of(given: Given) -> str:
    """What steps call their host; "" when nothing is asked for. Raises `Invalid`."""
    name = given.get(HOSTNAME) or ""
    if name and not _NAME.fullmatch(name):
        raise Invalid(
            f"invalid {HOSTNAME}: {name[:80]!r}", hint="at most 64 letters, digits, dots and hyphens"
        )
    return name


def cache_id_of(mount_id: str, given: Given) -> str:
    """The id of a cache mount in the namespace that is asked for."""
    namespace = given.get(CACHE_NAMESPACE)
    return f"{namespace}/{mount_id}" if namespace else mount_id


def is_asked_for(name: str, given: Given) -> bool:
    """Of those that are true or false."""
    return TRUTHS.get((given.get(name) or "").lower(), False)
