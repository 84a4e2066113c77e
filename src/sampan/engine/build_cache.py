"""The build cache as `system df` and `builder prune` see it."""

from __future__ import annotations

from sampan.build.solver.cache import BuildCache
from sampan.engine.builds import BuildCacheKeeper, Json
from sampan.engine.model import rfc3339
from sampan.oci.digest import Digest
from sampan.storage.images import ImageStore


def build_cache_keeper(cache: BuildCache, images: ImageStore) -> BuildCacheKeeper:
    def used_by_images() -> set[Digest]:
        return {diff_id for image in images.list() for diff_id in image.diff_ids}

    def entries() -> list[Json]:
        shared = used_by_images()
        return [
            {
                "ID": key[:25],
                "Type": "regular",
                "Description": entry.step,
                "InUse": False,
                "Shared": entry.layer in shared,
                "Size": 0 if entry.layer in shared else entry.size,
                "CreatedAt": entry.created or rfc3339(entry.used * 1_000_000_000),
                "LastUsedAt": rfc3339(entry.used * 1_000_000_000),
                "UsageCount": 1,
            }
            for key, entry in cache.entries().items()
        ]

    def prune() -> tuple[list[str], int]:
        layers = cache.layers()
        removed = cache.prune()
        freed, _ = images.collect(layers)
        return [key[:25] for key in removed], freed

    return BuildCacheKeeper(entries, prune)
