"""Which way a published port takes: the host's families, its firewall, the network's gateway mode."""

from __future__ import annotations

import pytest

from sampan.network.model import NetworkSpec, PortBinding
from sampan.network.publishing import NOWHERE, Facts, Way, opened_binding
from sampan.network.reservation import by_target, target

PLAIN = NetworkSpec("a", "a", "br1", "10.1.0.0/16", "10.1.0.1", subnet6="fd00:1::/64", gateway6="fd00:1::1")
ROUTED = NetworkSpec(
    "b", "b", "br2", "10.2.0.0/16", "10.2.0.1", subnet6="fd00:2::/64", gateway_mode="routed", gateway_mode6="routed"
)  # fmt: skip
NAT, RELAY, BOTH, OPEN = (
    Way(translated=True),
    Way(served=True),
    Way(translated=True, served=True),
    Way(open=True),
)


@pytest.mark.parametrize(
    ("host", "address", "filtered", "crossing", "expected"),
    [
        ("0.0.0.0", "10.1.0.2", "", False, NAT),
        ("::", "fd00:1::2", "", False, NAT),
        ("::1", "fd00:1::2", "", False, NAT),
        ("::", "10.1.0.2", "", False, RELAY),  # only a process turns IPv6 into IPv4
        ("0.0.0.0", "10.1.0.2", "4", False, RELAY),
        ("::", "fd00:1::2", "4", False, NAT),
        ("::", "fd00:1::2", "6", True, RELAY),
        ("::", "fd00:1::2", "", True, BOTH),
        ("::1", "fd00:1::2", "", True, BOTH),
        ("2001:db8::1", "fd00:1::2", "", True, NAT),
        ("0.0.0.0", "10.1.0.2", "", True, NAT),
        ("0.0.0.0", "10.2.0.2", "46", True, OPEN),
        ("::", "fd00:2::2", "46", True, OPEN),
        ("::", "10.2.0.2", "", False, NOWHERE),
    ],
)
def test_the_way_of_a_port(host: str, address: str, filtered: str, crossing: bool, expected: Way) -> None:
    facts = Facts(frozenset(map(int, filtered)), crossing, (PLAIN, ROUTED))
    assert facts.way(PortBinding(80, host_address=host, host_port=8080), address) == expected


def test_with_direct_routing_a_translated_or_served_port_is_open_at_the_container_s_address_too() -> None:
    facts = Facts(frozenset({6}), False, (PLAIN, ROUTED), direct=True)
    four, six = (PortBinding(80, host_address=one, host_port=8080) for one in ("0.0.0.0", "::"))
    assert facts.way(four, "10.1.0.2") == Way(translated=True, direct=True)
    assert facts.way(six, "fd00:1::2") == Way(served=True, direct=True)
    assert facts.way(six, "10.1.0.2") == RELAY, "the container has no address of that family"
    assert facts.way(four, "10.2.0.2") == OPEN


def test_a_port_that_is_open_without_one_of_the_host_s_is_shown_as_docker_shows_it() -> None:
    asked = PortBinding(82, host_address="127.0.0.1", host_port=8082, host_port_end=8090)
    assert opened_binding(asked, "127.0.0.1") == PortBinding(82, host_address="0.0.0.0")
    assert opened_binding(asked, "::1") == PortBinding(82, host_address="::")


def test_a_port_leads_to_the_container_s_address_of_the_same_family_where_it_has_one() -> None:
    assert target("::", "10.1.0.2", "fd00::2") == "fd00::2"
    assert target("::", "10.1.0.2", "") == "10.1.0.2"
    assert target("0.0.0.0", "", "fd00::2") == ""
    four, six = PortBinding(80, host_address="0.0.0.0"), PortBinding(80, host_address="::")
    assert by_target((four, six), "10.1.0.2", "fd00::2") == {"10.1.0.2": (four,), "fd00::2": (six,)}
    assert by_target((four, six), "10.1.0.2", "") == {"10.1.0.2": (four, six)}
