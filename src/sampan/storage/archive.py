"""Images in a tar: docker-archive (docker save, podman, skopeo, buildah) and oci-archive, both ways."""

from sampan.storage.archive_load import load_archive
from sampan.storage.archive_save import save_archive

__all__ = ["load_archive", "save_archive"]
