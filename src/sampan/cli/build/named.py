"""`--build-context NAME=VALUE`: further contexts of a build, by their names."""

from __future__ import annotations

from sampan.cli.failure import Failure

_SCHEMES = ("docker-image://", "https://", "http://", "git://", "ssh://", "git@")


def named_contexts(values: list[str]) -> dict[str, str]:
    """What the engine opens by itself. Raises `Failure` for what can't be sent."""
    contexts: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Failure(f"invalid context value: {text}, expected key=value")
        if not value.startswith(_SCHEMES):
            raise Failure(
                f"the build context {name}={value} is not supported: it is docker-image://IMAGE or a URL"
            )
        contexts[name] = value
    return contexts
