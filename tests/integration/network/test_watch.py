"""What other programs do to the host's rules is noticed and mended without any call."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import threading
import time
from string import Template

import pytest

from sampan.linux.nftables import Batch, Family, NftablesSocket
from sampan.linux.nftables_events import RulesetEvents
from sampan.network import bridge, impersonation_rules
from sampan.network.model import PortBinding
from sampan.network.watch import RulesetWatch

pytestmark = pytest.mark.root

REJECT = "iptables-{} --wait {} INPUT -i uplink -p tcp --dport 8080 -j REJECT"


class Watched:
    """A watch on an event loop of the engine's namespace, and a count of its looks."""

    def __init__(self, world, host, **options):
        self.looks = 0
        self.looked = threading.Condition()
        self._refresh = host.refresh
        host.refresh = self._counted
        self._loop = asyncio.new_event_loop()
        self._thread = world.engine.run(self._start)
        self._watch = RulesetWatch(host, **options)
        self._loop.call_soon_threadsafe(self._watch.start)
        self._wait(asyncio.sleep(0))

    def _counted(self):
        try:
            return self._refresh()
        finally:
            with self.looked:
                self.looks += 1
                self.looked.notify_all()

    def _start(self):
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        return thread

    def _wait(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def expect_look(self, after):
        with self.looked:
            assert self.looked.wait_for(lambda: self.looks > after, 20), "nobody looked"

    def is_quiet(self, seconds):
        with self.looked:
            before = self.looks
            return not self.looked.wait_for(lambda: self.looks > before, seconds)

    def close(self):
        self._wait(self._watch.close())
        self._wait(self._watch.close())
        self._wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def watch(world):
    made = []

    def begin(host=None, **options):
        made.append(Watched(world, host or world.host, **options))
        return made[-1]

    yield begin
    for one in made:
        one.close()


@pytest.fixture
def web(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8080))
    return container


def change(world, command, watched):
    """Somebody's change, and the look that must follow it."""
    before = watched.looks
    world.engine.command("sh", "-c", command)
    watched.expect_look(before)


def eventually(condition):
    """A change may take several transactions, and the first look come between them."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            faulthandler.dump_traceback()  # what the look, in its thread, is waiting for
            pytest.fail("it did not come to pass in time")


def answer(world, port=8080):
    try:
        return world.outside.ask_tcp(world.ADDRESS, port, timeout=0.4)
    except OSError:
        return ""


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft delete table inet sampan-one",
        "nft flush table inet sampan-one",
        "nft flush chain inet sampan-one prerouting",
        "nft flush map inet sampan-one ports-any",
        # As a service that loads rules which somebody has saved at an earlier time.
        "nft --terse list ruleset > $SAVED; nft flush ruleset; nft -f $SAVED",
    ],
)
def test_published_ports_work_again_after_the_ruleset_was_flushed_or_replaced(
    world, web, watch, damage, tmp_path, caplog
):
    watched = watch()
    with caplog.at_level(logging.WARNING, "sampan.network"):
        change(world, damage.replace("$SAVED", str(tmp_path / "saved")), watched)
        eventually(lambda: answer(world) == "web 192.0.2.1 hello")
        eventually(lambda: "table sampan-one is written anew" in caplog.text)


def test_a_firewall_that_comes_is_obeyed_and_forgotten_when_it_goes(world, web, watch):
    watched = watch()
    change(world, REJECT.format("nft", "-A"), watched)
    eventually(lambda: not answer(world))
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    change(world, REJECT.format("nft", "-D"), watched)
    eventually(lambda: answer(world) == "web 192.0.2.1 hello")


def test_a_port_published_after_the_firewall_came_does_not_hide_those_from_before(world, web):
    world.engine.command("sh", "-c", REJECT.format("nft", "-A"))
    world.publish(web, PortBinding(80, host_address="0.0.0.0", host_port=8081))
    world.engine.run(world.host.refresh)
    assert not world.outside.can_reach(world.ADDRESS, 8080)
    assert world.outside.ask_tcp(world.ADDRESS, 8081) == "web 10.213.1.1 hello"


def test_the_legacy_iptables_which_tells_nobody_is_looked_at_from_time_to_time(world, web, watch):
    watched = watch(legacy_interval=0.1)
    change(world, REJECT.format("legacy", "-A"), watched)
    eventually(lambda: not answer(world))
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    world.engine.command("sh", "-c", REJECT.format("legacy", "-D"))
    eventually(lambda: answer(world) == "web 192.0.2.1 hello")


def test_a_new_forward_policy_drop_is_passed(world, web, watch):
    watched = watch()
    change(world, "iptables-nft -P FORWARD DROP", watched)
    eventually(lambda: answer(world) == "web 192.0.2.1 hello")


@pytest.mark.parametrize(
    "damage",
    [
        "ip link delete smp1",
        "ip link delete smp1; nft flush ruleset",
        "ip address flush dev smp1",
        "ip route delete 10.213.1.0/24 dev smp1",
        "ip address delete 10.213.1.1/24 dev smp1; ip link set smp1 down",
    ],
)
def test_a_bridge_that_was_deleted_or_lost_its_address_is_made_again_with_its_containers(
    world, web, watch, damage, caplog
):
    neighbour = world.container(world.network(), 3)
    watched = watch()
    with caplog.at_level(logging.WARNING, "sampan.network"):
        change(world, damage, watched)
        eventually(lambda: answer(world) == "web 192.0.2.1 hello")
    assert neighbour.ask_tcp(web.address, 80).startswith("web ")
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    eventually(lambda: "smp1" in caplog.text)  # what was done is told after it is done


def test_a_container_s_port_of_the_bridge_that_was_set_down_or_taken_out_is_mended_at_the_next_look(
    world, web, watch
):
    watched = watch()
    port = bridge.host_interface(web.endpoint.id)
    for damage in (f"ip link set {port} down", f"ip link set {port} nomaster"):
        change(world, f"{damage}; nft add table ip somebodys; nft delete table ip somebodys", watched)
        eventually(lambda: answer(world) == "web 192.0.2.1 hello")


@pytest.mark.parametrize(
    "damage",
    [
        "flush table bridge sampan-one",
        "flush set bridge sampan-one $SET",
        "flush chain bridge sampan-one $CHAIN",
    ],
)
def test_rules_that_keep_containers_from_others_addresses_are_written_anew(world, watch, damage):
    world.container(world.network(families="46"))
    names = {"SET": impersonation_rules._TAKEN4, "CHAIN": impersonation_rules.TARGETS}
    before = whole(world)
    watched = watch()
    change(world, "nft " + Template(damage).substitute(names), watched)
    eventually(lambda: whole(world) == before)
    looks = watched.looks
    world.engine.run(world.host.refresh)
    assert watched.looks == looks + 1 and whole(world) == before


def whole(world):
    return sorted(world.engine.command("nft", "list", "table", "bridge", "sampan-one").splitlines())


def test_an_ipv6_address_that_a_bridge_lost_comes_back(world, watch):
    network = world.network(families="46")
    watched = watch()
    change(world, "ip -6 address flush dev smp1 scope global", watched)
    eventually(lambda: f" {network.gateway6}/64 " in world.engine.command("ip", "-6", "addr", "show", "smp1"))


def test_forwarding_that_was_switched_off_is_on_again(world, watch):
    world.network(families="46")
    watched = watch()
    for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        change(world, f"sysctl -q -w net.{setting}=0", watched)
        eventually(lambda name=setting: world.engine.command("sysctl", "-n", f"net.{name}") == "1\n")


def test_ends_of_containers_cause_no_look(world, web, watch):
    watched = watch()
    other = world.container(world.network(), 3)
    world.engine.run(lambda: world.host.detach(other.endpoint))
    assert watched.is_quiet(1.0)


def test_a_storm_of_changes_causes_few_looks_and_our_own_changes_none(world, web, watch):
    watched = watch()
    begin = time.monotonic()
    world.engine.run(lambda: storm(3000))
    watched.expect_look(0)
    assert watched.looks <= 2 + (time.monotonic() - begin) / 0.2
    world.engine.command("nft", "flush", "ruleset")
    eventually(lambda: answer(world) == "web 192.0.2.1 hello")

    def ours():
        port = world.host.netlink_port
        events = RulesetEvents(port)
        bindings = world.host.publish(web.address, [PortBinding(80, host_address="0.0.0.0")])
        world.host.unpublish(web.address, bindings)
        heard = [events.drain()]
        storm(1)
        heard.append(events.drain())
        events.close()
        return heard

    assert world.engine.run(ours) == [False, True]


def storm(number):
    with NftablesSocket() as nftables:
        for count in range(number):
            batch = Batch(Family.IPV4)
            batch.add_table(f"storm-{count}")
            nftables.commit(batch)


def test_two_engines_that_mend_come_to_rest(world, web, watch):
    other = world.start_engine("two")
    watches = [watch(), watch(other)]
    before = [one.looks for one in watches]
    world.engine.command("sh", "-c", "iptables-nft -P FORWARD DROP; nft flush table inet sampan-two")
    for one, looks in zip(watches, before, strict=True):
        one.expect_look(looks)
    eventually(lambda: all(one.is_quiet(1.0) for one in watches))  # five times the wait before a look
    eventually(lambda: answer(world) == "web 192.0.2.1 hello")


def test_closing_leaves_neither_descriptor_nor_thread(world, watch):
    def count():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = count()
    watched = Watched(world, world.host)
    change(world, "nft add table ip x", watched)
    watched.close()
    assert count() == before
