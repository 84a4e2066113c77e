"""The process that answers for containers: what happens when it, or its daemon, dies."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess

import pytest
from dnslib import DNSRecord
from tests.integration.network.names import MEMBERS, OUTLOOK, Loop, answers, ask, serve

from sampan.network.dns import NameServer

pytestmark = pytest.mark.root


@pytest.fixture
def loop(world, tmp_path):
    made = Loop(world, tmp_path)
    yield made
    made.close()


@pytest.fixture
def container(world):
    """With a process in it, as a real one."""
    made = world.container(world.network())
    sleeper = made.run(lambda: subprocess.Popen(["sleep", "1000"]))
    made.sleeper = sleeper
    yield made
    sleeper.kill()
    sleeper.wait()


def ended(pid):
    """Wait until a process has ended; false after twenty seconds."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 20)[0])
    finally:
        os.close(watched)


def test_a_killed_process_is_replaced_and_no_query_is_lost(loop, container):
    server, _ = serve(loop, container)
    first = server.process_id
    os.kill(first, signal.SIGSTOP)
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        client.send(DNSRecord.question("db").pack())  # waits in the socket
        os.kill(first, signal.SIGKILL)
        assert answers(DNSRecord.parse(client.recv(4096))) == ["10.213.1.3"]
    assert server.process_id != first
    assert ended(first)


def test_without_a_daemon_it_answers_on_and_the_next_daemon_takes_it_over(loop, container):
    upstream = loop.upstream(5301)
    server, _ = serve(loop, container)
    first = server.process_id
    port = _port(container)
    loop.run(server.close(stop=False))
    assert answers(ask(container, "db")) == ["10.213.1.3"]
    assert answers(ask(container, "example.test", tcp=True)) == ["203.0.113.9"]

    async def next_daemon():
        following = NameServer(loop.directory, ["127.0.0.1#5301"])
        loop.name_servers.append(following)
        await following.take_over()
        return following

    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        following = loop.run(next_daemon())
        assert ended(first)
        client.send(DNSRecord.question("db").pack())  # nobody answers just now, but the socket is there

        async def go_on():
            for name, member in MEMBERS.items():
                following.tell("net1", name, member)
            await following.serve(container.fd, OUTLOOK)
            following.recovered()

        loop.run(go_on())
        assert answers(DNSRecord.parse(client.recv(4096))) == ["10.213.1.3"]
    assert _port(container) == port
    assert upstream.asked


def test_what_is_under_way_is_answered_though_the_sockets_have_gone_to_the_next_daemon(
    loop, world, container
):
    slow = world.engine.socket(socket.SOCK_DGRAM)
    slow.bind(("127.0.0.1", 5303))
    server, _ = serve(loop, container, upstream=("127.0.0.1#5303",))
    loop.run(server.close(stop=False))
    query = DNSRecord.question("example.test")
    with container.socket(socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        client.send(query.pack())
        asked, asker = slow.recvfrom(4096)
        following = NameServer(loop.directory, ["127.0.0.1#5303"])
        loop.name_servers.append(following)
        loop.run(following.take_over())
        slow.sendto(DNSRecord.parse(asked).reply().pack(), asker)
        assert DNSRecord.parse(client.recv(4096)).header.id == query.header.id


def test_it_ends_by_itself_when_the_daemon_and_all_containers_are_gone(loop, container):
    server, _ = serve(loop, container)
    first = server.process_id
    container.sleeper.kill()
    container.sleeper.wait()
    loop.run(server.close(stop=False))
    assert ended(first)


def test_while_its_daemon_lives_nobody_takes_it_over(loop, container):
    serve(loop, container)
    thief = NameServer(loop.directory, [])
    loop.run(thief.take_over())
    assert not thief._inherited
    assert answers(ask(container, "db")) == ["10.213.1.3"]


def test_only_root_finds_the_door(loop, container):
    serve(loop, container)
    door = loop.directory / "names.sock"
    assert door.stat().st_mode & 0o777 == 0o600
    place = os.open(loop.directory, os.O_PATH)
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        code = 1
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.connect(f"/proc/self/fd/{place}/names.sock")
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    os.close(place)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _port(container):
    """To which port of 127.0.0.11 the container's queries are led."""
    listed = container.command("nft", "list", "table", "ip", "sampan_names")
    return listed.partition("dnat to 127.0.0.11:")[2].split()[0]
