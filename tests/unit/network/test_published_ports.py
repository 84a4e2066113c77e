"""Published ports when the relay can not be had: nothing half-made stays."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import Any

import pytest

from sampan.errors import Unavailable
from sampan.network.model import PortBinding, PublishMode
from sampan.network.ports import PublishedPorts

CONTAINER = "192.0.2.9"


class Kernel:
    """In place of the nftables socket."""

    def commit(self, batch: Any) -> None:
        return

    def table_handle(self, family: Any, table: str) -> int:
        return 1


class Relay:
    """Fails at these attempts to add a port, counted from 1."""

    process_id: int | None = None

    def __init__(self, *failing: int) -> None:
        self.failing = failing
        self.serves: set[int] = set()
        self._attempts = itertools.count(1)
        self.refuses = False

    def add(self, bound: socket.socket, protocol: str, address: str, port: int) -> int:
        number = next(self._attempts)
        if number in self.failing:
            raise Unavailable("no relay")
        self.serves.add(number)
        return number

    def remove(self, number: int, *, sessions: bool = True) -> None:
        self.serves.discard(number)

    def retire_orphan(self) -> bool:
        if self.refuses:
            raise Unavailable("it does not make room")
        return False


def ports(relay: Relay) -> PublishedPorts:
    kernel: Any = Kernel()
    made = PublishedPorts("unit", PublishMode.RELAY, kernel, threading.RLock())
    made._relay = relay  # type: ignore[assignment]
    return made


def binding(port: int, number: int = 80) -> PortBinding:
    return PortBinding(number, host_address="127.0.0.1", host_port=port)


@pytest.fixture
def free() -> list[int]:
    """Two ports that are free at this moment."""
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def test_a_failed_publication_leaves_no_port_taken(free: list[int]) -> None:
    relay = Relay(2)
    published = ports(relay)
    wanted = [binding(free[0]), binding(free[1], 81)]
    with pytest.raises(Unavailable):
        published.publish(CONTAINER, wanted)
    assert relay.serves == set()
    assert published.mode_of(wanted[0]) == ""
    for port in free:
        socket.create_server(("127.0.0.1", port)).close()
    assert published.publish(CONTAINER, wanted) == tuple(wanted)
    published.unpublish(CONTAINER, wanted)


def test_a_port_that_can_not_be_restored_is_told_and_the_others_are_there(free: list[int]) -> None:
    published = ports(Relay(1))
    wanted = [binding(free[0]), binding(free[1], 81)]
    assert published.restore((), {CONTAINER: wanted}) == (wanted[0],)
    assert [published.mode_of(one) for one in wanted] == ["", "relay"]
    socket.create_server(("127.0.0.1", free[0])).close()
    published.unpublish(CONTAINER, wanted)


def test_ports_stay_when_an_orphaned_relay_does_not_make_room(free: list[int]) -> None:
    relay = Relay()
    published = ports(relay)
    wanted = [binding(free[0])]
    published.publish(CONTAINER, wanted)
    relay.refuses = True
    with pytest.raises(Unavailable):
        published.restore((), {CONTAINER: wanted})
    assert published.mode_of(wanted[0]) == "relay"
    published.unpublish(CONTAINER, wanted)
