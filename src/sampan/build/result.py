"""What a build gives, before it goes anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.oci.manifest import Platform
from sampan.storage.image_model import Image


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """An image of one platform. It need not be in the image store; its layers are here."""

    platform: Platform
    image: Image
    asked: str = ""
    """The platform as the request has it; "" when it names none."""

    @property
    def directory(self) -> str:
        """Where its files go when several platforms' go to one place: "linux_arm64"."""
        return str(self.platform).replace("/", "_")
