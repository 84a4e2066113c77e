"""macvlan, ipvlan and sub-interfaces for VLANs in namespaces; what this kernel lacks is tested under Debian's
(`tools/vm-test`)."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from sampan.errors import Conflict, Unsupported
from sampan.linux.netlink_route import RouteSocket
from sampan.linux.netlink_stacked import is_supported
from sampan.network.model import EndpointSpec, NetworkSpec

pytestmark = pytest.mark.root


def has(world: Any, kind: str) -> bool:
    def work() -> bool:
        with RouteSocket() as route:
            return is_supported(route, kind)

    return world.engine.run(work)


@pytest.fixture
def ipvlan(world: Any) -> None:
    if not has(world, "ipvlan"):
        pytest.skip("the kernel has no ipvlan")


@pytest.fixture
def vlan(world: Any) -> None:
    if not has(world, "vlan"):
        pytest.skip("the kernel has no 802.1q")


def network(world: Any, driver: str, number: int = 1, **values: Any) -> NetworkSpec:
    values = {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1", "parent": "uplink", "mtu": 0, **values}
    spec = NetworkSpec(f"{number:064x}", f"net{number}", "", driver=driver, **values)
    world.engine.run(lambda: world.host.ensure(spec))
    return spec


def container(world: Any, net: NetworkSpec, address: str, **values: Any) -> Any:
    """A place in the network, with `address` and `endpoint`."""
    place = type(world.engine)()
    world.places.append(place)
    values = {"gateway": net.gateway, **values}
    place.address = address.partition("/")[0]
    place.endpoint = EndpointSpec(uuid.uuid4().hex, net.id, address, driver=net.driver, **values)
    world.engine.run(lambda: world.host.attach(place.fd, net, place.endpoint))
    return place


def links(world: Any) -> set[str]:
    def work() -> set[str]:
        with RouteSocket() as route:
            return {link.name for link in route.links()}

    return world.engine.run(work)


def test_ipvlan_containers_are_on_the_parent_s_link_with_its_hardware_address(
    world: Any, ipvlan: None
) -> None:
    net = network(world, "ipvlan", mode="l2")
    one, two = container(world, net, "192.0.2.11/24"), container(world, net, "192.0.2.12/24")
    two.serve_tcp(80, "two")
    world.outside.serve_tcp(80, "outside")
    assert one.ask_tcp(two.address, 80) == "two 192.0.2.11 hello"
    assert one.ask_tcp(world.OUTSIDE, 80) == "outside 192.0.2.11 hello"
    assert world.outside.ask_tcp(two.address, 80) == "two 192.0.2.1 hello"
    macs = {
        re.search("link/ether (\\S+)", place.command("ip", "link", "show", "eth0"))[1] for place in (one, two)
    }
    assert len(macs) == 1
    world.engine.run(lambda: world.host.detach(one.endpoint, one.fd))
    assert "eth0" not in one.command("ip", "link")


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_routes_between_subnets_and_needs_no_gateway(world: Any, ipvlan: None, mode: str) -> None:
    first = network(world, "ipvlan", 1, mode=mode, subnet="10.213.1.0/24", gateway="")
    one = container(world, first, "10.213.1.2/24", gateway="0.0.0.0")
    assert one.command("ip", "route").splitlines()[0].split()[:3] == ["default", "dev", "eth0"]
    world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
    world.outside.serve_tcp(80, "outside")
    one.serve_tcp(80, "one")
    assert world.outside.ask_tcp(one.address, 80) == "one 192.0.2.1 hello"
    assert one.ask_tcp(world.OUTSIDE, 80) == "outside 10.213.1.2 hello"


@pytest.mark.parametrize("flag", ["private", "vepa"])
def test_ipvlan_keeps_containers_apart_when_asked_to(world: Any, ipvlan: None, flag: str) -> None:
    net = network(world, "ipvlan", mode=f"l2_{flag}")
    one, two = container(world, net, "192.0.2.11/24"), container(world, net, "192.0.2.12/24")
    two.serve_tcp(80, "two")
    assert world.outside.ask_tcp(two.address, 80) == "two 192.0.2.1 hello"
    assert not one.can_reach(two.address, 80)


def test_a_kernel_without_ipvlan_is_named_as_the_reason(world: Any) -> None:
    if has(world, "ipvlan"):
        pytest.skip("the kernel has ipvlan")
    with pytest.raises(Unsupported, match="ipvlan networks are not supported by the host's kernel"):
        network(world, "ipvlan", mode="l2")


def test_sub_interfaces_for_vlans_are_made_shared_and_removed(world: Any, vlan: None) -> None:
    world.outside.command("ip", "link", "add", "link", "uplink", "name", "tagged", "type", "vlan", "id", "10")
    world.outside.configure("tagged", "198.51.100.1/24")
    world.outside.serve_tcp(80, "outside")
    tagged = {"parent": "uplink.10", "subnet": "198.51.100.0/24", "gateway": "198.51.100.1"}
    first = network(world, "macvlan", 1, mode="bridge", **tagged)
    one = container(world, first, "198.51.100.2/24")
    assert one.ask_tcp("198.51.100.1", 80) == "outside 198.51.100.2 hello"
    second = network(world, "macvlan", 2, mode="bridge", **tagged)
    world.engine.run(lambda: world.host.remove(first))
    assert "uplink.10" in links(world), "another network stands on it"
    world.engine.run(lambda: world.host.remove(second))
    assert "uplink.10" not in links(world)
    world.engine.command(
        "ip", "link", "add", "link", "uplink", "name", "uplink.11", "type", "vlan", "id", "11"
    )
    third = network(world, "macvlan", 3, mode="bridge", **{**tagged, "parent": "uplink.11"})
    world.engine.run(lambda: world.host.remove(third))
    assert "uplink.11" in links(world), "a person made that one"


def test_a_kernel_without_802_1q_is_named_as_the_reason(world: Any) -> None:
    if has(world, "vlan"):
        pytest.skip("the kernel has 802.1q")
    with pytest.raises(Unsupported) as caught:
        network(world, "macvlan", mode="bridge", parent="uplink.10")
    assert "uplink.10" in caught.value.message and "802.1q" in caught.value.hint


def test_a_parent_that_one_container_has_alone_is_not_given_to_another(world: Any) -> None:
    net = network(world, "macvlan", mode="passthru")
    one = container(world, net, "192.0.2.11/24", mac="02:00:00:00:00:11")
    one.serve_tcp(80, "one")
    assert world.outside.ask_tcp(one.address, 80) == "one 192.0.2.1 hello"
    assert "default via 192.0.2.1" in one.command("ip", "route")
    assert "02:00:00:00:00:11" in world.engine.command("ip", "link", "show", "uplink")
    with pytest.raises(Conflict, match="failed to create the macvlan port: invalid argument"):
        container(world, net, "192.0.2.12/24", mac="02:00:00:00:00:12")
