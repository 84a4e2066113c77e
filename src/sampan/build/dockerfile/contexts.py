"""Names of contexts (`--build-context NAME=VALUE`), which replace a stage or an image of that name. Pure."""

from __future__ import annotations

from sampan.errors import Invalid
from sampan.oci.reference import parse_reference

IMAGE = "docker-image://"
DIRECTORY = "directory:"
"""Begins the value of a directory of the client's; what it found there follows, as JSON.

Nothing follows: the client sends it.
"""


def context_name(text: str) -> str:
    """The form in which names are compared: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name.

    Empty for what can be no name of a context.
    """
    try:
        return parse_reference(text.lower()).familiar.removesuffix(":latest")
    except Invalid:
        return ""
