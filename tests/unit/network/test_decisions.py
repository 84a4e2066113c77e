"""Pure decisions: what a binding means, when a firewall filters, where Docker's forward chain is passed."""

from __future__ import annotations

import ast
import importlib
import itertools
from functools import partial
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.linux.nftables import NF_ACCEPT, NF_DROP, BaseHook, Chain, Family, Hook, Rule
from sampan.linux.nftables_expressions import Verdict
from sampan.network import passage_legacy, reservation
from sampan.network.firewall import filters_input
from sampan.network.model import PortBinding, derived_mac
from sampan.network.passage import IP6TABLES, IPTABLES, choose_chain, wanted
from sampan.network.rules import open_element, port_element


@pytest.mark.parametrize(
    "name",
    ["model", "pools", "publishing", "resolvconf", "dns_message", "rules", "impersonation_rules"],
)
def test_deciding_modules_touch_nothing_outside(name):
    source = Path(importlib.import_module(f"sampan.network.{name}").__file__).read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & {"os", "socket", "subprocess", "ctypes", "threading", "asyncio"}


def test_the_mac_is_made_of_the_address_as_docker_s():
    assert derived_mac("172.17.0.2/16") == "02:42:ac:11:00:02"
    assert derived_mac("fd00::1:0:2/64") == "02:42:00:00:00:02"


def test_a_port_on_all_addresses_and_one_on_a_single_address_are_in_different_maps():
    anywhere = port_element("172.17.0.2", PortBinding(80, host_address="0.0.0.0", host_port=8080))
    assert (anywhere.map, anywhere.key.hex(), anywhere.value.hex()) == (
        "ports-any",
        "060000001f900000",
        "ac11000200500000",
    )
    one = port_element("172.17.0.2", PortBinding(53, "udp", "127.0.0.1", 53))
    assert (one.map, one.key.hex()) == ("ports-address", "7f0000011100000000350000")
    six = port_element("fd00::2", PortBinding(80, host_address="::", host_port=8080))
    assert (six.map, six.key.hex()) == ("ports-any6", "060000001f900000")
    assert six.value == bytes.fromhex("fd00" + "00" * 13 + "02" + "00500000")
    opened = open_element("fd00::2", PortBinding(80))
    assert (opened.map, opened.value) == ("open6", None)
    assert opened.key == bytes.fromhex("fd00" + "00" * 13 + "02" + "06000000" + "00500000")


def test_candidates_are_the_port_the_range_or_docker_s_ephemeral_ports():
    assert list(reservation.candidates(PortBinding(80, host_port=8080), 0)) == [8080]
    assert list(reservation.candidates(PortBinding(80, host_port=8, host_port_end=10), 0)) == [8, 9, 10]
    ephemeral = list(reservation.candidates(PortBinding(80), 65535))
    assert ephemeral[:2] == [65535, 49153]
    assert sorted(ephemeral) == list(range(49153, 65536))


def test_no_address_means_all_of_them_and_ipv6_only_where_the_host_has_it():
    assert reservation.host_addresses(PortBinding(80), True) == ("0.0.0.0", "::")
    assert reservation.host_addresses(PortBinding(80), False) == ("0.0.0.0",)
    assert reservation.host_addresses(PortBinding(80, host_address="127.0.0.1"), True) == ("127.0.0.1",)


def test_ports_overlap_when_an_address_is_the_same_or_all():
    bindings = {
        address: PortBinding(80, host_address=address, host_port=80)
        for address in ("0.0.0.0", "10.0.0.1", "10.0.0.2", "::", "::1")
    }
    pairs = {
        frozenset(pair)
        for pair in itertools.combinations(bindings, 2)
        if reservation.overlap(bindings[pair[0]], bindings[pair[1]])
    }
    assert pairs == {
        frozenset(("0.0.0.0", "10.0.0.1")),
        frozenset(("0.0.0.0", "10.0.0.2")),
        frozenset(("::", "::1")),
    }
    udp = PortBinding(80, "udp", "0.0.0.0", 80)
    assert not reservation.overlap(bindings["0.0.0.0"], udp)


@pytest.mark.parametrize(
    "binding",
    [
        PortBinding(0),
        PortBinding(65536),
        PortBinding(80, "icmp"),
        PortBinding(80, host_port=-1),
        PortBinding(80, host_port=70000),
        PortBinding(80, host_address="localhost"),
    ],
)
def test_a_binding_that_can_never_work_is_invalid(binding):
    with pytest.raises(Invalid):
        reservation.validate(binding)


def chain(name, hook=None, policy=NF_ACCEPT, family=Family.IPV4, table="filter"):
    return Chain(family, table, name, None if hook is None else BaseHook("filter", hook, 0, policy))


def rule(where, *expressions, verdict=None, target="", family=Family.IPV4):
    return Rule(family, "filter", where, 1, expressions, () if verdict is None else ((verdict, target),), "")


INPUT = chain("INPUT", Hook.INPUT)


@pytest.mark.parametrize(
    ("chains", "rules", "filters"),
    [
        ([], [], False),
        ([INPUT], [], False),
        ([chain("INPUT", Hook.INPUT, NF_DROP)], [], True),
        ([chain("x", Hook.INPUT, NF_DROP, Family.INET)], [], True),
        ([chain("x", Hook.INPUT, NF_DROP, Family.IPV6)], [], False),
        ([chain("x", Hook.INPUT, NF_DROP, Family.BRIDGE)], [], False),
        ([chain("FORWARD", Hook.FORWARD, NF_DROP)], [], False),
        ([INPUT], [rule("INPUT", "immediate", verdict=Verdict.ACCEPT)], False),
        ([INPUT], [rule("INPUT", "immediate", verdict=Verdict.DROP)], True),
        ([INPUT], [rule("INPUT", "reject")], True),
        ([INPUT], [rule("INPUT", "target REJECT")], True),
        ([INPUT], [rule("INPUT", "lookup verdict")], True),
        ([INPUT, chain("other")], [rule("other", "reject")], False),
        (
            [INPUT, chain("other")],
            [rule("INPUT", verdict=Verdict.JUMP, target="other"), rule("other", "reject")],
            True,
        ),
        (
            [INPUT, chain("a"), chain("b")],
            [rule("INPUT", verdict=Verdict.GOTO, target="a"), rule("a", verdict=Verdict.JUMP, target="a")],
            False,
        ),
    ],
)
def test_input_is_filtered_when_something_reachable_can_drop(chains, rules, filters):
    assert filters_input(chains, rules) is filters


def test_docker_s_chain_is_preferred_and_only_needed_when_forward_drops():
    drop, user = chain("FORWARD", Hook.FORWARD, NF_DROP), chain("DOCKER-USER")
    choose = partial(choose_chain, IPTABLES)
    assert choose([drop, user], []) == "DOCKER-USER"
    assert choose([drop], []) == "FORWARD"
    assert choose([chain("FORWARD", Hook.FORWARD), user], []) is None
    assert choose([chain("FORWARD", Hook.FORWARD), user], [rule("FORWARD", "target REJECT")]) == "DOCKER-USER"
    assert choose([user], []) is None
    assert choose_chain(IP6TABLES, [drop], []) is None


# As `iptables-legacy --list-rules` prints them beside a Docker 20.10 with one more network.
LEGACY = """-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o br-0123456789ab -j DROP
-A DOCKER-USER -o eth9 -j RETURN
"""


def test_the_legacy_iptables_are_read_as_they_print_themselves():
    lines = [line.split() for line in LEGACY.splitlines()]
    assert passage_legacy.choose_chain(lines) == "DOCKER-USER"
    assert passage_legacy.docker_bridges(lines) == {"docker0", "br-0123456789ab"}
    accepting = [["-P", "FORWARD", "ACCEPT"]]
    assert passage_legacy.choose_chain(accepting) is None
    reject = ["-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"]
    assert passage_legacy.choose_chain([*accepting, reject]) == "FORWARD"


def test_docker_s_bridges_are_left_to_docker_s_rules():
    rules = wanted("sampan:x", ["smp1"], {"docker0"})
    assert [(one.source, one.sink, one.accept) for one in rules] == [
        ("smp1", "docker0", False),
        ("smp1", "", True),
        ("", "smp1", True),
    ]
    assert len({one.comment for one in rules}) == 3
