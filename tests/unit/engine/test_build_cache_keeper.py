"""What the build cache takes on the disk, and what of it goes: on real (tiny) stores."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.build.files.checksums import Checksums
from sampan.build.files.scan import Entry
from sampan.build.solver.cache import BuildCache, CacheEntry, MetadataTable
from sampan.build.solver.collection import Rule
from sampan.engine.build_cache import BuildCacheKeeper
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_use import CacheUse
from sampan.oci.digest import Digest
from sampan.storage.content import ContentStore
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata

WHEN = "2026-01-02T03:04:05.000006Z"


class Engine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata = Metadata(root)
        self.store = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), self.metadata)
        self.cache = BuildCache(MetadataTable(self.metadata), self.store.layers.has)
        self.store.layer_roots = self.cache.layers
        self.use = CacheUse()
        mounts = CacheMounts(root / "caches", self.metadata, self.use.__contains__)
        self.checksums = root / "context-checksums"
        self.keeper = BuildCacheKeeper(
            self.cache, mounts, self.store, self.metadata, self.use, (), root, self.checksums
        )

    def layer(self, content: bytes) -> Digest:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        return ingest_tar(self.store, [out.getvalue()]).diff_id

    def age(self, diff_id: Digest, seconds: float) -> None:
        """As if the layer and its blob had been made so long ago."""
        blob = self.store.blob_for(diff_id)
        assert blob is not None
        then = time.time() - seconds
        layer = self.root / "layers" / diff_id.removeprefix("sha256:")
        for path in (self.store.content.path(blob.digest), layer, *layer.rglob("*")):
            os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.metadata.close()


def test_checksums_of_contexts_are_part_of_the_cache_and_go_with_it(engine: Engine) -> None:
    kept = Checksums(engine.checksums / "1-2-3")
    entry = Entry("file", 0o100644, 0, 0, 7, mtime_ns=1, ctime_ns=2, device=0, dev=3, ino=4, links=1)
    kept.add(entry, bytes(32), time.time_ns() + 10**10)
    kept.save()
    (item,) = engine.keeper.entries()
    on_disk = sum(path.stat().st_size for path in engine.checksums.iterdir())
    assert (item["Type"], item["Size"]) == ("source.local", on_disk)
    assert on_disk > 32
    assert engine.keeper.prune((Rule(kinds=("regular",)),)) == ([], 0)
    assert engine.keeper.prune((Rule(),)) == (["1-2-3"], on_disk)
    assert engine.keeper.entries() == []
    assert Checksums(engine.checksums / "1-2-3").find(entry) is None


def test_a_layer_that_a_killed_engine_has_made_and_not_recorded_goes_at_once(engine: Engine) -> None:
    made = []
    for name in ("needed", "held", "left"):
        tree = engine.root / name
        tree.mkdir()
        (tree / name).write_text(name)
        made.append(engine.store.layers.adopt_tree(tree).diff_id)
    needed, held, _ = made
    engine.cache.store("a" * 64, CacheEntry(WHEN, needed))
    with engine.store.hold((held,)):
        engine.keeper.collect_garbage()
        assert [engine.store.layers.has(one) for one in made] == [True, True, False]


def test_what_broken_builds_have_left_goes_when_it_is_old_and_nobody_needs_it(engine: Engine) -> None:
    needed, old, young = (engine.layer(text) for text in (b"needed", b"old", b"young"))
    engine.cache.store("a" * 64, CacheEntry(WHEN, needed))
    engine.age(needed, 3 * 24 * 3600)
    engine.age(old, 2 * 24 * 3600)
    engine.age(young, 2 * 3600)
    engine.keeper.collect_garbage()
    layers = engine.store.layers
    assert [layers.has(one) for one in (needed, old, young)] == [True, False, True]
    # Whoever prunes need not wait a day.
    _, freed = engine.keeper.prune((Rule(kinds=("exec.cachemount",)),))
    assert freed >= len(b"young")
    assert [layers.has(one) for one in (needed, old, young)] == [True, False, False]
