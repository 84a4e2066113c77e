"""`--change` of import and commit: Dockerfile instructions that touch an image's configuration only. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse_trigger
from sampan.build.dockerfile.state import ArgScope, initial_state
from sampan.errors import Invalid
from sampan.oci.image import ContainerDefaults

_ALLOWED = frozenset(
    {
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
)


def apply_changes(config: ContainerDefaults, changes: Sequence[str]) -> ContainerDefaults:
    """The configuration after the instructions. Raises `Invalid` in Docker's words."""
    if not changes:
        return config
    had_path = any(item.startswith("PATH=") for item in config.env or ())
    state = initial_state(config, ArgScope({}, {}, {}), "\\")
    for text in changes:
        instruction = parse_trigger(text)
        if instruction.keyword not in _ALLOWED:
            raise Invalid(f"{instruction.keyword} is not a valid change command")
        state = apply(state, instruction).state
    result = state.config
    if not had_path and not any("PATH=" in text for text in changes):
        kept = tuple(item for item in result.env or () if not item.startswith("PATH="))
        result = state.with_config(env=kept or None).config
    return result
