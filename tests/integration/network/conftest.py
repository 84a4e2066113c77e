"""A small world in network namespaces: the engine's host, another host beside it, and containers.

Nothing here touches the machine's own network. What is made in a namespace vanishes with it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.linux.netlink_route import PeerLink, RouteSocket, create_veth
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, HostPolicy, NetworkSpec, PublishMode
from sampan.testing.places import Place


class Container(Place):
    def __init__(self, world: World, network: NetworkSpec, number: int) -> None:
        super().__init__()
        self.address, self.address6 = "", ""
        if network.subnet:
            self.address = network.gateway.rsplit(".", 1)[0] + f".{number}"
        if network.subnet6:
            self.address6 = network.gateway6.rpartition(":")[0] + f":{number}"
        self.endpoint = EndpointSpec(
            id=uuid.uuid4().hex,
            network_id=network.id,
            address=f"{self.address}/{network.subnet.split('/')[1]}" if network.subnet else "",
            gateway=None if network.internal or not network.gateway else network.gateway,
            address6=f"{self.address6}/{network.subnet6.split('/')[1]}" if network.subnet6 else "",
            gateway6=None if network.internal or not network.gateway6 else network.gateway6,
        )
        world.engine.run(lambda: world.host.attach(self.fd, network, self.endpoint))


def relays_in(place: Place) -> list[int]:
    """Process ids of port relays in this namespace."""
    inode = os.fstat(place.fd).st_ino
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    is_relay = b"sampan.network.relay" in file.read()
                if is_relay and os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


class World:
    """`engine` (192.0.2.2, 2001:db8::2) and `outside` (192.0.2.1, 2001:db8::1) on one link."""

    ADDRESS = "192.0.2.2"
    ADDRESS6 = "2001:db8::2"
    OUTSIDE = "192.0.2.1"
    OUTSIDE6 = "2001:db8::1"

    def __init__(self, mode: PublishMode = PublishMode.AUTO, policy: HostPolicy | None = None) -> None:
        self.engine = Place()
        self.outside = Place()
        self.places: list[Place] = [self.engine, self.outside]
        self.hosts: list[NetworkHost] = []
        peer = PeerLink("uplink", self.outside.fd)
        self.engine.run(lambda: self._wire(peer))
        self.engine.configure("uplink", "192.0.2.2/24", "2001:db8::2/64", gateway="192.0.2.1")
        self.outside.configure("uplink", "192.0.2.1/24", "2001:db8::1/64")
        self.host = self.start_engine("one", mode, policy)

    @staticmethod
    def _wire(peer: PeerLink) -> None:
        with RouteSocket() as route:
            route.perform([create_veth("uplink", peer, mtu=1500)])

    def start_engine(
        self, instance: str, mode: PublishMode = PublishMode.AUTO, policy: HostPolicy | None = None
    ) -> NetworkHost:
        # Names of relays are per namespace, so the instance name needs not be unique on the machine.
        host = self.engine.run(lambda: NetworkHost(instance, mode=mode, policy=policy or HostPolicy()))
        self.hosts.append(host)
        self.engine.run(host.setup)
        return host

    def network(self, number: int = 1, *, families: str = "4", **options: Any) -> NetworkSpec:
        """`families`: "4", "6" or "46"."""
        if "4" in families:
            options = {"subnet": f"10.213.{number}.0/24", "gateway": f"10.213.{number}.1", **options}
        if "6" in families:
            options = {"subnet6": f"fd00:213:{number}::/64", "gateway6": f"fd00:213:{number}::1", **options}
        spec = NetworkSpec(
            id=f"network-{number}",
            name=f"net{number}",
            **{"bridge": f"smp{number}", "subnet": "", "gateway": "", **options},
        )
        self.engine.run(lambda: self.host.ensure(spec))
        return spec

    def container(self, network: NetworkSpec, number: int = 2) -> Container:
        made = Container(self, network, number)
        self.places.append(made)
        return made

    def publish(self, container: Container, *bindings: Any) -> Any:
        return self.engine.run(lambda: self.host.publish(container.address, bindings, container.address6))

    def unpublish(self, container: Container, *bindings: Any) -> None:
        self.engine.run(lambda: self.host.unpublish(container.address, bindings, container.address6))

    def relays(self) -> list[int]:
        return relays_in(self.engine)

    def ruleset(self) -> str:
        return self.engine.command("nft", "list", "ruleset")

    def close(self) -> None:
        for host in reversed(self.hosts):
            try:
                self.engine.run(host.teardown)
            except OSError:
                continue  # closed by the test itself
        relays = relays_in(self.engine)
        for place in reversed(self.places):
            place.close()
        for relay in relays:
            os.kill(relay, 9)
        assert relays == [], "a relay was left behind"


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def relay_world() -> Iterator[World]:
    made = World(PublishMode.RELAY)
    yield made
    made.close()
