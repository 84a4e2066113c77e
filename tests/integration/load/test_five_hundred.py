"""`make load`: hundreds of containers at once, and everything they were made of gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.belongings import belongings, grown

pytestmark = pytest.mark.root

COUNT = 500
AT_ONCE = 16
IGNORES_NOTHING = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]


@pytest.fixture
def roomy(make_sampan: Callable[..., Any]) -> Iterator[Any]:
    """An engine with addresses for all of them on its bridge."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-load-"))
    sampan = make_sampan(directory, subnet="10.199.0.1/20")
    try:
        yield sampan
    finally:
        sampan.close()
        sampan.engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_of_five_hundred_containers_nothing_is_left(
    roomy: Any, wait_until_empty: Callable[..., None], find_problems: Callable[[Any], list[str]]
) -> None:
    sampan = roomy
    api = sampan.api.api
    sampan.ok("run", "--rm", "busybox", "true")  # what the first container makes and keeps is there
    before = belongings(sampan.engine)

    def create(number: int) -> str:
        made: str = api.create_container("busybox", IGNORES_NOTHING, name=f"load-{number}")["Id"]
        return made

    with ThreadPoolExecutor(AT_ONCE) as pool:
        containers = list(pool.map(create, range(COUNT)))
        list(pool.map(api.start, containers))
        assert len(api.containers(filters={"status": "running"})) == COUNT
        addresses = {each["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for each in api.containers()}
        assert len(addresses) == COUNT
        assert find_problems(sampan) == []
        during = belongings(sampan.engine)
        assert during["processes"] >= before["processes"] + 2 * COUNT  # the count can see them
        assert during["control groups"] >= before["control groups"] + COUNT
        list(pool.map(lambda each: api.stop(each, timeout=30), containers))
        codes = Counter(api.inspect_container(each)["State"]["ExitCode"] for each in containers)
        assert codes == {0: COUNT}
        list(pool.map(api.remove_container, containers))
    assert api.containers(all=True) == []

    # Idle connections of the client and threads of the daemon's pool may come and go.
    allowed = {"descriptors of the daemon": 40, "threads of the daemon": 64}
    wait_until_empty(lambda: grown(before, belongings(sampan.engine), allowed), "left over", timeout=60)
