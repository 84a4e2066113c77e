"""Networks of the driver macvlan: containers on the link of a host's interface, seen from another host on it."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
OUTSIDE, OUTSIDE6 = "10.199.7.1", "fd00:7:7::1"


def ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=check)
    return done.stdout


class Cable:
    """A veth pair: `name` on this host, the other end in a namespace that stands for another host (10.199.7.1)."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.name, self.other = f"smc{token}", f"smo{token}"
        ip("netns", "add", self.other)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.other)
        ip("link", "set", self.name, "up")
        ip("-n", self.other, "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
        ip("-n", self.other, "addr", "add", f"{OUTSIDE6}/64", "dev", "eth0", "nodad")
        ip("-n", self.other, "link", "set", "eth0", "up")
        ip("-n", self.other, "link", "set", "lo", "up")

    def pings(self, address: str) -> bool:
        return pings(["ip", "netns", "exec", self.other], address)

    @property
    def mac(self) -> str:
        found: str = json.loads(ip("-j", "link", "show", self.name))[0]["address"]
        return found

    def close(self) -> None:
        ip("link", "delete", self.name, check=False)
        ip("netns", "delete", self.other, check=False)


def pings(prefix: list[str], address: str) -> bool:
    words = [*prefix, "busybox", "ping", "-c1", "-W1", address]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    yield made
    made.close()


@pytest.fixture
def stray() -> Iterator[str]:
    """The name of a device that a test makes; whatever happens to it, it is gone afterwards."""
    name = f"sms{secrets.token_hex(3)}"
    yield name
    ip("link", "delete", name, check=False)


def create(sampan: Any, name: str, *words: str) -> Any:
    return sampan.run("network", "create", "-d", "macvlan", *words, name)


def started(sampan: Any, name: str, *words: str) -> str:
    """A container that sleeps; its address in the one network that it has."""
    sampan.ok("run", "-d", "--name", name, *words, BUSYBOX, "sleep", "1000")
    return address_of(sampan, name)


def address_of(sampan: Any, container: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return str(sampan.ok("inspect", "-f", form, container))


def reaches(sampan: Any, container: str, address: str) -> bool:
    return sampan.run("exec", container, "ping", "-c1", "-W1", address).returncode == 0


SUBNET = ("--subnet", "10.199.7.0/24", "--gateway", OUTSIDE, "--ip-range", "10.199.7.64/26")


def test_containers_are_on_the_link_of_the_parent_and_see_each_other_and_other_hosts(
    sampan: Any, cable: Cable
) -> None:
    both = ("--ipv6", "--subnet", "fd00:7:7::/64", "--gateway", OUTSIDE6)
    assert create(sampan, "link", *SUBNET, *both, "-o", f"parent={cable.name}").returncode == 0
    one = started(sampan, "one", "--network", "link")
    two = started(
        sampan, "two", "--network", "link", "--ip", "10.199.7.9", "--mac-address", "02:00:00:00:07:09"
    )
    assert (one, two) == ("10.199.7.64", "10.199.7.9")
    assert reaches(sampan, "one", two) and reaches(sampan, "one", OUTSIDE) and cable.pings(two)
    assert reaches(sampan, "one", OUTSIDE6) and cable.pings("fd00:7:7::2")
    assert f"default via {OUTSIDE6} dev eth0" in sampan.ok("exec", "one", "ip", "-6", "route")
    assert reaches(sampan, "one", "two"), "names are known here too"
    assert "02:00:00:00:07:09" in ip("-n", cable.other, "neigh", "show", two)
    routes = [line.strip() for line in sampan.ok("exec", "one", "ip", "route").splitlines()]
    assert routes == [
        f"default via {OUTSIDE} dev eth0",
        "10.199.7.0/24 dev eth0 scope link  src 10.199.7.64",
    ]
    sampan.ok("restart", "-t", "0", "two")
    assert cable.pings(two), "the old interface's hardware address was in nobody's way"
    sampan.ok("rm", "-f", "one", "two")
    assert sampan.ok("network", "rm", "link") == "link"
    assert cable.name in ip("link", "show", cable.name), "somebody else's device stays"


@pytest.mark.parametrize("mode", ["private", "vepa"])
def test_containers_are_kept_apart_in_the_modes_for_that(sampan: Any, cable: Cable, mode: str) -> None:
    done = create(sampan, "apart", *SUBNET, "-o", f"parent={cable.name}", "-o", f"macvlan_mode={mode}")
    assert done.returncode == 0
    one, two = (started(sampan, name, "--network", "apart") for name in ("one", "two"))
    assert cable.pings(one) and cable.pings(two)
    assert not reaches(sampan, "one", two)


def test_passthru_gives_the_parent_to_one_container(
    sampan: Any, cable: Cable, wait_until: Callable[..., None]
) -> None:
    before = cable.mac
    mode = ("-o", f"parent={cable.name}", "-o", "macvlan_mode=passthru")
    network = create(sampan, "whole", *SUBNET, *mode).stdout.strip()
    one = started(sampan, "one", "--network", "whole", "--mac-address", "02:00:00:00:07:07")
    assert cable.pings(one)
    assert cable.mac == "02:00:00:00:07:07"
    done = sampan.run("run", "--rm", "--network", "whole", BUSYBOX, "true")
    assert done.returncode == 125 and "failed to create the macvlan port: invalid argument" in done.stderr
    done = create(sampan, "second", "--subnet", "10.199.8.0/24", "-o", f"parent={cable.name}")
    assert (
        f"macvlan network {network} is already using parent interface {cable.name} in mode passthru"
        in done.stderr
    )
    sampan.ok("restart", "-t", "0", "one")
    assert cable.pings(address_of(sampan, "one"))
    sampan.ok("rm", "-f", "one")
    wait_until(lambda: cable.mac == before, "the parent has its own address again")


def test_without_a_parent_containers_see_each_other_and_nothing_else(sampan: Any) -> None:
    network = create(sampan, "alone", "--subnet", "10.199.9.0/24").stdout.strip()
    parent = f"dm-{network[:12]}"
    assert "UP" in ip("-o", "link", "show", parent)
    one, two = (started(sampan, name, "--network", "alone") for name in ("one", "two"))
    assert reaches(sampan, "one", two) and reaches(sampan, "two", one)
    assert "default" not in sampan.ok("exec", "one", "ip", "route")
    sampan.ok("rm", "-f", "one", "two")
    sampan.ok("network", "rm", "alone")
    assert ip("-o", "link", "show", parent, check=False) == ""


def test_a_network_may_have_several_subnets_with_a_gateway_each(sampan: Any, cable: Cable) -> None:
    second = ("--subnet", "10.199.17.0/30", "--gateway", "10.199.17.1")
    ip("-n", cable.other, "addr", "add", "10.199.17.1/30", "dev", "eth0")
    assert create(sampan, "link", *second, *SUBNET, "-o", f"parent={cable.name}").returncode == 0
    addresses = [started(sampan, name, "--network", "link") for name in ("one", "two")]
    assert addresses == ["10.199.17.2", "10.199.7.64"], "the second subnet when the first is full"
    assert all(map(cable.pings, addresses)) and reaches(sampan, "one", addresses[1])
    assert "default via 10.199.17.1" in sampan.ok("exec", "one", "ip", "route")
    assert f"default via {OUTSIDE}" in sampan.ok("exec", "two", "ip", "route")
    assert started(sampan, "three", "--network", "link", "--ip", "10.199.7.9") == "10.199.7.9"
    form = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
    assert sampan.ok("inspect", "-f", form, "one", "three").split() == ["10.199.17.1", OUTSIDE]


def test_a_running_container_is_connected_and_disconnected(sampan: Any, cable: Cable) -> None:
    made = create(sampan, "link", *SUBNET, "-o", f"parent={cable.name}")
    assert made.returncode == 0, made.stderr
    sampan.ok("run", "-d", "--name", "one", BUSYBOX, "sleep", "1000")
    sampan.ok("network", "connect", "--ip", "10.199.7.9", "--gw-priority", "1", "link", "one")
    assert cable.pings("10.199.7.9")
    assert f"default via {OUTSIDE} dev eth1" in sampan.ok("exec", "one", "ip", "route")
    sampan.ok("network", "disconnect", "link", "one")
    assert not cable.pings("10.199.7.9")
    routes = sampan.ok("exec", "one", "ip", "route")
    assert "default via" in routes and "dev eth0" in routes and "eth1" not in routes


def test_a_killed_engine_leaves_no_parent_behind_and_finds_its_containers_again(
    fresh_sampan: Any, cable: Cable, stray: str
) -> None:
    sampan = fresh_sampan
    networks = [
        create(sampan, name, "--subnet", f"10.199.{n}.0/24").stdout.strip()
        for name, n in (("a", 10), ("b", 11))
    ]
    kept, lost = (f"dm-{network[:12]}" for network in networks)
    made = create(sampan, "link", *SUBNET, "-o", f"parent={cable.name}")
    assert made.returncode == 0, made.stderr
    one = started(sampan, "one", "--network", "link")
    sampan.engine.kill()
    ip("link", "delete", lost)
    alias = json.loads(ip("-j", "link", "show", kept))[0]["ifalias"]
    ip("link", "add", stray, "type", "ifb")
    ip("link", "set", stray, "alias", alias)
    sampan.engine.start()
    assert cable.pings(one)
    assert ip("-o", "link", "show", stray, check=False) == "", "a parent that no network has"
    assert "UP" in ip("-o", "link", "show", lost), "one that somebody has removed is made again"
    sampan.ok("network", "disconnect", "link", "one")
    assert not cable.pings(one)
    sampan.ok("rm", "-f", "one")
    sampan.engine.terminate()
    cable.close()
    sampan.engine.start()
    done = sampan.run("run", "--rm", "--network", "link", BUSYBOX, "true")
    assert done.returncode == 125 and "invalid subinterface vlan name" in done.stderr, "its parent is gone"
    sampan.ok("network", "rm", "a", "b", "link")
    assert ip("-o", "link", "show", kept, check=False) == ""


def test_a_network_that_can_not_stand_on_its_parent_is_refused_and_leaves_nothing(
    sampan: Any, cable: Cable
) -> None:
    for options, words in (
        (["-o", "parent=lo"], "loopback interface is not a valid macvlan parent link"),
        (["-o", "parent=absent0"], "invalid subinterface vlan name absent0, example formatting is eth0.10"),
        (["-o", "parent=absent0.7"], "-o parent interface was not found on the host: absent0"),
        (
            ["-o", f"parent={cable.name}.x"],
            "unable to parse a valid vlan id from: x (ex. eth0.10 for vlan 10)",
        ),
        (["-o", f"parent={cable.name}.4095"], "vlan id must be between 1-4094, received: 4095"),
        (
            ["-o", "macvlan_mode=odd"],
            "requested macvlan mode 'odd' is not valid, 'bridge' mode is the macvlan driver default",
        ),
    ):
        done = create(sampan, "refused", "--subnet", "10.199.12.0/24", *options)
        assert done.returncode == 1 and words in done.stderr, done.stderr
    assert "refused" not in sampan.ok("network", "ls")
    assert create(sampan, "later", "--subnet", "10.199.12.0/24").returncode == 0, "the subnet is free"
