"""The relay's clock: what times out is asked when its time has come, and an event asks nobody else."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from sampan.network.relay_datagram import UDP_IDLE, UdpPort, report_destination
from sampan.network.relay_loop import Loop
from sampan.network.relay_room import Room
from sampan.network.relay_stream import StreamPort

NOW = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Sets the relay's time; it begins at `NOW`."""
    at = [NOW]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])

    def set_to(now: float) -> None:
        at[0] = now

    yield set_to


def test_only_those_whose_time_has_come_are_asked(clock: Callable[[float], None]) -> None:
    loop = Loop()
    asked: list[str] = []

    def sweep(name: str, again: float | None) -> Callable[[float], float | None]:
        def ask(now: float) -> float | None:
            asked.append(f"{name} {now}")
            return again

        return ask

    once, twice = sweep("once", None), sweep("twice", 30.0)
    assert loop.expire(NOW) is None
    loop.expect(twice, 90)
    loop.expect(once, 20)
    loop.expect(once, 5)  # it is to be asked already
    assert loop.expire(NOW) == 20
    assert asked == []
    assert loop.expire(NOW + 20) == 70
    assert loop.expire(NOW + 91) == 30
    assert asked == [f"once {NOW + 20}", f"twice {NOW + 91}"]


def test_an_event_costs_the_same_with_a_thousand_idle_ports(clock: Callable[[float], None]) -> None:
    loop = Loop()
    asked: list[float] = []
    for _ in range(1000):
        loop.expect(asked.append, 90)
    out, into = os.pipe()
    heard: list[int] = []
    loop.add(out, select.EPOLLIN, heard.append)
    os.write(into, b"x")
    loop.turn()
    assert heard == [select.EPOLLIN]
    assert asked == []
    loop.remove(out)
    os.close(out)
    os.close(into)


def test_a_udp_session_ends_when_nobody_has_used_it_for_its_time(clock: Callable[[float], None]) -> None:
    server, bound, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
    with server, bound, client:
        for one in (server, bound):
            one.bind(("127.0.0.1", 0))
        report_destination(bound)
        loop = Loop()
        port = UdpPort(loop, bound, server.getsockname())

        def send() -> None:
            client.sendto(b"x", bound.getsockname())
            loop.turn()
            assert server.recv(9) == b"x"

        send()
        clock(NOW + 60)
        send()
        assert loop.expire(NOW + UDP_IDLE) == 60
        assert port.busy
        assert loop.expire(NOW + 60 + UDP_IDLE) is None
        assert not port.busy
        clock(NOW + 500)
        send()
        assert loop.expire(NOW + 500) == UDP_IDLE
        port.close(sessions=True)


def test_a_port_with_many_connections_leaves_descriptors_for_the_others() -> None:
    loop = Loop()
    loop.room = Room(128 + 26)  # enough for four connections of two sockets and two pipes
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    server, greedy, modest = sockets
    ports = [StreamPort(loop, one, server.getsockname()) for one in (greedy, modest)]
    clients = [socket.create_connection(greedy.getsockname()) for _ in range(4)]
    for _ in range(8):
        loop.expect(lambda _: None, 0.01)  # a turn ends also when nothing happens
        loop.turn()
    clients.append(socket.create_connection(modest.getsockname()))
    server.settimeout(20)
    served = [server.accept()[0], server.accept()[0]]
    while not ports[1].busy:
        loop.turn()
    served.append(server.accept()[0])
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()  # the greedy one's others wait, though there is room for one more
    for port in ports:
        port.close(sessions=True)
    assert loop.room.has(0, 26)
    assert not loop.room.has(0, 27)
    for one in (*sockets, *clients, *served):
        one.close()
