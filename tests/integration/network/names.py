"""A name server under test: its network, the resolvers behind it, and a client that reads answers by dnslib."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from sampan.network.dns import NameServer
from sampan.network.model import Member, Outlook

MEMBERS = {
    "db": Member(("db",), ("10.213.1.3",), "db.net1"),
    "web1": Member(("web",), ("10.213.1.4",), "web1.net1"),
    "web2": Member(("web",), ("10.213.1.5",), "web2.net1"),
    "six": Member(("six",), ("fd00::5",), "six.net1"),
}
OUTLOOK = Outlook(networks=("net1",))


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

    def __init__(self, world, directory):
        self.world = world
        self.directory = directory
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
        try:
            self._end_servers()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    def _end_servers(self):
        for name_server in self.name_servers:
            self.run(name_server.close())
        self.call(lambda: None)  # one turn, in which cancelled connections end
        for server in self.servers:
            server.server.shutdown()
            server.server.server_close()


def serve(loop, container, outlook=OUTLOOK, upstream=("127.0.0.1#5301",), timeout=4.0):
    async def work():
        server = NameServer(loop.directory, upstream, timeout=timeout)
        loop.name_servers.append(server)
        for name, member in MEMBERS.items():
            server.tell("net1", name, member)
        served = await server.serve(container.fd, outlook)
        await server.sync()
        return server, served

    return loop.run(work())


def close(loop, served):
    """And wait until the process has closed its copies of the sockets."""

    async def work():
        served.close()
        await served.server.sync()

    loop.run(work())


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
