"""Clients and resolvers that mean harm: nobody else is kept from answers, and nothing forged is believed."""

from __future__ import annotations

import queue
import random
import socket
import struct
import threading
from itertools import pairwise

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSError, DNSRecord
from tests.integration.network.names import Loop, answers, ask, serve

from sampan.network.model import Outlook

pytestmark = pytest.mark.root

TRUE, FORGED = "203.0.113.9", "198.51.100.66"


@pytest.fixture
def loop(world, tmp_path):
    made = Loop(world, tmp_path)
    yield made
    made.close()


@pytest.fixture
def container(world):
    return world.container(world.network())


class Scripted:
    """A resolver at a port of the host's loopback; `script` gets the query and says which packets come back."""

    def __init__(self, place, port, script, stream_script=None):
        self.seen = []
        self._script, self._stream_script = script, stream_script
        self.bound = place.socket(socket.SOCK_DGRAM)
        self.bound.settimeout(None)
        self.bound.bind(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()
        if stream_script is not None:
            self.listener = place.socket()
            self.listener.settimeout(None)
            self.listener.bind(("127.0.0.1", port))
            self.listener.listen()
            threading.Thread(target=self._serve_streams, daemon=True).start()

    def _serve(self):
        while True:
            try:
                data, client = self.bound.recvfrom(65536)
            except OSError:
                return
            self.seen.append((parsed(data), client))
            for packet in self._script(data):
                self.bound.sendto(packet, client)

    def _serve_streams(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                data = client.recv(65536)[2:]
                self.seen.append((DNSRecord.parse(data), "tcp"))
                for chunk in self._stream_script(data):
                    client.sendall(chunk)


def parsed(data):
    try:
        return DNSRecord.parse(data)
    except (DNSError, ValueError):  # dnslib reads fewer of the names that a message can have
        return None


def reply(data, *addresses, number=None, name=None, kind=QTYPE.A):
    query = DNSRecord.parse(data)
    answer = query.reply() if name is None else DNSRecord.question(name, QTYPE[kind]).reply()
    answer.header.id = query.header.id if number is None else number & 0xFFFF
    for address in addresses:
        answer.add_answer(RR(answer.q.qname, QTYPE.A, ttl=5, rdata=A(address)))
    return bytes(answer.pack())


def framed(message):
    return struct.pack("!H", len(message)) + message


def test_forged_answers_are_passed_over(loop, world, container):
    def script(data):
        number = DNSRecord.parse(data).header.id
        yield reply(data, FORGED, number=number + 1)
        yield reply(data, FORGED, name="evil.test")
        yield reply(data, FORGED, name="example.test", kind=QTYPE.AAAA)
        yield data  # the query itself
        yield data[:2] + random.Random(1).randbytes(200)
        yield reply(data, FORGED)[:20]
        yield reply(data, TRUE)

    resolver = Scripted(world.engine, 5301, script)
    serve(loop, container)
    assert answers(ask(container, "example.test")) == [TRUE]

    def from_elsewhere(client):
        other = world.engine.socket(socket.SOCK_DGRAM)
        other.sendto(reply(resolver.seen[-1][0].pack(), FORGED), client)

    resolver._script = lambda data: (from_elsewhere(resolver.seen[-1][1]), [reply(data, TRUE)])[1]
    assert answers(ask(container, "other.test")) == [TRUE]


def test_who_guesses_at_ids_makes_the_resolver_be_asked_over_tcp(loop, world, container):
    def script(data):
        number = DNSRecord.parse(data).header.id
        return [reply(data, FORGED, number=number + guess) for guess in range(1, 40)] + [reply(data, FORGED)]

    resolver = Scripted(world.engine, 5301, script, lambda data: [framed(reply(data, TRUE))])
    serve(loop, container)
    assert answers(ask(container, "example.test")) == [TRUE]
    assert resolver.seen[-1][1] == "tcp"


def test_every_question_has_a_port_and_an_id_that_nobody_can_guess(loop, world, container):
    resolver = Scripted(world.engine, 5301, lambda data: [reply(data, TRUE)])
    serve(loop, container)
    for number in range(100):
        ask(container, f"n{number}.test")
    ports = [client[1] for _, client in resolver.seen]
    numbers = [query.header.id for query, _ in resolver.seen]
    for found, room in ((ports, 28_000), (numbers, 65_536)):
        assert len(set(found)) > 90
        assert max(found) - min(found) > room / 2
        steps = {(b - a) % 65_536 for a, b in pairwise(found)}
        assert len(steps) > 80  # no counter


def test_who_asks_the_same_at_the_same_time_waits_for_one_answer(loop, world, container):
    """Many outstanding questions for one name are many chances to guess an answer (RFC 5452, section 5)."""
    held = queue.SimpleQueue()
    resolver = Scripted(world.engine, 5301, lambda data: held.put(data) or [])
    serve(loop, container)
    clients = [container.socket(socket.SOCK_DGRAM) for _ in range(20)]
    for number, client in enumerate(clients):
        query = DNSRecord.question("example.test")
        query.header.id = number
        client.connect(("127.0.0.11", 53))
        client.send(query.pack())
    for _ in range(20):  # each answered at once: what came before has been seen
        ask(container, "db")
    asked = held.get(timeout=20)
    assert len(resolver.seen) == 1
    resolver.bound.sendto(reply(asked, TRUE), resolver.seen[0][1])
    for number, client in enumerate(clients):
        got = DNSRecord.parse(client.recv(4096))
        assert (got.header.id, answers(got)) == (number, [TRUE])


def test_a_resolver_that_asks_back_does_not_go_round_for_ever(loop, world, container):
    """As a forwarder in the container, which itself asks 127.0.0.11."""
    back = container.socket(socket.SOCK_DGRAM)
    back.connect(("127.0.0.11", 53))

    def script(data):
        back.send(data)
        return []

    resolver = Scripted(container, 5301, script)
    inside = Outlook(networks=("net1",), servers=("127.0.0.1#5301",))
    serve(loop, container, inside, timeout=0.5)
    assert ask(container, "example.test").header.rcode == RCODE.SERVFAIL
    assert len(resolver.seen) == 1


def test_long_answers_are_cut_over_udp_and_whole_over_tcp(loop, world, container):
    many = [f"203.0.113.{number % 250}" for number in range(4000)]
    Scripted(
        world.engine,
        5301,
        lambda data: [reply(data, *many[:2000])],
        lambda data: [framed(reply(data, *many))],
    )
    serve(loop, container)
    cut = ask(container, "example.test")
    assert (cut.header.tc, cut.rr) == (1, [])
    assert len(ask(container, "example.test", tcp=True).rr) == len(many)


def test_edns_goes_to_the_resolver_and_back(loop, world, container):
    hundred = [f"203.0.113.{number}" for number in range(100)]
    resolver = Scripted(world.engine, 5301, lambda data: [reply(data, *hundred)])
    serve(loop, container)
    query = DNSRecord.question("example.test")
    query.add_ar(EDNS0(udp_len=4096, flags="do"))
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        client.send(query.pack())
        assert len(DNSRecord.parse(client.recv(65536)).rr) == 100
    asked = resolver.seen[0][0]
    assert (asked.ar[0].rclass, asked.ar[0].ttl & 0x8000) == (4096, 0x8000)


@pytest.mark.parametrize(
    "chunks",
    [
        [],  # hangs up
        [b"\0"],
        [b"\xff\xff" + b"x" * 100],  # promises more than it sends
        [b"\0\0"],
        [framed(b"x" * 50)],
        [framed(bytes(DNSRecord.question("evil.test").reply().pack()))],
    ],
)
def test_a_resolver_that_lies_over_tcp_is_passed_over(loop, world, container, chunks):
    Scripted(world.engine, 5302, lambda data: [], lambda data: chunks)
    Scripted(world.engine, 5301, lambda data: [], lambda data: [framed(reply(data, TRUE))])
    serve(loop, container, upstream=("127.0.0.1#5302", "127.0.0.1#5301"), timeout=1)
    assert answers(ask(container, "example.test", tcp=True)) == [TRUE]


def test_too_many_questions_at_once_are_refused_and_names_of_the_network_still_answered(
    loop, world, container
):
    Scripted(world.engine, 5301, lambda data: [])
    serve(loop, container)
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        for number in range(257):
            client.send(DNSRecord.question(f"n{number}.test").pack())
            if number % 50 == 0:
                ask(container, "db")  # when this is answered, what was sent before is read
        refused = DNSRecord.parse(client.recv(4096))
    assert (refused.header.rcode, str(refused.q.qname)) == (RCODE.REFUSED, "n256.test.")
    assert answers(ask(container, "db")) == ["10.213.1.3"]


def test_a_flood_from_one_container_keeps_no_other_waiting(loop, world, container):
    server, _ = serve(loop, container)
    other = world.container(world.network(), 3)

    async def also():
        await server.serve(other.fd, Outlook(networks=("net1",)))
        await server.sync()

    loop.run(also())
    done = threading.Event()

    def flood():
        client = container.socket(socket.SOCK_DGRAM)
        client.connect(("127.0.0.11", 53))
        number = 0
        while not done.is_set():
            number += 1
            name = f"n{number}" if number % 2 else "db"
            try:
                client.send(DNSRecord.question(name, "TXT").pack())
            except OSError:
                continue

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        for _ in range(50):
            assert answers(ask(other, "db")) == ["10.213.1.3"]  # within the client's deadline
    finally:
        done.set()
        flooder.join()


def test_many_queries_on_one_connection_are_all_answered(loop, container):
    serve(loop, container)
    queries = [DNSRecord.question("db" if number % 3 else "web") for number in range(200)]
    with container.socket() as client:
        client.connect(("127.0.0.11", 53))
        client.sendall(b"".join(framed(bytes(query.pack())) for query in queries))
        stream = client.makefile("rb")
        found = [DNSRecord.parse(stream.read(struct.unpack("!H", stream.read(2))[0])) for _ in queries]
        stream.close()
    assert {one.header.id for one in found} == {query.header.id for query in queries}


def test_connections_are_bounded_and_who_reads_nothing_harms_nobody(loop, container):
    serve(loop, container)
    silent = [container.socket() for _ in range(33)]
    for client in silent:
        client.connect(("127.0.0.11", 53))
    assert silent[32].recv(1) == b""  # one too many
    greedy = silent[0]
    greedy.settimeout(0.2)
    query = framed(bytes(DNSRecord.question("db").pack()))
    with pytest.raises(OSError, match=r"timed out|reset|Broken pipe"):
        for _ in range(1000):  # answers are not read: at some time no query is taken any more
            greedy.sendall(query * 1000)
    assert answers(ask(container, "db")) == ["10.213.1.3"]
    for client in silent[1:]:
        client.close()
    assert answers(ask(container, "db", tcp=True)) == ["10.213.1.3"]


def test_no_packet_of_a_client_or_a_resolver_ends_the_process(loop, world, container):
    """Damaged queries and answers of all kinds, the same at every run."""
    chance = random.Random(20240318)

    def damaged(data):
        data = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(2, len(data))] = chance.randrange(256)
        return bytes(data[: chance.randrange(3, len(data) + 1)])

    def answer(data):
        address = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xcb\0\x71\x09"
        return data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:] + address

    resolver = Scripted(world.engine, 5301, lambda data: [damaged(answer(data)), damaged(answer(data))])
    server, _ = serve(loop, container, timeout=0.1)
    process = server.process_id
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        for number in range(3000):
            name = chance.choice(("db", "web", f"n{number}.test", "3.1.213.10.in-addr.arpa"))
            query = DNSRecord.question(name, chance.choice(("A", "AAAA", "PTR", "TXT", "ANY", "SRV")))
            if chance.random() < 0.5:
                query.add_ar(EDNS0(udp_len=chance.randrange(65536), version=chance.randrange(2)))
            packet = bytes(query.pack())
            client.send(damaged(packet) if chance.random() < 0.7 else packet)
            if number % 10 == 0:
                assert answers(ask(container, "db")) == ["10.213.1.3"]
    assert server.process_id == process
    assert len(resolver.seen) > 100  # these got damaged answers
