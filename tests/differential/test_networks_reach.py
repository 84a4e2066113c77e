"""Who reaches whom with docker.io and with sampan: each on a host of its own, with the same networks and containers.

The rows are targets, the columns those who ask. `DELIBERATE` names the row of docs/compatibility.md for what differs
on purpose; it has to differ.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampan.testing.docker_engine import DockerProcess
from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.reachability import Hosts, World
from sampan.testing.reachability_layout import USUAL, matrix

pytestmark = pytest.mark.root

# 20.10 knows only a part of what there is to know about IPv6.
NETWORKS = tuple(network for network in USUAL.networks if network.name != "six")
GUESTS = tuple(guest for guest in USUAL.guests if guest.networks != ("six",))
PLACES = ("host", "neighbour", *(guest.name for guest in GUESTS))
EXPECTED = USUAL.expected(PLACES)

_ROUTED = "Containers' addresses, routed to from another host"
_NO_WAY_OUT = "Default route of an internal network"
DELIBERATE: dict[tuple[str, str], str] = {
    **{
        (target, "neighbour"): _ROUTED
        for target in EXPECTED
        if target.partition("@")[0] in PLACES and not target.startswith(("closed", "host", "neighbour"))
    },
    ("host", "closed1"): _NO_WAY_OUT,
    ("host", "closed2"): _NO_WAY_OUT,
}
"""By target and place, the row of docs/compatibility.md."""


@contextlib.contextmanager
def _world(docker: bool) -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="differential-reach-"))
    hosts = Hosts()
    engine: DockerProcess | EngineProcess
    cli: Callable[..., str]
    if docker:
        engine = DockerProcess(directory / "engine", prefix=hosts.prefix)
        cli = engine.cli
    else:
        engine = ours = EngineProcess(directory / "engine", prefix=hosts.prefix)

        def cli(*arguments: str, stdin: bytes | None = None) -> str:
            return ours.cli(*arguments, stdin=stdin).stdout

    try:
        engine.start()
        world = World(hosts, cli)
        try:
            cli("import", "-", "busybox:latest", stdin=busybox_tar())
            world.build(NETWORKS, GUESTS)
            yield world
        finally:
            world.close()
            engine.stop()
    finally:
        hosts.close()
        shutil.rmtree(directory, ignore_errors=True)


def _table(docker: bool) -> dict[str, str]:
    with _world(docker) as world:
        return matrix(world, GUESTS, EXPECTED)


@pytest.fixture(scope="module")
def tables() -> tuple[dict[str, str], dict[str, str]]:
    """Docker's and sampan's."""
    with ThreadPoolExecutor(2) as pool:
        theirs, ours = pool.map(_table, (True, False))
    return theirs, ours


@pytest.mark.parametrize("target", EXPECTED)
def test_docker_and_sampan_let_the_same_places_reach_it(
    tables: tuple[dict[str, str], dict[str, str]], target: str
) -> None:
    theirs, ours = tables
    differing = {
        place for place, their, our in zip(PLACES, theirs[target], ours[target], strict=True) if their != our
    }
    assert differing == {place for of, place in DELIBERATE if of == target}


def test_every_deliberate_difference_has_its_row_in_the_documentation() -> None:
    lines = (Path(__file__).parents[2] / "docs/compatibility.md").read_text().splitlines()
    rows = {line.split("|")[1].strip() for line in lines if line.startswith("|")}
    assert set(DELIBERATE.values()) - rows == set()
