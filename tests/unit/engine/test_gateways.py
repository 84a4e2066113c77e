"""Which network a container's default routes go through. Docker 28's order (libnetwork, Endpoint.Less)."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.config import EndpointSettings
from sampan.engine.model import Endpoint, NetworkRecord
from sampan.engine.networks import gateways
from sampan.network.model import EndpointSpec, NetworkSpec


def network(name: str, **values: Any) -> NetworkRecord:
    values = {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", **values}
    spec = NetworkSpec(f"id-{name}", name, "br", **values)
    return NetworkRecord(spec.id, name, "", spec.driver, spec, internal=spec.internal)


def routes(*members: tuple[NetworkRecord, int]) -> tuple[dict[str, str], dict[str, str]]:
    """The (IPv4, IPv6) default routes of a container in these networks with these priorities: network -> gateway."""
    records = {record.id: record for record, _ in members}
    asked = {
        record.name: Endpoint(
            record.id,
            EndpointSettings(gw_priority=priority),
            EndpointSpec(f"e-{record.name}", record.id, "10.1.0.2/24"),
        )
        for record, priority in members
    }
    settled = gateways.settle(asked, lambda endpoint: records.get(endpoint.network_id))
    specs = {name: endpoint.spec for name, endpoint in settled.items() if endpoint.spec is not None}
    return (
        {name: spec.gateway for name, spec in specs.items() if spec.gateway is not None},
        {name: spec.gateway6 for name, spec in specs.items() if spec.gateway6 is not None},
    )


BOTH = {"subnet6": "fd00:1::/64", "gateway6": "fd00:1::1"}
ONLY6 = {"subnet": "", "gateway": "", "subnet6": "fd00:2::/64", "gateway6": "fd00:2::1"}
PLAIN4 = "10.1.0.1"


@pytest.mark.parametrize(
    ("members", "ipv4", "ipv6"),
    [
        ([(network("b"), 0), (network("a"), 0)], {"a": PLAIN4}, {}),
        ([(network("b"), 1), (network("a"), 0)], {"b": PLAIN4}, {}),
        ([(network("b"), 0), (network("a"), -1)], {"b": PLAIN4}, {}),
        ([(network("a", internal=True), 0), (network("b"), 0)], {"b": PLAIN4}, {}),
        # A priority does not make an internal network lead outside.
        ([(network("a", internal=True), 9), (network("b"), 0)], {"b": PLAIN4}, {}),
        ([(network("a", internal=True), 9)], {}, {}),
        # Both families in one network are better than one of them.
        ([(network("a"), 0), (network("b", **BOTH), 0)], {"b": PLAIN4}, {"b": "fd00:1::1"}),
        ([(network("a"), 1), (network("b", **BOTH), 0)], {"a": PLAIN4}, {"b": "fd00:1::1"}),
        ([(network("a"), 0), (network("b", **ONLY6), 0)], {"a": PLAIN4}, {"b": "fd00:2::1"}),
        # Without a gateway, with the route on the link itself.
        ([(network("a", driver="macvlan", gateway=""), 0)], {"a": ""}, {}),
        ([(network("a", driver="ipvlan", mode="l3_private", gateway=""), 0)], {"a": "0.0.0.0"}, {}),
    ],
)
def test_default_routes_go_where_docker_lets_them_go(
    members: list[tuple[NetworkRecord, int]], ipv4: dict[str, str], ipv6: dict[str, str]
) -> None:
    assert routes(*members) == (ipv4, ipv6)
    assert routes(*reversed(members)) == (ipv4, ipv6), "the order of the endpoints does not matter"


def test_a_network_without_devices_or_record_changes_nothing() -> None:
    host = Endpoint("host-id")
    assert gateways.settle({"host": host}, lambda _: None) == {"host": host}
