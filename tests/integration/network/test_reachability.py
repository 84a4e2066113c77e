"""Who reaches whom: the whole table, from every place to every place, on a host of its own beside another one.

tests/differential/test_networks_reach.py holds the same table against docker.io.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.reachability import Hosts, World
from sampan.testing.reachability_layout import GUESTS, NETWORKS, SIX, SIX_GUESTS, expected, matrix

pytestmark = pytest.mark.root

PLACES = ("host", "neighbour", *(guest.name for guest in (*GUESTS, *SIX_GUESTS)))
EXPECTED = expected(PLACES)


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, str]]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-reach-"))
    hosts = Hosts()
    try:
        with EngineProcess(directory / "engine", prefix=hosts.prefix) as engine:
            engine.cli("import", "-", "busybox:latest", stdin=busybox_tar())
            world = World(hosts, lambda *arguments: engine.cli(*arguments).stdout)
            try:
                world.build((*NETWORKS, SIX), (*GUESTS, *SIX_GUESTS))
                yield matrix(world, EXPECTED)
            finally:
                world.close()
    finally:
        hosts.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("target", EXPECTED)
def test_exactly_those_reach_it_who_may(found: dict[str, str], target: str) -> None:
    assert found[target] == EXPECTED[target]


def test_the_table_is_complete(found: dict[str, str]) -> None:
    assert set(found) == set(EXPECTED)
