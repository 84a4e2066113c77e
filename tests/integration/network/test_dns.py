"""The name server in a container's namespace, asked by the C library and dnslib; dnslib is also its upstream."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import threading
import time
import tracemalloc
from concurrent.futures import Future

import pytest
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from sampan.errors import Conflict
from sampan.linux.netlink_namespace import in_namespace
from sampan.network.dns import NameServer
from sampan.network.dns_sockets import PORTS, open_sockets
from sampan.network.model import NameRecords

pytestmark = pytest.mark.root

RECORDS = NameRecords(
    addresses={"db": ("10.213.1.3",), "web": ("10.213.1.4", "10.213.1.5"), "six": ("fd00::5",)},
    pointers={"10.213.1.3": "db.net1", "fd00::5": "six.net1"},
)


class Upstream(BaseResolver):
    """example.test is 203.0.113.9; big.test has 100 addresses; all else does not exist, or fails when `broken`."""

    def __init__(self, broken=False):
        self.asked = []
        self.broken = broken

    def resolve(self, request, handler):
        name = str(request.q.qname).rstrip(".")
        self.asked.append((name, handler.protocol))
        reply = request.reply()
        if self.broken:
            reply.header.rcode = RCODE.SERVFAIL
        elif name == "example.test":
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=5, rdata=A("203.0.113.9")))
        elif name == "big.test":
            for number in range(100):
                reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=5, rdata=A(f"203.0.113.{number}")))
        else:
            reply.header.rcode = RCODE.NXDOMAIN
        return reply


class Handler(DNSHandler):
    udplen = 512


class Loop:
    """An event loop on a thread of the engine's namespace, as the daemon's is."""

    def __init__(self, world):
        self.world = world
        self.loop = asyncio.new_event_loop()
        self.ready: Future = Future()
        self.thread = world.engine.run(self._start)
        self.servers = []
        self.name_servers = []

    def _start(self):
        thread = threading.Thread(target=self.loop.run_forever)
        thread.start()
        return thread

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def call(self, function, *arguments):
        async def work():
            return function(*arguments)

        return self.run(work())

    def upstream(self, port, broken=False):
        resolver = Upstream(broken)
        for tcp in (False, True):
            server = self.world.engine.run(
                lambda tcp=tcp: DNSServer(
                    resolver, "127.0.0.1", port, tcp, logger=DNSLogger("-request,-reply"), handler=Handler
                )
            )
            threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True).start()
            self.servers.append(server)
        return resolver

    def close(self):
        for name_server in self.name_servers:
            self.run(name_server.close())
        self.call(lambda: None)  # one turn, in which cancelled connections end
        for server in self.servers:
            server.server.shutdown()
            server.server.server_close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def loop(world):
    made = Loop(world)
    yield made
    made.close()


@pytest.fixture
def container(world):
    return world.container(world.network())


def serve(loop, container, records=RECORDS, upstream=("127.0.0.1#5301",), timeout=4.0):
    server = NameServer(upstream, timeout=timeout)
    loop.name_servers.append(server)
    return server, loop.run(server.serve(container.fd, records))


def ask(container, name, kind="A", tcp=False):
    query = DNSRecord.question(name, kind)
    data = query.pack()
    with container.socket(socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        if tcp:
            client.sendall(len(data).to_bytes(2, "big") + data)
            stream = client.makefile("rb")
            reply = DNSRecord.parse(stream.read(int.from_bytes(stream.read(2), "big")))
            stream.close()
        else:
            client.send(data)
            reply = DNSRecord.parse(client.recv(65536))
    assert reply.header.id == query.header.id
    assert reply.q == query.q
    return reply


def answers(reply):
    return [str(record.rdata) for record in reply.rr]


def test_the_c_library_resolves_a_name_of_the_network(loop, container, tmp_path):
    _, served = serve(loop, container)
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.11\noptions ndots:0\n")
    script = f"mount --bind {conf} /etc/resolv.conf && getent ahostsv4 db && getent hosts 10.213.1.3"
    out = container.command("unshare", "-m", "sh", "-c", script)
    assert "10.213.1.3" in out
    assert "db.net1" in out
    loop.call(served.close)


def test_names_are_known_in_any_case_over_udp_and_tcp(loop, container):
    serve(loop, container)
    for tcp in (False, True):
        assert answers(ask(container, "DB.", tcp=tcp)) == ["10.213.1.3"]
        assert answers(ask(container, "3.1.213.10.in-addr.arpa", "PTR", tcp=tcp)) == ["db.net1."]
    assert answers(ask(container, "six", "AAAA")) == ["fd00::5"]


def test_a_known_name_without_an_ipv6_address_is_an_empty_answer_not_a_question_to_others(loop, container):
    resolver = loop.upstream(5301)
    serve(loop, container)
    reply = ask(container, "db", "AAAA")
    assert (reply.header.rcode, reply.rr, resolver.asked) == (RCODE.NOERROR, [], [])


def test_a_shared_name_gives_its_addresses_in_turn(loop, container):
    serve(loop, container)
    first = {answers(ask(container, "web"))[0] for _ in range(4)}
    assert first == {"10.213.1.4", "10.213.1.5"}
    assert sorted(answers(ask(container, "web"))) == ["10.213.1.4", "10.213.1.5"]


def test_records_are_replaced_while_serving(loop, container):
    loop.upstream(5301)
    _, served = serve(loop, container)
    loop.call(served.update, NameRecords(addresses={"new": ("10.213.1.9",)}))
    assert answers(ask(container, "new")) == ["10.213.1.9"]
    assert ask(container, "db").header.rcode == RCODE.NXDOMAIN


def test_other_names_are_asked_of_the_host_s_resolver(loop, container):
    loop.upstream(5301)
    serve(loop, container)
    assert answers(ask(container, "example.test")) == ["203.0.113.9"]
    assert answers(ask(container, "example.test", tcp=True)) == ["203.0.113.9"]
    assert ask(container, "nowhere.test").header.rcode == RCODE.NXDOMAIN


def test_a_long_answer_is_truncated_over_udp_and_whole_over_tcp(loop, container):
    resolver = loop.upstream(5301)
    serve(loop, container)
    assert ask(container, "big.test").header.tc == 1
    assert len(ask(container, "big.test", tcp=True).rr) == 100
    assert resolver.asked[-1] == ("big.test", "tcp")


def test_the_next_resolver_is_asked_when_one_fails_is_silent_or_absent(loop, world, container):
    broken = loop.upstream(5302, broken=True)
    good = loop.upstream(5301)
    silent = world.engine.socket(socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 5303))
    for bad in ("127.0.0.1#5302", "127.0.0.1#5303", "127.0.0.1#5304"):
        _, served = serve(loop, container, upstream=(bad, "127.0.0.1#5301"), timeout=0.3)
        assert answers(ask(container, "example.test")) == ["203.0.113.9"]
        loop.call(served.close)
    assert broken.asked
    assert len(good.asked) == 3


def test_no_resolver_at_all_is_servfail(loop, container):
    serve(loop, container, upstream=("127.0.0.1#5304",), timeout=0.3)
    assert ask(container, "example.test").header.rcode == RCODE.SERVFAIL


def test_an_internal_network_asks_nobody(loop, container):
    resolver = loop.upstream(5301)
    serve(loop, container, NameRecords(addresses={"db": ("10.213.1.3",)}, forward=False))
    assert ask(container, "example.test").header.rcode == RCODE.SERVFAIL
    assert answers(ask(container, "db")) == ["10.213.1.3"]
    assert resolver.asked == []


def test_rubbish_gets_no_answer_and_does_no_harm(loop, container):
    serve(loop, container)
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        for rubbish in (b"", b"\0", b"\xff" * 600, DNSRecord.question("db").reply().pack(), b"\0" * 5000):
            client.send(rubbish)
        client.send(DNSRecord.question("db").pack())
        assert answers(DNSRecord.parse(client.recv(4096))) == ["10.213.1.3"]


def test_a_container_s_own_server_on_every_address_runs_beside_ours(loop, container):
    container.serve_udp(53, "own")  # before ours is opened
    container.serve_tcp(53, "own", "0.0.0.0")
    serve(loop, container)
    for tcp in (False, True):
        assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]
    for address in ("127.0.0.1", container.address):
        assert container.ask_udp(address, 53).startswith("own ")
        assert container.ask_tcp(address, 53).startswith("own ")


def test_a_container_may_take_port_53_of_every_address_after_ours_is_open(loop, container):
    serve(loop, container)
    container.serve_udp(53, "own")
    container.serve_tcp(53, "own", "0.0.0.0")
    assert container.ask_udp("127.0.0.1", 53) == "own 127.0.0.1 hello"
    for tcp in (False, True):
        assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]


def test_ports_that_the_container_has_taken_are_passed_over_and_running_out_is_a_conflict(loop, container):
    taken = [container.socket(socket.SOCK_DGRAM) for _ in PORTS]
    for one, port in zip(taken, PORTS, strict=True):
        one.bind(("0.0.0.0", port))
    with pytest.raises(Conflict, match=r"no port for the name server at 127\.0\.0\.11 is free"):
        serve(loop, container)
    taken[7].close()
    serve(loop, container)
    for tcp in (False, True):
        assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]


def test_while_nobody_serves_a_query_is_refused_at_once_and_the_next_engine_answers_the_same_socket(
    loop, container
):
    _, served = serve(loop, container)
    query = DNSRecord.question("db").pack()
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        client.send(query)
        assert answers(DNSRecord.parse(client.recv(4096))) == ["10.213.1.3"]
        loop.call(served.close)
        client.send(query)
        with pytest.raises(ConnectionRefusedError):
            client.recv(4096)
        with container.socket() as stream, pytest.raises(ConnectionRefusedError):
            stream.connect(("127.0.0.11", 53))
        serve(loop, container)
        client.send(query)
        assert answers(DNSRecord.parse(client.recv(4096))) == ["10.213.1.3"]


@pytest.mark.parametrize("damage", ["flush ruleset", "flush table ip sampan_names", "list ruleset"])
def test_the_next_engine_mends_the_table_and_moves_on_when_its_port_is_taken(loop, container, damage):
    _, served = serve(loop, container)
    loop.call(served.close)
    container.command("nft", damage)
    with container.socket(socket.SOCK_DGRAM) as usurper:
        usurper.bind(("0.0.0.0", PORTS.start))
        _, served = serve(loop, container)
        for tcp in (False, True):
            assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]
        loop.call(served.close)
    serve(loop, container)
    for tcp in (False, True):
        assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]
    listed = container.command("nft", "list", "table", "ip", "sampan_names")
    assert listed.count("dnat to 127.0.0.11:65053") == listed.count("dnat to") == 2


def test_serving_again_takes_over_and_closing_twice_does_no_harm(loop, container):
    server, first = serve(loop, container)
    serve(loop, container, NameRecords(addresses={"db": ("10.213.1.99",)}))
    assert answers(ask(container, "db")) == ["10.213.1.99"]
    loop.run(server.close())
    loop.call(first.close)
    assert answers(ask(container, "db")) == ["10.213.1.99"]


def test_forty_namespaces_cost_two_descriptors_each_and_leave_nothing(loop, world):
    """Served and closed all at once, five times."""

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    async def serve_all(server):
        return await asyncio.gather(*(server.serve(namespace, RECORDS) for namespace in namespaces))

    async def settle():
        """Transports close in the loop's next turns, and its threads when they are told to."""
        for _ in range(3):
            await asyncio.sleep(0)
        await loop.loop.shutdown_default_executor()

    namespaces = [world.engine.run(world.host.create_namespace) for _ in range(40)]
    try:
        server = NameServer(["127.0.0.1#5301"])
        loop.call(lambda: None)
        before = descriptors(), threading.active_count()
        tracemalloc.start()
        for _ in range(5):
            served = loop.run(serve_all(server))
            assert descriptors() == before[0] + 2 * len(namespaces)
            assert tracemalloc.get_traced_memory()[0] < len(namespaces) * 20_000  # bytes; 10 kB were measured
            for one in served:
                loop.call(one.close)
            loop.call(lambda: None)
            assert descriptors() == before[0]
        loop.run(settle())
        assert threading.active_count() == before[1]
    finally:
        tracemalloc.stop()
        for namespace in namespaces:
            os.close(namespace)


def test_the_sockets_and_their_table_are_ready_within_a_millisecond_and_a_half(world):
    def once():
        namespace = world.host.create_namespace()
        begin = time.perf_counter()
        opened = in_namespace(namespace, open_sockets)
        took = time.perf_counter() - begin
        for one in opened:
            one.close()
        os.close(namespace)
        return took

    took = world.engine.run(lambda: [once() for _ in range(30)])
    print(f"name server's sockets and table: {statistics.median(took) * 1000:.2f} ms (median of 30)")
    assert min(took) < 0.0015  # the machine may be busy with other things
