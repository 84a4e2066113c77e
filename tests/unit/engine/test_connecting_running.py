"""Connecting a container that runs, and what stays when a step of it fails: routes and ports are where they were."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine import ports
from sampan.engine.config import ContainerConfig, HostConfig, HostPort
from sampan.engine.containers.wiring import Wiring
from sampan.engine.model import ContainerRecord, Endpoint, NetworkRecord, State
from sampan.engine.networks import gateways
from sampan.errors import Conflict, SampanError
from sampan.network.model import EndpointSpec, NetworkSpec, PortBinding

PLAIN = NetworkSpec("id-m", "m", "br-m", subnet="10.1.0.0/24", gateway="10.1.0.1")
BOTH = NetworkSpec(
    "id-a", "a", "br-a", subnet="10.2.0.0/24", gateway="10.2.0.1", subnet6="fd00:2::/64", gateway6="fd00:2::1"
)
WEB = PortBinding(80, "tcp", "0.0.0.0", 8080)


class Host:
    """In place of `NetworkHost`: the routes of one namespace, and what the host's ports lead to."""

    def __init__(self) -> None:
        self.routes: dict[int, str] = {}
        self.interfaces: set[str] = set()
        self.ports: dict[int, str] = {}
        self.routed: set[str] = set()
        self.ephemeral = 32768
        self.fails: Callable[[str], bool] = lambda step: False

    def attach(self, namespace: int, network: NetworkSpec, endpoint: EndpointSpec) -> None:
        self.interfaces.add(endpoint.id)

    def detach(self, endpoint: EndpointSpec, namespace: int | None = None) -> None:
        self.interfaces.discard(endpoint.id)

    def change_default_routes(
        self, namespace: int, before: Sequence[EndpointSpec], after: Sequence[EndpointSpec]
    ) -> None:
        for version, name in ((4, "gateway"), (6, "gateway6")):
            if self.fails(f"route {version}"):
                raise Conflict("the kernel does not want it")
            self.routes.pop(version, None)
            for gateway in filter(None, (getattr(one, name) for one in after)):
                self.routes[version] = gateway

    def publish(
        self, address: str, bindings: Sequence[PortBinding], address6: str = ""
    ) -> tuple[PortBinding, ...]:
        found = []
        for one in bindings:
            port = one.host_port or self.ephemeral
            if address in self.routed:
                port = 0
            elif self.fails(f"publish {address}"):
                raise Conflict("port is already allocated")
            else:
                assert port not in self.ports
                self.ports[port] = address
            found.append(replace(one, host_address="0.0.0.0", host_port=port, host_port_end=0))
        return tuple(found)

    def unpublish(self, address: str, bindings: Sequence[PortBinding], address6: str = "") -> None:
        for one in bindings:
            self.ports.pop(one.host_port, None)


class Networks:
    cluster = None

    def __init__(self) -> None:
        self.released: list[str] = []

    def get(self, network_id: str) -> NetworkRecord | None:
        spec = {"id-m": PLAIN, "id-a": BOTH}.get(network_id)
        return NetworkRecord(spec.id, spec.name, "", "bridge", spec) if spec else None

    def release(self, spec: EndpointSpec) -> None:
        self.released.append(spec.id)


class Place:
    """A container that runs in the network m, with port 80 published, and what it is connected by."""

    def __init__(self, *bindings: HostPort) -> None:
        self.host, self.networks = Host(), Networks()
        parts: Any = SimpleNamespace(network_host=self.host, networks=self.networks)
        self.wiring = Wiring(parts)
        self.served: Callable[[], None] = lambda: None
        self.forgotten: list[str] = []
        self.wiring.names = SimpleNamespace(  # type: ignore[assignment]
            serve=self._serve, forget=self.forgotten.append
        )
        first = EndpointSpec("e-m", "id-m", "10.1.0.2/24", interface="eth0")
        host = HostConfig(port_bindings={"80/tcp": bindings or (HostPort("", "8080"),)})
        record = ContainerRecord("id", "name", "", "", "", (), ContainerConfig(), host)
        endpoints = gateways.settle(
            {"m": Endpoint("id-m", spec=first)}, lambda one: self.networks.get("id-m")
        )
        self.host.routes = {4: "10.1.0.1"}
        published = self.host.publish("10.1.0.2", ports.requested(record.config, host))
        self.record = replace(
            record, endpoints=endpoints, published=published, state=State("running", os.getpid())
        )

    async def _serve(self, record: ContainerRecord, namespace: int) -> None:
        self.served()

    def connect(self) -> ContainerRecord:
        spec = EndpointSpec("e-a", "id-a", "10.2.0.2/24", address6="fd00:2::2/64", interface="eth1")
        network = self.networks.get("id-a")
        assert network is not None
        return asyncio.run(self.wiring.attach(self.record, network, Endpoint("id-a", spec=spec)))

    def disconnect(self, record: ContainerRecord, name: str) -> ContainerRecord:
        return asyncio.run(self.wiring.detach(record, name))


def refuse() -> None:
    raise Conflict("no name server")


def test_routes_and_ports_follow_to_the_better_network_and_back() -> None:
    place = Place()
    connected = place.connect()
    assert place.host.routes == {4: "10.2.0.1", 6: "fd00:2::1"}
    assert place.host.ports == {8080: "10.2.0.2"}
    left = place.disconnect(connected, "a")
    assert place.host.routes == {4: "10.1.0.1"}
    assert place.host.ports == {8080: "10.1.0.2"}
    assert left.published == (WEB,)


@pytest.mark.parametrize("step", ["route 6", "publish 10.2.0.2", "name server"])
def test_a_refused_connection_leaves_routes_and_ports_where_they_were(step: str) -> None:
    place = Place()
    once = iter([step])
    place.host.fails = lambda now: now == step and next(once, "") == step
    if step == "name server":
        place.served = refuse
    with pytest.raises(SampanError):
        place.connect()
    assert place.host.routes == {4: "10.1.0.1"}
    assert place.host.ports == {8080: "10.1.0.2"}
    assert place.host.interfaces == set()
    assert place.networks.released == ["e-a"]


def test_a_port_keeps_its_number_through_a_network_that_is_routed_to() -> None:
    place = Place()
    place.host.routed.add("10.2.0.2")
    connected = place.connect()
    assert place.host.ports == {}
    left = place.disconnect(connected, "a")
    assert place.host.ports == {8080: "10.1.0.2"}
    assert left.published == (WEB,)


def test_a_port_chosen_at_the_start_keeps_its_number() -> None:
    place = Place(HostPort())
    assert place.host.ports == {32768: "10.1.0.2"}
    place.host.ephemeral = 40000
    assert [one.host_port for one in place.connect().published] == [32768]
    assert place.host.ports == {32768: "10.2.0.2"}


def test_one_port_that_can_not_follow_a_disconnection_does_not_keep_the_others() -> None:
    place = Place(HostPort("", "8080"), HostPort("", "8081"))
    connected = place.connect()
    refused = iter([True])
    place.host.fails = lambda step: step == "publish 10.1.0.2" and next(refused, False)
    left = place.disconnect(connected, "a")
    assert place.host.ports == {8081: "10.1.0.2"}
    assert [one.host_port for one in left.published] == [8081]


def test_requests_for_any_port_ask_for_the_ones_they_have_each_its_own() -> None:
    some = PortBinding(80)
    ranged = PortBinding(80, host_port=9000, host_port_end=9010)
    published = [
        PortBinding(80, "tcp", "0.0.0.0", 9003),
        PortBinding(80, "tcp", "::", 9003),
        PortBinding(80, "tcp", "0.0.0.0", 32770),
        PortBinding(81, "tcp", "0.0.0.0", 32771),
        PortBinding(82, "tcp", "0.0.0.0", 0),
    ]
    wanted = [ranged, some, PortBinding(81), PortBinding(82), PortBinding(82, host_port=8082)]
    assert [
        (one.container_port, one.host_port, one.host_port_end) for one in ports.kept(wanted, published)
    ] == [
        (80, 9003, 0),
        (80, 32770, 0),
        (81, 32771, 0),
        (82, 0, 0),
        (82, 8082, 0),
    ]


def ended(record: ContainerRecord) -> ContainerRecord:
    """Its process is gone, and nobody has dealt with that yet."""
    with subprocess.Popen(["true"]) as process:
        pass
    return replace(record, state=State("running", process.pid))


def test_a_container_that_has_just_ended_keeps_no_port_of_the_network_that_it_leaves() -> None:
    place = Place()
    left = place.disconnect(ended(place.record), "m")
    assert place.host.ports == {}  # whoever deals with its end does not know this address any more
    assert left.published == ()
    assert place.networks.released == ["e-m"]


def test_a_connection_that_fails_because_the_container_has_ended_is_docker_s_conflict() -> None:
    place = Place()
    running = place.record
    asyncio.run(place.wiring.give_up(running))  # it failed for another reason
    assert place.host.ports == {8080: "10.1.0.2"}
    place.record = ended(running)
    with pytest.raises(OSError):
        place.connect()
    assert place.networks.released == ["e-a"]
    with pytest.raises(Conflict, match="container id is not running"):
        asyncio.run(place.wiring.give_up(place.record))
    assert place.host.ports == {}
    assert place.forgotten == ["id"]


def test_an_address_is_given_back_though_its_interface_or_ports_can_not_be_removed() -> None:
    place = Place()
    place.served = refuse

    def fails(*_: object) -> None:
        raise Conflict("the kernel does not want it")

    place.host.detach = fails  # type: ignore[method-assign]
    with pytest.raises(SampanError):
        place.connect()
    assert place.networks.released == ["e-a"]
    place.host.unpublish = fails  # type: ignore[method-assign]

    async def end() -> None:
        with pytest.raises(SampanError):
            await place.wiring.end(place.record)
        await place.wiring.settle()

    asyncio.run(end())
    assert place.networks.released == ["e-a", "e-m"]
