"""The metrics page, read by Prometheus' own parser."""

from __future__ import annotations

import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.root


class Page:
    """Every sample by name and labels."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __call__(self, series: str, /, **labels: str) -> float:
        found = [
            sample.value
            for sample in self._samples
            if sample.name == series and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, (series, labels, found)
        return found[0]

    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}


@pytest.fixture
def watched(make_sampan: Callable[..., Any]) -> Iterator[tuple[Any, str]]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-metrics-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    sampan = make_sampan(directory, options=("--metrics-addr", address))
    try:
        yield sampan, f"http://{address}"
    finally:
        sampan.close()
        sampan.engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_engine_and_containers_are_measured(watched: tuple[Any, str], wait_until: Any) -> None:
    sampan, url = watched

    def read() -> Page:
        with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return Page(answer.read().decode())

    busy = "while :; do i=$((i+1)); [ $((i % 20000)) = 0 ] && ping -c 1 -W 1 $GATEWAY >/dev/null; done"
    gateway = sampan.api.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    sampan.ok(
        *("run", "-d", "--name", "busy", "--memory", "64m", "-e", f"GATEWAY={gateway}"),
        *("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms", "--health-retries", "1"),
        *("busybox", "sh", "-c", busy),
    )
    sampan.ok("run", "--name", "ended", "busybox", "true")
    sampan.run("run", "--name", "busy", "busybox", "true")  # refused: not counted as a creation
    sampan.ok("start", "busy")  # it runs already: not counted as a start
    wait_until(lambda: read()("container_network_transmit_packets_total", name="busy") > 1, "traffic")
    wait_until(lambda: read()("sampan_container_health", name="busy", status="unhealthy") == 1, "a check")
    page = read()
    state = sampan.api.api.inspect_container("busy")
    assert page("engine_daemon_container_states_containers", state="running") == 1
    assert page("engine_daemon_container_states_containers", state="stopped") == 1
    assert page("engine_daemon_engine_info", os_type="linux") == 1
    assert page("engine_daemon_container_actions_seconds_count", action="create") == 2
    assert page("engine_daemon_container_actions_seconds_count", action="start") == 2
    assert page("sampan_events_total", type="container", action="start") == 2
    assert page("engine_daemon_health_checks_failed_total") >= 1
    assert page("engine_daemon_health_checks_total") >= page("engine_daemon_health_checks_failed_total")
    owner = {"id": state["Id"], "name": "busy", "image": "busybox"}
    assert page("container_spec_memory_limit_bytes", **owner) == 64 << 20
    assert page("container_memory_usage_bytes", **owner) > 0
    assert page("container_memory_failcnt", **owner) >= 0
    assert 0 < page("container_memory_working_set_bytes", **owner) < 64 << 20
    first = page("container_cpu_usage_seconds_total", **owner)
    wait_until(lambda: read()("container_cpu_usage_seconds_total", **owner) > first, "processor time")
    sampan.ok("rm", "-f", "busy")
    assert "container_cpu_usage_seconds_total" not in read().names()


def test_nothing_but_the_page_is_served_there(watched: tuple[Any, str]) -> None:
    _, url = watched
    for path in ("/", "/containers/json", "/v1.47/info"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}{path}", timeout=20)
        assert refused.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", method="POST"), timeout=20)
    assert refused.value.code == 404
