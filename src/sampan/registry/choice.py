"""Which of several images here serves a platform. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.oci.manifest import Platform
from sampan.registry.platforms import serves
from sampan.storage.image_model import Image
from sampan.storage.packing import platform_of_image


def choose_image(images: Sequence[Image], wanted: Platform) -> Image | None:
    """One of exactly that variant before one that merely serves; the first before others. None: none serves."""
    fitting = [one for one in images if serves(platform_of_image(one), wanted)]
    exact = [one for one in fitting if (one.config.variant or None) == (wanted.variant or None)]
    return next(iter((*exact, *fitting)), None)
