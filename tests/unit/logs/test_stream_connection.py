"""Connections to log servers that are slow, that close, and that come back."""

from __future__ import annotations

import socket

import pytest

from sampan.logs.stream_connection import StreamConnection
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import tcp_server

BIG = 8 * 1024 * 1024
"""More than the socket buffers of both sides hold."""


def test_a_server_that_closed_its_connection_gets_the_next_record_on_a_new_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = StreamConnection(("127.0.0.1", listener.getsockname()[1]))
        connection.write([b"one\n"])
        first, _ = listener.accept()
        assert first.recv(100) == b"one\n"
        first.close()
        connection.write([b"two\n"])
        second, _ = listener.accept()
        assert second.recv(100) == b"two\n"
        second.close()
        connection.close()


def test_what_a_server_says_does_not_fill_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = StreamConnection(("127.0.0.1", listener.getsockname()[1]))
        connection.connect()
        server, _ = listener.accept()
        server.sendall(b"chatter" * 1000)
        connection.write([b"one\n"])
        assert server.recv(100) == b"one\n"
        server.close()
        connection.close()


def test_a_slow_server_gets_the_rest_of_a_record_with_the_next_call_and_nothing_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = StreamConnection(("127.0.0.1", listener.getsockname()[1]), stall_timeout=0.1)
        with pytest.raises(Undelivered) as caught:
            connection.write([b"a" * 9 + b"\n", b"b" * BIG + b"\n", b"c\n"])
        assert caught.value.delivered == 2  # the second is under way: the connection finishes it
        server, _ = listener.accept()
        with server:
            got = bytearray()
            with pytest.raises(Undelivered) as again:
                connection.write([b"c\n"])  # nothing has been read yet
            assert again.value.delivered == 0
            while len(got) < 10 + BIG + 1:
                got += server.recv(1 << 20)
                if len(got) == 10 + BIG + 1:
                    break
                try:
                    connection.write([])
                except Undelivered:
                    continue
            connection.write([b"c\n"])
            while not got.endswith(b"c\n"):
                got += server.recv(1 << 20)
        connection.close()
    assert bytes(got) == b"a" * 9 + b"\n" + b"b" * BIG + b"\n" + b"c\n"


def test_a_record_that_was_under_way_when_the_connection_was_lost_is_sent_whole_on_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connection = StreamConnection(("127.0.0.1", port), stall_timeout=0.1)
        record = b"b" * BIG + b"\n"
        with pytest.raises(Undelivered) as caught:
            connection.write([record])
        assert caught.value.delivered == 1
        first, _ = listener.accept()
        first.close()
        with pytest.raises(Undelivered):  # a part of it has gone into the new connection
            for _ in range(3):
                connection.write([])
        second, _ = listener.accept()
        with second:
            got = bytearray(second.recv(1 << 20))
            while not got.endswith(b"\n"):
                try:
                    connection.write([])
                except Undelivered:
                    pass
                got += second.recv(1 << 20)
        connection.close()
    assert bytes(got) == record


def test_nobody_there_delivers_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        connection = StreamConnection(("127.0.0.1", unused.getsockname()[1]))
        with pytest.raises(Undelivered, match="refused") as caught:
            connection.write([b"one\n"])
        assert caught.value.delivered == 0


def test_many_records_arrive_in_order() -> None:
    records = [b"%d\n" % number for number in range(20_000)]
    with tcp_server() as server:
        connection = StreamConnection(("127.0.0.1", server.port))
        connection.write(records)
        connection.close()
        server.wait(lambda: len(server.everything) == len(b"".join(records)))
        assert server.everything == b"".join(records)


def test_a_host_that_is_gone_is_not_taken_for_a_slow_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connection = StreamConnection(("127.0.0.1", port), stall_timeout=0.1)
        connection.connect()
        assert connection._socket is not None
        # A second for the test: the listener never reads, so the window stays shut, as if nobody answered.
        connection._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
        with pytest.raises(Undelivered):
            connection.write([b"b" * BIG])
        server, _ = listener.accept()
        for _ in range(100):
            if connection._socket is None:
                break
            with pytest.raises(Undelivered):
                connection.write([])
        server.close()
        assert connection._socket is None
        connection.close()


def test_the_end_finishes_what_is_owed_or_says_how_much_of_it_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = StreamConnection(("127.0.0.1", listener.getsockname()[1]), stall_timeout=0.1)
        with pytest.raises(Undelivered):
            connection.write([b"b" * BIG])
        server, _ = listener.accept()
        with server:
            lost = connection.end()
            got = 0
            while data := server.recv(1 << 20):
                got += len(data)
            assert got + lost == BIG and lost > 0
        connection.connect()
        assert connection.end() == 0
