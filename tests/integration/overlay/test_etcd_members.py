"""An etcd of three members: engines go on as long as two of them do, and say so when they can not."""

from __future__ import annotations

import signal
from typing import Any

import pytest

pytestmark = pytest.mark.root


def test_engines_go_on_while_members_of_etcd_are_killed_stopped_and_come_back(
    new_lan: Any, tools: Any
) -> None:
    members = [new_lan.member(number, 3) for number in range(3)]
    for member in members:
        member.launch()
    for member in members:
        member.wait()
    urls = [member.url.removeprefix("etcd://") for member in members]
    one, two = (new_lan.host() for _ in range(2))
    # Each asks, and listens to, another one first.
    one.start("etcd://" + ",".join(urls))
    two.start("etcd://" + ",".join([urls[1], urls[2], urls[0]]))

    def state(host: Any) -> str:
        return str(host.info()["ClusterState"]["State"])

    def meet(name: str) -> None:
        """What one host says arrives at the other, both ways."""
        one.sampan("network", "create", "-d", "overlay", name)
        tools.until(lambda: name in two.sampan("network", "ls"), f"network {name}")
        one.run(f"web-{name}", "--network", name)
        two.run(f"db-{name}", "--network", name)
        tools.reaches(two, f"db-{name}", f"web-{name}")
        tools.reaches(one, f"web-{name}", f"db-{name}")

    meet("all")
    members[0].kill()
    meet("killed")
    members[0].start()
    # It answers nothing, but its connections stay.
    members[1].send(signal.SIGSTOP)
    meet("stopped")
    members[1].send(signal.SIGCONT)
    members[1].wait()
    meet("returned")

    for member in members[:2]:
        member.kill()
    for host in (one, two):
        tools.until(lambda host=host: state(host) == "unreachable", "the host says so")
    assert one.pings("web-all", "db-all") and two.pings("db-returned", "web-returned")
    said = one.refused("network", "create", "-d", "overlay", "more")
    assert "the cluster store" in said and "does not answer" in said
    for member in members[:2]:
        member.launch()
    for host in (one, two):
        tools.until(lambda host=host: state(host) == "connected", "the host is connected again", 60)
    meet("again")
    for host in (one, two):
        assert b"Traceback" not in host.engine.log.read_bytes()
