"""What a build needs of the engine beyond Docker's classic builder: that it is sampan's."""

from __future__ import annotations

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Values
    from sampan.client.api import Client

_OURS = (
    *("allow", "annotation", "attest", "build-context", "cache-to", "explain", "host-ca", "no-cache-filter"),
    *("on-error", "output", "provenance", "push", "reproducible", "sbom", "secret", "ssh"),
)
"""Flags that Docker's classic builder does not have, and would not look at."""


def beyond_classic(flags: Values) -> str:
    """What of the flags Docker's classic builder could not do; "" when it could do all."""
    for name in _OURS:
        if flags[name] and flags[name] not in ("false", "0"):
            return f"--{name}"
    if len(flags["platform"]) > 1:
        return "--platform with several platforms"
    return "--cache-from type=…" if any("=" in text for text in flags["cache-from"]) else ""


def require_sampan(client: Client, what: str) -> None:
    """Another engine would not look at what it does not know, and do something else. Raises `Failure`."""
    if not client.is_sampan():
        raise Failure(f"{what} needs sampan's engine", hint="with Docker's use docker buildx build")
