"""How far a stage has come: layers, history and configuration. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from sampan.build.dockerfile.state import Applied, StageState
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import History, ImageConfig, RootFS, encode_image_config

COMMENT = "buildkit.dockerfile.v0"
"""What images of today's Docker have in the history of each step."""


@dataclass(frozen=True, slots=True)
class Progress:
    state: StageState
    base: ImageConfig
    """Where architecture, os and whatever the instructions do not change come from."""
    base_id: Digest | None
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...]
    epoch: int | None = None
    """Seconds since 1970: the time of every step from here on."""
    touched: bool = False
    """Whether any instruction was applied: an image that is only FROM is the base itself."""

    def advance(self, applied: Applied, created: str | None = None, layer: Digest | None = None) -> Progress:
        """`created`: when the layer was made; a step without one has no time of its own."""
        made = None if layer is None else created
        entry = History(
            created=made if self.epoch is None else epoch_time(self.epoch),
            created_by=applied.history,
            author=applied.state.author or None,
            comment=COMMENT,
            empty_layer=layer is None,
        )
        return replace(
            self,
            state=applied.state,
            diff_ids=self.diff_ids if layer is None else (*self.diff_ids, layer),
            history=(*self.history, entry) if applied.history else self.history,
            touched=True,
        )

    def image_config(self) -> ImageConfig:
        """Deterministic: the same steps with the same times encode to the same bytes."""
        history = dated(self.history)
        last = next((entry.created for entry in reversed(history) if entry.created), None)
        return msgspec.structs.replace(
            self.base,
            config=self.state.config,
            rootfs=RootFS(diff_ids=self.diff_ids),
            history=history,
            created=last or self.base.created,
            author=self.state.author or self.base.author,
            inline_cache=None,
        )

    def image_id(self) -> Digest | None:
        """None for a stage that is nothing yet (`FROM scratch` alone)."""
        if not self.touched:
            return self.base_id
        return digest_of(encode_image_config(self.image_config()))


def epoch_time(seconds: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def dated(history: tuple[History, ...]) -> tuple[History, ...]:
    """The steps without a time get one by BuildKit's rule: so a repeated build gives the identical image.

    It is the time of the layer before; for those before the first new layer that layer's.
    """
    times = [entry.created for entry in history]
    if None not in times:
        return history
    after = times.index(None)
    known = next((time for time in times[after:] if time), None) or next(
        (time for time in reversed(times[:after]) if time), None
    )
    filled = []
    for index, entry in enumerate(history):
        if entry.created is None:
            filled.append(msgspec.structs.replace(entry, created=known))
            continue
        if index > after:
            known = entry.created
        filled.append(entry)
    return tuple(filled)
