"""Who reaches whom: the whole table, from every place to every place, on a host of its own beside another one.

tests/differential/test_networks_reach.py holds the same table against docker.io.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.reachability import Hosts, World
from sampan.testing.reachability_layout import MODES, USUAL, Layout, matrix

pytestmark = pytest.mark.root


@contextlib.contextmanager
def table(layout: Layout) -> Iterator[dict[str, str]]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-reach-"))
    hosts = Hosts()
    try:
        with EngineProcess(directory / "engine", prefix=hosts.prefix) as engine:
            engine.cli("import", "-", "busybox:latest", stdin=busybox_tar())
            world = World(hosts, lambda *arguments: engine.cli(*arguments).stdout)
            try:
                world.build(layout.networks, layout.guests)
                yield matrix(world, layout.guests, layout.expected())
            finally:
                world.close()
    finally:
        hosts.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def usual() -> Iterator[dict[str, str]]:
    with table(USUAL) as found:
        yield found


@pytest.fixture(scope="module")
def modes() -> Iterator[dict[str, str]]:
    with table(MODES) as found:
        yield found


@pytest.mark.parametrize("target", USUAL.expected())
def test_exactly_those_reach_it_who_may(usual: dict[str, str], target: str) -> None:
    assert usual[target] == USUAL.expected()[target]


@pytest.mark.parametrize("target", MODES.expected())
def test_in_each_gateway_mode_and_with_macvlan_exactly_those_reach_it_who_may(
    modes: dict[str, str], target: str
) -> None:
    assert modes[target] == MODES.expected()[target]


def test_the_tables_are_complete(usual: dict[str, str], modes: dict[str, str]) -> None:
    assert set(usual) == set(USUAL.expected())
    assert set(modes) == set(MODES.expected())
