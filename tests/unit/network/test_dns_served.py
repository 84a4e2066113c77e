"""Answers that are kept, and the loop of the name server's process."""

from __future__ import annotations

import os
import socket

import pytest
from dnslib import DNSRecord

from sampan.network.dns_loop import READ, Loop
from sampan.network.dns_message import Query
from sampan.network.dns_records import Directory
from sampan.network.dns_served import Served, Surroundings, Turns, View
from sampan.network.model import Member, Outlook
from sampan.network.relay_room import Room


def packet(name: str, number: int = 1) -> bytes:
    query = DNSRecord.question(name)
    query.header.id = number
    return bytes(query.pack())


def view() -> View:
    directory = Directory()
    directory.tell("n", "db", Member(("db",), ("10.0.0.3",), "db.n"))
    for last in (4, 5):
        directory.tell("n", f"web{last}", Member(("web",), (f"10.0.0.{last}",), "web.n"))
    return View(Outlook(networks=("n",)), directory)


def test_an_answer_is_kept_for_everybody_who_asks_the_same_whatever_the_id() -> None:
    made = view()
    first = made.find(packet("db", 1), stream=False)
    assert isinstance(first, bytes)
    assert made.datagrams[packet("db", 2)[2:]] is first
    assert packet("DB", 2)[2:] not in made.datagrams  # the question comes back as it was asked
    assert not made.streams
    made.forget()
    assert not made.datagrams


def test_what_is_to_be_forwarded_is_read_once_too() -> None:
    made = view()
    found = made.find(packet("example.org"), stream=True)
    assert isinstance(found, Query)
    assert made.streams[packet("example.org", 7)[2:]] is found


def test_what_is_no_query_is_not_kept() -> None:
    made = view()
    assert made.find(b"\0\1\1\0" + b"\0" * 8, stream=False) is not None  # refused as malformed
    assert made.find(b"\0\1\x81\0" + b"\0" * 8, stream=False) is None  # a response
    assert not made.datagrams


def test_a_shared_names_answers_take_turns() -> None:
    found = view().find(packet("web"), stream=False)
    assert isinstance(found, Turns)
    said = [found.next() for _ in range(4)]
    assert said[0] != said[1]
    assert said[:2] == said[2:]


def test_what_is_kept_is_bounded_and_the_oldest_goes() -> None:
    made = view()
    for number in range(600):
        made.find(packet(f"n{number}.test"), stream=False)
    assert len(made.datagrams) == 512
    assert packet("n0.test")[2:] not in made.datagrams
    assert packet("n599.test")[2:] in made.datagrams


def test_what_falls_due_is_done_in_order_unless_it_was_cancelled() -> None:
    loop = Loop()
    done: list[str] = []
    loop.later(0.001, lambda: done.append("first"))
    loop.later(0.001, lambda: done.append("cancelled")).cancel()
    loop.later(0.001, lambda: done.append("second"))
    while len(done) < 2:
        loop.turn()
    assert done == ["first", "second"]


def test_a_handler_that_was_removed_in_the_same_turn_is_not_called() -> None:
    loop = Loop()
    called: list[int] = []
    pipes = [os.pipe() for _ in range(2)]

    def handler(descriptor: int) -> None:
        called.append(descriptor)
        for reading, _ in pipes:
            loop.remove(reading)

    for reading, writing in pipes:
        loop.add(reading, READ, lambda _events, reading=reading: handler(reading))
        os.write(writing, b"x")
    loop.turn()
    assert len(called) == 1
    for pair in pipes:
        for descriptor in pair:
            os.close(descriptor)


@pytest.mark.parametrize(
    "network", ["with blanks", "n/m", "back\\slash", "end\\", 'qu"ote', "dots..", ".dot", "grün", "x" * 300]
)
def test_a_network_s_name_that_no_dns_name_can_have_keeps_nobody_from_an_answer(network: str) -> None:
    directory = Directory()
    directory.tell("n", "db", Member(("db", f"db.{network}"), ("10.0.0.3",), f"db.{network}"))
    made = View(Outlook(networks=("n",)), directory)
    found = made.find(packet("db"), stream=False)
    assert isinstance(found, bytes)
    assert [str(record.rdata) for record in DNSRecord.parse(b"\0\0" + found).rr] == ["10.0.0.3"]
    backwards = bytes(DNSRecord.question("3.0.0.10.in-addr.arpa", "PTR").pack())
    reply = made.find(backwards, stream=False)
    assert isinstance(reply, bytes)
    answer = DNSRecord.parse(b"\0\0" + reply)
    assert answer.header.rcode == 0
    assert len(answer.rr) <= 1


def test_containers_that_ask_without_end_leave_descriptors_for_the_others() -> None:
    loop = Loop()
    silent = socket.create_server(("127.0.0.1", 0))
    around = Surroundings(loop, lambda: (f"127.0.0.1#{silent.getsockname()[1]}",), 60.0)
    around.room = Room(128 + 6 + 12)  # its own, the sockets of three containers, and twelve more
    served, clients = [], []
    for _ in range(3):
        datagrams, stream = (
            socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        )
        for one in (datagrams, stream):
            one.bind(("127.0.0.1", 0))
        stream.listen(64)
        served.append(Served(around, 0, datagrams, stream, view()))
    greedy, connected, modest = served
    said: list[bytes] = []
    for number in range(40):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(connected.sockets[1].getsockname())
        clients.append(client)
        assert greedy.ask(packet(f"n{number}.test"), said.append)
        loop.turn()
    assert {one[1] & 0x0F for one in said} == {5}  # REFUSED
    assert greedy.ask(packet("db"), said.append)  # names of the networks are always known
    assert said[-1][1] & 0x0F == 0
    asked: list[bytes] = []
    assert modest.ask(packet("example.test"), asked.append)
    assert asked == []  # it has been forwarded, not refused
    assert modest.busy
    for one in served:
        one.close()
    assert around.room.has(0, 18)
    assert not around.room.has(0, 19)
    for client in (*clients, silent):
        client.close()
