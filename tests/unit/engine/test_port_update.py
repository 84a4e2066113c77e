"""What `update --publish-add` and `--publish-rm` make of a container's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, HostConfig, HostPort
from sampan.engine.port_update import PortChanges, PortPlan, planned
from sampan.errors import Conflict, Invalid, NotFound
from sampan.network.model import PortBinding

WEB = (PortBinding(80, "tcp", "0.0.0.0", 8080), PortBinding(80, "tcp", "::", 8080))


def plan(
    bindings: dict[str, Any],
    published: tuple[PortBinding, ...] = (),
    *,
    add: dict[str, Any] | None = None,
    remove: dict[str, Any] | None = None,
    config: ContainerConfig | None = None,
    all_ports: bool = False,
) -> PortPlan:
    host = HostConfig(port_bindings=_entries(bindings), publish_all_ports=all_ports)
    changes = PortChanges(_entries(add), _entries(remove))
    return planned(config or ContainerConfig(), host, published, changes)


def _entries(given: dict[str, Any] | None) -> Any:
    if given is None:
        return None
    return {port: tuple(HostPort(*one) for one in entries) for port, entries in given.items()}


def test_an_added_port_is_exposed_requested_and_kept_for_the_next_start() -> None:
    found = plan({"80/tcp": [("", "8080")]}, WEB, add={"53/udp": [("127.0.0.1", "5353")], "81": [("", "")]})
    assert found.host.port_bindings == {
        "80/tcp": (HostPort("", "8080"),),
        "53/udp": (HostPort("127.0.0.1", "5353"),),
        "81/tcp": (HostPort(),),
    }
    assert found.config.exposed_ports == {"53/udp": {}, "81/tcp": {}}
    assert found.added == (PortBinding(53, "udp", "127.0.0.1", 5353), PortBinding(81))
    assert found.removed == ()


@pytest.mark.parametrize("wanted", [[], [("", "")], [("", "8080")]])
def test_a_removed_port_goes_from_every_address(wanted: list[Any]) -> None:
    found = plan({"80/tcp": [("", "8080")], "81/tcp": [("", "81")]}, WEB, remove={"80/tcp": wanted})
    assert found.host.port_bindings == {"81/tcp": (HostPort("", "81"),)}
    assert found.removed == WEB


def test_one_of_several_bindings_of_a_port_can_be_removed() -> None:
    local, open_ = PortBinding(80, "tcp", "127.0.0.1", 8081), PortBinding(80, "tcp", "0.0.0.0", 8080)
    bindings = {"80/tcp": [("127.0.0.1", "8081"), ("0.0.0.0", "8080")]}
    by_address = plan(bindings, (local, open_), remove={"80": [("127.0.0.1", "")]})
    assert by_address.removed == (local,)
    assert by_address.host.port_bindings == {"80/tcp": (HostPort("0.0.0.0", "8080"),)}
    by_port = plan(bindings, (local, open_), remove={"80": [("", "8080")]})
    assert by_port.removed == (open_,)


def test_a_port_that_the_engine_has_chosen_can_be_named_by_its_number() -> None:
    chosen = (PortBinding(80, "tcp", "0.0.0.0", 49153), PortBinding(80, "tcp", "::", 49153))
    other = PortBinding(80, "tcp", "0.0.0.0", 8080)
    found = plan(
        {"80/tcp": [("", ""), ("0.0.0.0", "8080")]}, (*chosen, other), remove={"80": [("", "49153")]}
    )
    assert found.removed == chosen
    assert found.host.port_bindings == {"80/tcp": (HostPort("0.0.0.0", "8080"),)}


def test_replacing_is_a_removal_and_an_addition() -> None:
    found = plan(
        {"80/tcp": [("", "8080")]}, WEB, add={"80/tcp": [("127.0.0.1", "8080")]}, remove={"80/tcp": []}
    )
    assert found.removed == WEB
    assert found.added == (PortBinding(80, "tcp", "127.0.0.1", 8080),)
    assert found.host.port_bindings == {"80/tcp": (HostPort("127.0.0.1", "8080"),)}


def test_of_all_exposed_ports_one_can_go_and_the_others_stay() -> None:
    exposed = ContainerConfig(exposed_ports={"80/tcp": {}, "443/tcp": {}})
    published = (PortBinding(80, "tcp", "0.0.0.0", 49153), PortBinding(443, "tcp", "0.0.0.0", 49154))
    found = plan({}, published, remove={"80/tcp": []}, config=exposed, all_ports=True)
    assert found.removed == published[:1]
    assert found.host.publish_all_ports is False
    assert found.host.port_bindings == {"443/tcp": (HostPort(),)}


OPEN4, OPEN6 = PortBinding(80, "tcp", "0.0.0.0"), PortBinding(80, "tcp", "::")
"""In a network that is routed to: the container's own port, whatever port of the host was asked for."""


@pytest.mark.parametrize("wanted", [[], [("", "")], [("", "8080")]])
@pytest.mark.parametrize("published", [(OPEN4, OPEN6), (WEB[0], OPEN6)])
def test_a_port_that_is_open_at_the_containers_address_is_closed_too(
    wanted: list[Any], published: tuple[PortBinding, ...]
) -> None:
    found = plan({"80/tcp": [("", "8080")]}, published, remove={"80/tcp": wanted})
    assert set(found.removed) == set(published)
    assert found.host.port_bindings == {}


def test_a_port_stays_open_at_the_containers_address_while_another_binding_wants_it() -> None:
    second = PortBinding(80, "tcp", "0.0.0.0", 8081)
    bindings = {"80/tcp": [("", "8080"), ("0.0.0.0", "8081")]}
    assert plan(bindings, (WEB[0], second, OPEN6), remove={"80": [("", "8081")]}).removed == (second,)
    assert plan(bindings, (WEB[0], second, OPEN6), remove={"80": [("", "8080")]}).removed == (WEB[0], OPEN6)
    assert plan(bindings, (OPEN4, OPEN6), remove={"80": [("", "8080")]}).removed == (OPEN6,)


def test_what_is_not_published_can_not_be_removed() -> None:
    for wanted in ("81/tcp", "80/udp"):
        with pytest.raises(NotFound, match=rf"^No public port '{wanted}' published"):
            plan({"80/tcp": [("", "8080")]}, WEB, remove={wanted: []})
    for entry in (("", "8081"), ("127.0.0.1", "8080"), ("0.0.0.0", "8080")):
        with pytest.raises(NotFound, match="No public port '80/tcp' published at"):
            plan({"80/tcp": [("", "8080")]}, WEB, remove={"80/tcp": [entry]})


def test_what_is_published_already_can_not_be_added() -> None:
    with pytest.raises(Conflict, match=r"^Bind for 0\.0\.0\.0:8080 failed: port is already allocated$"):
        plan({"80/tcp": [("", "8080")]}, WEB, add={"80/tcp": [("", "8080")]})


def test_a_malformed_port_is_refused() -> None:
    for changes in ({"80/icmp": []}, {"0": []}, {"80/tcp": [("nowhere", "1")]}, {"80": [("", "9-1")]}):
        with pytest.raises(Invalid):
            plan({"80/tcp": [("", "8080")]}, add=changes)
        with pytest.raises(Invalid):
            plan({"80/tcp": [("", "8080")]}, remove=changes)
