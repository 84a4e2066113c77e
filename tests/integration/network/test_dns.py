"""The name server in a container's namespace, asked by the C library and dnslib; dnslib is also its upstream."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import tracemalloc

import pytest
from dnslib import RCODE, DNSRecord
from tests.integration.network.names import OUTLOOK, Loop, answers, ask, close, serve

from sampan.errors import Conflict
from sampan.linux.netlink_namespace import in_namespace
from sampan.network.dns import NameServer
from sampan.network.dns_sockets import PORTS, open_sockets
from sampan.network.model import Member, Outlook

pytestmark = pytest.mark.root


@pytest.fixture
def loop(world, tmp_path):
    made = Loop(world, tmp_path)
    yield made
    made.close()


@pytest.fixture
def container(world):
    return world.container(world.network())


def test_the_c_library_resolves_a_name_of_the_network(loop, container, tmp_path):
    _, served = serve(loop, container)
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.11\noptions ndots:0\n")
    script = f"mount --bind {conf} /etc/resolv.conf && getent ahostsv4 db && getent hosts 10.213.1.3"
    out = container.command("unshare", "-m", "sh", "-c", script)
    assert "10.213.1.3" in out
    assert "db.net1" in out
    close(loop, served)


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

    async def change():
        served.server.tell("net1", "db", None)
        served.server.tell("net1", "new", Member(("new",), ("10.213.1.9",), "new.net1"))
        await served.server.sync()

    assert answers(ask(container, "db")) == ["10.213.1.3"]
    loop.run(change())
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
        _, served = serve(loop, container, upstream=(bad, "127.0.0.1#5301"), timeout=2)
        assert answers(ask(container, "example.test")) == ["203.0.113.9"]
        close(loop, served)
    assert broken.asked
    assert len(good.asked) == 3


def test_no_resolver_at_all_is_servfail(loop, container):
    serve(loop, container, upstream=("127.0.0.1#5304",), timeout=0.3)
    assert ask(container, "example.test").header.rcode == RCODE.SERVFAIL


def test_an_internal_network_asks_nobody(loop, container):
    resolver = loop.upstream(5301)
    serve(loop, container, Outlook(networks=("net1",), host_resolvers=False))
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
        close(loop, served)
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
    close(loop, served)
    container.command("nft", damage)
    with container.socket(socket.SOCK_DGRAM) as usurper:
        usurper.bind(("0.0.0.0", PORTS.start))
        _, served = serve(loop, container)
        for tcp in (False, True):
            assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]
        close(loop, served)
    serve(loop, container)
    for tcp in (False, True):
        assert answers(ask(container, "db", tcp=tcp)) == ["10.213.1.3"]
    listed = container.command("nft", "list", "table", "ip", "sampan_names")
    assert listed.count("dnat to 127.0.0.11:65053") == listed.count("dnat to") == 2


def test_serving_again_takes_over_and_closing_twice_does_no_harm(loop, container):
    server, first = serve(loop, container)
    _, second = serve(loop, container)
    loop.call(second.server.tell, "net1", "db", Member(("db",), ("10.213.1.99",), "db.net1"))
    loop.run(second.server.sync())
    assert answers(ask(container, "db")) == ["10.213.1.99"]
    loop.run(server.close())
    loop.call(first.close)
    assert answers(ask(container, "db")) == ["10.213.1.99"]


def test_forty_namespaces_cost_two_descriptors_each_and_leave_nothing(loop, world):
    """Served and closed all at once, five times."""

    def descriptors(process="self"):
        return len(os.listdir(f"/proc/{process}/fd"))

    async def serve_all(server):
        return await asyncio.gather(*(server.serve(namespace, OUTLOOK) for namespace in namespaces))

    async def settle():
        """Transports close in the loop's next turns, and its threads when they are told to."""
        for _ in range(3):
            await asyncio.sleep(0)
        await loop.loop.shutdown_default_executor()

    loop.call(lambda: None)
    threads = threading.active_count()
    namespaces = [world.engine.run(world.host.create_namespace) for _ in range(40)]
    try:
        server = NameServer(loop.directory, ["127.0.0.1#5301"])
        loop.name_servers.append(server)
        for one in loop.run(serve_all(server)):  # starts the process
            loop.call(one.close)
        loop.run(server.sync())
        before, before_there = descriptors(), descriptors(server.process_id)
        tracemalloc.start()
        for _ in range(5):
            served = loop.run(serve_all(server))
            loop.run(server.sync())
            assert descriptors() == before + 2 * len(namespaces)
            assert descriptors(server.process_id) == before_there + 2 * len(namespaces)
            assert tracemalloc.get_traced_memory()[0] < len(namespaces) * 20_000  # bytes; 10 kB were measured
            for one in served:
                loop.call(one.close)
            loop.run(server.sync())
            assert (descriptors(), descriptors(server.process_id)) == (before, before_there)
        loop.name_servers.remove(server)
        loop.run(server.close())
        loop.run(settle())
        assert threading.active_count() == threads
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

    def until_one_is_ready():
        return any(once() < 0.0015 for _ in range(2000))  # the machine may be busy with other things

    assert world.engine.run(until_one_is_ready)
