"""Who reaches whom: an engine on a host of its own in a network namespace, another host beside it, containers.

The same world is made with any engine that has Docker's command line, so that what one allows can be compared with
what another does. A table says for each place (row) and each target (column) whether the right server answered.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sampan.linux.netlink_route import PeerLink, RouteSocket, add_route, create_veth
from sampan.testing.places import Place

Cli = Callable[..., str]
"""Runs a command line of the engine's and returns its standard output; raises RuntimeError when it fails."""

HOST = "192.0.2.2"
HOST6 = "2001:db8::2"
NEIGHBOUR = "192.0.2.1"
NEIGHBOUR6 = "2001:db8::1"
SERVICE = 7000
"""The port of what runs on the host and on its neighbour, outside containers."""
WEB = 80
UNREACHED_SECONDS = 1.0
"""What has not answered after that is asked once more, with patience, by those who expected an answer."""
PATIENT_SECONDS = 6.0


@dataclass(frozen=True)
class Network:
    """Flags of `network create`."""

    name: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guest:
    """A container. `networks`: the first at `run`, the others by `network connect`. `flags` are run's."""

    name: str
    networks: tuple[str, ...] = ("bridge",)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """`server` is who has to answer. An address may be `{gateway}`: that of the asking container's first network."""

    name: str
    address: str
    port: int
    server: str


class Hosts:
    """The engine's host (`HOST`, `HOST6`) and its neighbour on one link; both serve `SERVICE`."""

    def __init__(self) -> None:
        self.engine = Place()
        self.neighbour = Place()
        # As on a host without br_netfilter, which other engines load for the whole machine.
        self.engine.run(lambda: _write_if_there(Path("/proc/sys/net/bridge/bridge-nf-call-iptables"), "0"))
        peer = PeerLink("uplink", self.neighbour.fd)
        self.engine.run(lambda: self._wire(peer))
        self.engine.configure("uplink", f"{HOST}/24", f"{HOST6}/64", gateway=NEIGHBOUR)
        self.neighbour.configure("uplink", f"{NEIGHBOUR}/24", f"{NEIGHBOUR6}/64")
        self.engine.serve_tcp(SERVICE, "host", "::")
        self.neighbour.serve_tcp(SERVICE, "neighbour", "::")

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that runs its arguments on the engine's host."""
        return ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self.engine.fd}")

    @staticmethod
    def _wire(peer: PeerLink) -> None:
        with RouteSocket() as route:
            route.perform([create_veth("uplink", peer, mtu=1500)])

    def route_to(self, subnet: str) -> None:
        """Let the neighbour know that a network of containers is behind the engine's host."""

        def work() -> None:
            with RouteSocket() as route:
                link = route.link("uplink")
                if link is None:
                    raise RuntimeError("the neighbour has no uplink")
                gateway = HOST6 if ":" in subnet else HOST
                route.perform([add_route(subnet, gateway=gateway, index=link.index)])

        self.neighbour.run(work)

    def close(self) -> None:
        for place in (self.neighbour, self.engine):
            place.close()


@dataclass
class World:
    """Networks and containers of one engine on `hosts`, each container serving its name at `WEB` and port 81."""

    hosts: Hosts
    cli: Cli
    guests: dict[str, Place] = field(default_factory=dict)
    addresses: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    """Of each container by network: its addresses of IPv4 and IPv6, "" where it has none."""
    gateways: dict[str, str] = field(default_factory=dict)
    """Of each container: the host's address on its first network."""
    _of_networks: dict[str, str] = field(default_factory=dict)

    def build(self, networks: Sequence[Network], guests: Sequence[Guest]) -> None:
        for network in networks:
            self.cli("network", "create", *network.flags, network.name)
        self._learn_networks(["bridge", *(network.name for network in networks)])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._start, guests))
        self.guests = {guest.name: self.guests[guest.name] for guest in guests}

    def _start(self, guest: Guest) -> None:
        first, *others = guest.networks
        command = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done")
        self.cli("run", "-d", "--name", guest.name, "--network", first, *guest.flags, "busybox", *command)
        for other in others:
            self.cli("network", "connect", other, guest.name)
        self.learn(guest.name, first)

    def learn(self, name: str, first: str) -> None:
        """A container that runs: its place, its addresses; its server is started."""
        found = json.loads(self.cli("inspect", name))[0]
        place = self.guests[name] = Place.of_process(found["State"]["Pid"])
        endpoints = found["NetworkSettings"]["Networks"]
        self.addresses[name] = {
            network: (one["IPAddress"], one["GlobalIPv6Address"]) for network, one in endpoints.items()
        }
        self.gateways[name] = self._of_networks.get(first, "")
        for port in (WEB, WEB + 1):
            place.serve_tcp(port, name, "::")

    def _learn_networks(self, networks: Sequence[str]) -> None:
        for found in json.loads(self.cli("network", "inspect", *networks)):
            for pool in found["IPAM"]["Config"] or ():
                if found["Driver"] == "bridge":
                    self.hosts.route_to(pool["Subnet"])
                    if ":" not in pool["Subnet"]:
                        self._of_networks[found["Name"]] = pool.get("Gateway", "")

    @property
    def places(self) -> dict[str, Place]:
        return {"host": self.hosts.engine, "neighbour": self.hosts.neighbour, **self.guests}

    def answers(
        self, place: str, targets: Sequence[Target], seconds: float = UNREACHED_SECONDS
    ) -> dict[str, str]:
        """By target: "" when nobody answered, else who did and what client address that server saw."""
        gateway = self.gateways.get(place, "")
        asked = {
            target.name: (target.address.format(gateway=gateway), target.port)
            for target in targets
            if target.address != "{gateway}" or gateway
        }
        return self.places[place].run(lambda: _ask_all(asked, seconds))

    def row(self, place: str, targets: Sequence[Target], expected: str = "") -> str:
        """A sign for each target: `+` the right server answered, `-` nobody, `!` another one.

        Where `expected` has a + and nobody answered in time, a busy machine gets a second, longer chance.
        """
        signs = _signs(targets, self.answers(place, targets))
        late = [
            target
            for target, sign, wanted in zip(targets, signs, expected, strict=False)
            if sign != wanted == "+"
        ]
        if not late:
            return signs
        again = self.answers(place, late, PATIENT_SECONDS)
        found = dict(zip((target.name for target in late), _signs(late, again), strict=True))
        return "".join(found.get(t.name, sign) for t, sign in zip(targets, signs, strict=True))

    def close(self) -> None:
        for place in self.guests.values():
            place.close()


def _write_if_there(path: Path, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.write_text(text)


def _signs(targets: Sequence[Target], answers: Mapping[str, str]) -> str:
    signs = []
    for target in targets:
        answer = answers.get(target.name, "")
        signs.append("-" if not answer else "+" if answer.split()[0] == target.server else "!")
    return "".join(signs)


def _ask_all(asked: Mapping[str, tuple[str, int]], seconds: float) -> dict[str, str]:
    """Connects to all at the same time, in the calling thread's namespace."""
    found = dict.fromkeys(asked, "")
    with selectors.DefaultSelector() as selector:
        open_sockets = []
        for name, (address, port) in asked.items():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            made.setblocking(False)
            open_sockets.append(made)
            if made.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                selector.register(made, selectors.EVENT_READ, name)
        deadline = time.monotonic() + seconds
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                found[key.data] = _greeting(key.fileobj)
        for made in open_sockets:
            made.close()
    return found


def _greeting(connection: object) -> str:
    assert isinstance(connection, socket.socket)
    try:
        return connection.recv(200).decode()
    except OSError:
        return ""
