"""How far a stage has come: layers, history, configuration and cache key. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    key: str
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...]
    created: str | None
    touched: bool = False
    """Whether any instruction was applied: an image that is only FROM is the base itself."""

    def advance(self, applied: Applied, key: str, created: str, layer: Digest | None) -> Progress:
        entry = History(
            created=created,
            created_by=applied.history,
            author=applied.state.author or None,
            comment=COMMENT,
            empty_layer=layer is None,
        )
        return replace(
            self,
            state=applied.state,
            key=key,
            diff_ids=self.diff_ids if layer is None else (*self.diff_ids, layer),
            history=(*self.history, entry),
            created=created,
            touched=True,
        )

    def image_config(self) -> ImageConfig:
        """Deterministic: the same steps with the same times encode to the same bytes."""
        return msgspec.structs.replace(
            self.base,
            config=self.state.config,
            rootfs=RootFS(diff_ids=self.diff_ids),
            history=self.history,
            created=self.created,
            author=self.state.author or self.base.author,
            inline_cache=None,
        )

    def image_id(self) -> Digest | None:
        """None for a stage that is nothing yet (`FROM scratch` alone)."""
        if not self.touched:
            return self.base_id
        return digest_of(encode_image_config(self.image_config()))
