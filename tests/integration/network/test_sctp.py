"""SCTP ports, on a kernel that translates SCTP whether or not it has sockets for it: packets are made by hand."""

from __future__ import annotations

import socket
import struct

import pytest

from sampan.errors import Conflict, Unsupported
from sampan.network.model import PortBinding

pytestmark = pytest.mark.root

SCTP = 132
INIT, INIT_ACK = 1, 2


def crc32c(data):
    """RFC 3309 / RFC 9260, appendix A: Castagnoli's polynomial, reflected."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def packet(source, destination, tag, kind, initiate_tag):
    """A packet with one INIT or INIT ACK chunk (RFC 9260, 3.3.2): window 64 KiB, one stream each way."""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, initiate_tag, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source, destination, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def parts(datagram):
    """(source address, source port, destination port, chunk type, initiate tag) of an IPv4 packet."""
    head = (datagram[0] & 15) * 4
    source, destination = struct.unpack_from("!HH", datagram, head)
    tag = struct.unpack_from("!I", datagram, head + 16)[0]
    body = datagram[head:]
    assert struct.pack("<I", crc32c(body[:8] + bytes(4) + body[12:])) == body[8:12], "the checksum is wrong"
    return socket.inet_ntoa(datagram[12:16]), source, destination, body[12], tag


def has_sockets():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return False
    return True


def raw(place):
    made = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP))
    made.settimeout(5)
    return made


@pytest.mark.skipif(
    has_sockets(), reason="this kernel answers SCTP itself; the tests with sockets say it all"
)
def test_an_association_is_opened_through_a_published_sctp_port(world):
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every catalogue of CRCs
    container = world.container(world.network())
    bindings = world.publish(container, PortBinding(38412, "sctp", host_port=40000))
    assert [(one.host_address, one.host_port) for one in bindings][:1] == [("0.0.0.0", 40000)]
    with raw(world.outside) as client, raw(container) as server:
        client.sendto(packet(5000, 40000, 0, INIT, 77), (world.ADDRESS, 0))
        assert parts(server.recv(2048)) == (world.OUTSIDE, 5000, 38412, INIT, 77)
        server.sendto(packet(38412, 5000, 77, INIT_ACK, 88), (world.OUTSIDE, 0))
        assert parts(client.recv(2048)) == (world.ADDRESS, 40000, 5000, INIT_ACK, 88)


def test_an_sctp_port_is_another_one_than_the_tcp_port_of_its_number(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.publish(
        container, PortBinding(80, "sctp", "0.0.0.0", 8080), PortBinding(80, "tcp", "0.0.0.0", 8080)
    )
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    with pytest.raises(Conflict, match=r"^Bind for 0\.0\.0\.0:8080 failed: port is already allocated$"):
        world.publish(container, PortBinding(81, "sctp", "0.0.0.0", 8080))


def test_behind_a_filter_an_sctp_port_is_refused_with_the_reason_where_the_kernel_has_no_sockets(relay_world):
    if has_sockets():
        pytest.skip("this kernel has SCTP sockets, so the relay can serve the port")
    container = relay_world.container(relay_world.network())
    with pytest.raises(Unsupported, match="SCTP"):
        relay_world.publish(container, PortBinding(80, "sctp", host_port=8080))


def sctp_socket(place):
    made = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP))
    made.settimeout(20)
    return made


@pytest.mark.skipif(not has_sockets(), reason="this kernel has no SCTP sockets; `make vm` has one that does")
@pytest.mark.parametrize("mode", ["world", "relay_world"])
def test_whole_messages_go_through_an_sctp_port_and_nobody_else_gets_it(request, mode):
    world = request.getfixturevalue(mode)
    container = world.container(world.network())
    with sctp_socket(container) as listener, sctp_socket(world.outside) as client:
        listener.bind(("0.0.0.0", 80))
        listener.listen(1)
        world.publish(container, PortBinding(80, "sctp", "0.0.0.0", 8080))
        with sctp_socket(world.engine) as other, pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", 8080))
        client.connect((world.ADDRESS, 8080))
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            for message in (b"one", b"two", b"x" * 20000):
                client.send(message)
                server.send(message[::-1])
            assert [server.recv(65536) for _ in range(3)] == [b"one", b"two", b"x" * 20000]
            assert [client.recv(65536) for _ in range(3)] == [b"eno", b"owt", b"x" * 20000]
            client.close()
            assert server.recv(1) == b""
