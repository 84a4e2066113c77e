"""Cache mounts of one step: it never waits for itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from sampan.build.files.tree import Tree
from sampan.build.model import MountOption, RunOperation
from sampan.build.session import NO_CLIENT
from sampan.build.solver.run_mounts import RunMounts
from sampan.build.worker import CacheWish, Worker
from sampan.engine.cache_leases import CacheLeases
from sampan.engine.cache_mounts import CacheMounts
from sampan.oci.ignore import IgnoreRules


class _Directories:
    """In the place of `CacheMounts`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(
        self, cache_id: str, name: str, touch: Callable[[str], None], fill: Callable[[int], None]
    ) -> int:
        path = self._root / name
        path.mkdir(exist_ok=True)
        (path / "d").mkdir(exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


class _LeasingWorker:
    def __init__(self, root: Path) -> None:
        self._leases = CacheLeases(cast(CacheMounts, _Directories(root)))
        self.asked: list[CacheWish] = []

    def open_cache(self, wish: CacheWish, cancelled: threading.Event) -> object:
        self.asked.append(wish)
        return self._leases.lease(wish, lambda _: None, cancelled)


def _operation(*mounts: MountOption) -> RunOperation:
    return RunOperation(("true",), (), (), "/", "", "", mounts, "true")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MountOption("cache", "/a", id="x", sharing="locked"), MountOption("cache", "/b", id="x")),
        (MountOption("cache", "/a", id="x"), MountOption("cache", "/b", id="x", sharing="locked")),
        (
            MountOption("cache", "/a", id="x", sharing="locked", mode=0o755),
            MountOption("cache", "/b", source="d", id="x", sharing="locked"),
        ),
    ],
)
def test_a_step_that_mounts_a_cache_twice_has_it_once_and_for_itself(
    tmp_path: Path, first: MountOption, second: MountOption
) -> None:
    worker, cancelled = _LeasingWorker(tmp_path), threading.Event()
    given_up = threading.Timer(5, cancelled.set)
    given_up.start()
    tree = Tree(-1, IgnoreRules(), is_context=True)
    try:
        with RunMounts(cast(Worker, worker), NO_CLIENT, tree, lambda _: (), cancelled) as mounts:
            mounts.prepare(_operation(first, second))
            assert [mount.target for mount in mounts.mounts] == ["/a", "/b"]
            assert mounts.mounts[0].base == mounts.mounts[1].base
        assert [wish.sharing for wish in worker.asked] == ["locked"]
    finally:
        given_up.cancel()


def test_caches_that_differ_are_apart(tmp_path: Path) -> None:
    worker = _LeasingWorker(tmp_path)
    tree = Tree(-1, IgnoreRules(), is_context=True)
    several = [
        MountOption("cache", "/a", id="x", sharing="locked"),
        MountOption("cache", "/b", id="x", sharing="locked", mode=0o700),
        MountOption("cache", "/c", id="y", sharing="locked"),
    ]
    with RunMounts(cast(Worker, worker), NO_CLIENT, tree, lambda _: (), threading.Event()) as mounts:
        mounts.prepare(_operation(*several))
        assert len({mount.base for mount in mounts.mounts}) == 3
