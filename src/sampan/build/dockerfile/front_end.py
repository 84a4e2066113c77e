"""Which `syntax` directives name the language that is spoken here. Pure."""

from __future__ import annotations

from sampan.errors import Invalid
from sampan.oci.reference import parse_reference

BUILT_IN = "dockerfile.v0"
"""How BUILDKIT_SYNTAX asks for the front end that is built in."""
_DOCKERFILES = ("dockerfile", "dockerfile-upstream")


def is_dockerfile_syntax(syntax: str) -> bool:
    """`docker/dockerfile` and `docker/dockerfile-upstream`, also from a mirror, whatever the version; and none."""
    name = syntax.partition(" ")[0]
    if name in ("", BUILT_IN):
        return True
    try:
        parts = parse_reference(name).name.split("/")
    except Invalid:
        return False
    return parts[-2:-1] == ["docker"] and parts[-1] in _DOCKERFILES
