from __future__ import annotations

import asyncio
import socket
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sampan.api import http
from sampan.api.http import HttpServer
from sampan.api.messages import (
    AnyResponse,
    HijackedResponse,
    Request,
    Response,
    StreamingResponse,
    json_response,
)
from sampan.errors import NotFound


def exchange(
    handler: Callable[[Request], Awaitable[AnyResponse]], *parts: bytes, until: bytes = b""
) -> bytes:
    """Send `parts` one after the other; everything the server answers until it closes or `until` is seen."""

    async def main() -> bytes:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = HttpServer(handler)
        await server.listen(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(10):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                if until:
                    return await reader.readuntil(until)
                return await reader.read()
        finally:
            writer.close()
            await server.close()

    return asyncio.run(main())


async def say_path(request: Request) -> AnyResponse:
    return Response(body=request.path.encode(), content_type="text/plain")


def test_requests_on_one_connection_are_answered_in_their_order_also_when_pipelined() -> None:
    answer = exchange(
        say_path,
        b"GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"/one") < answer.index(b"/two")


def test_a_raised_error_becomes_dockers_body_with_the_status_of_its_kind() -> None:
    async def fail(request: Request) -> AnyResponse:
        raise NotFound("No such container: x")

    answer = exchange(fail, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert answer.endswith(b'{"message":"No such container: x"}\n')


def test_an_unexpected_error_does_not_show_its_insides() -> None:
    async def fail(request: Request) -> AnyResponse:
        raise KeyError("secret")

    answer = exchange(fail, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer


def test_an_engine_whose_modules_were_replaced_under_it_says_what_to_do() -> None:
    async def changed(request: Request) -> AnyResponse:
        from sampan.api.http import NotInThisVersion  # type: ignore[attr-defined]

        raise NotInThisVersion

    async def gone(request: Request) -> AnyResponse:
        import sampan.api.not_in_this_version  # type: ignore[import-not-found]

        raise sampan.api.not_in_this_version.Error

    async def other(request: Request) -> AnyResponse:
        import not_installed_here  # type: ignore[import-not-found]

        raise not_installed_here.Error

    for fail, told in ((changed, True), (gone, True), (other, False)):
        answer = exchange(fail, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert (b"restart the engine" in answer) == told
        assert (b"internal error" in answer) != told


def test_a_body_sent_in_pieces_reaches_the_handler_whole() -> None:
    async def echo(request: Request) -> AnyResponse:
        return Response(body=await request.body())

    answer = exchange(
        echo,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhel",
        b"lo\r\n3\r\n wo\r\n0\r\n\r\n",
    )
    assert answer.endswith(b"\r\n\r\nhello wo")


def test_a_body_over_the_limit_is_refused() -> None:
    async def small(request: Request) -> AnyResponse:
        return Response(body=await request.body(limit=4))

    answer = exchange(small, b"POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_request_head_without_end_is_refused() -> None:
    answer = exchange(say_path, b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 70_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_a_body_that_nobody_read_does_not_spoil_the_next_request() -> None:
    answer = exchange(
        say_path,
        b"POST /one HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET /evil",
        b"GET /two HTTP/1.1\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"/evil" not in answer


def test_a_stream_sends_its_status_only_with_the_first_chunk() -> None:
    async def broken() -> AsyncIterator[bytes]:
        raise NotFound("no such image")
        yield b""

    async def handler(request: Request) -> AnyResponse:
        return StreamingResponse(broken())

    answer = exchange(handler, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_a_stream_that_flushes_its_head_answers_before_there_is_a_chunk() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def handler(request: Request) -> AnyResponse:
        return StreamingResponse(silent(), flush_headers=True)

    answer = exchange(handler, b"GET / HTTP/1.1\r\n\r\n", until=b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in answer


def test_a_streams_iterator_is_closed_when_the_client_goes_away() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def handler(request: Request) -> AnyResponse:
        return StreamingResponse(endless())

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(handler)
        await server.listen(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"first")
        writer.close()
        async with asyncio.timeout(10):
            await closed.wait()
        await server.close()

    asyncio.run(main())


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_hijacked_connection_is_handed_over_with_what_was_read_already(upgrade: bool) -> None:
    async def handler(request: Request) -> AnyResponse:
        taken = await request.hijack()
        with taken.socket as sock:
            sock.setblocking(True)
            sock.sendall(b"got:" + taken.preread)
        return HijackedResponse()

    fields = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""
    early = b"early" if upgrade else b""
    answer = exchange(handler, b"POST /attach HTTP/1.1\r\n" + fields + b"Content-Length: 2\r\n\r\n{}" + early)
    status = b"HTTP/1.1 101 UPGRADED" if upgrade else b"HTTP/1.1 200 OK"
    assert answer.startswith(status)
    assert answer.endswith(b"got:early" if upgrade else b"got:")


def test_filters_are_read_in_both_of_dockers_forms() -> None:
    async def handler(request: Request) -> AnyResponse:
        return json_response(request.filters())

    for text in ('{"label":["a=b"]}', '{"label":{"a=b":true}}'):
        quoted = text.replace('"', "%22").replace("{", "%7B").replace("}", "%7D").replace("=", "%3D")
        answer = exchange(handler, f"GET /?filters={quoted} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        assert answer.endswith(b'{"label":["a=b"]}\n')


@pytest.mark.parametrize("text", ["[" * 20_000, '{"a":' * 5_000, "1", "{"])
def test_filters_that_are_none_are_a_bad_request_however_deeply_nested(text: str) -> None:
    async def handler(request: Request) -> AnyResponse:
        return json_response(request.filters())

    quoted = urllib.parse.quote(text)
    answer = exchange(handler, f"GET /?filters={quoted} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_the_body_of_a_request_for_an_upgrade_may_come_after_its_head() -> None:
    """As docker-py sends it; what was not waited for would become the stream's first bytes."""

    async def handler(request: Request) -> AnyResponse:
        return Response(body=b"body:" + await request.body(), content_type="text/plain")

    async def main() -> bytes:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(handler)
        await server.listen(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        try:
            async with asyncio.timeout(10):
                fields = (
                    b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
                )
                writer.write(b"POST /exec/x/start HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
                await reader.readuntil(b"100 Continue\r\n\r\n")  # the handler is at work by then
                writer.write(b"later")
                return await reader.read()
        finally:
            writer.close()
            await server.close()

    assert asyncio.run(main()).endswith(b"body:later")


def test_a_server_that_closes_waits_for_what_its_requests_undo() -> None:
    async def main() -> None:
        started, undone = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def handler(request: Request) -> AnyResponse:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await loop.run_in_executor(None, lambda: None)
                undone.set()
            return Response()

        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(handler)
        await server.listen(listener)
        _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        async with asyncio.timeout(10):
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n")
            await started.wait()
            writer.close()  # the client leaves: the request goes on
            await server.close()
        assert undone.is_set()

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\n\r\nGET /two HT"])
def test_a_head_that_never_comes_to_its_end_closes_a_connection_from_the_network(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.05)
    assert exchange(say_path, sent).count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")


def test_a_connection_that_is_kept_between_requests_and_long_answers_are_not_cut_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.01)

    async def slowly(request: Request) -> AnyResponse:
        await asyncio.sleep(0.05)  # several times what a head may take
        return await say_path(request)

    answer = exchange(slowly, b"GET /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


_CHUNKED = b"POST /one HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless", [b"0\r\nX-A: ", b"0\r\n" + b"X-A: b\r\n" * 10, b"5;", b"5\r\nhello\r\n5;"]
)
def test_a_trailer_or_the_extensions_of_a_chunk_without_end_are_refused(endless: bytes) -> None:
    more = endless[3:] if endless.endswith(b"\r\n") else b"a" * 70
    with pytest.raises(ConnectionError):
        exchange(say_path, _CHUNKED + endless, *[more * 1000] * 200, until=b"never")


def test_a_body_in_small_chunks_is_no_head_however_long() -> None:
    async def count(request: Request) -> AnyResponse:
        return Response(body=str(len(await request.body(1_000_000))).encode())

    answer = exchange(
        count,
        _CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        b"1\r\na\r\n" * 50_000,
        b"0\r\n\r\n",
    )
    assert answer.endswith(b"\r\n\r\n50000")


def test_a_client_that_takes_no_answers_is_not_given_more_of_them() -> None:
    """Requests in a row without reading: their answers must not gather in the server's memory."""
    answered = 0
    size = 100_000

    async def large(request: Request) -> AnyResponse:
        nonlocal answered
        answered += 1
        return Response(body=b"a" * size)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(large)
        await server.listen(listener)
        with socket.create_connection(listener.getsockname()) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n" * 1_000_000)
            assert 0 < answered * size < 20_000_000
        await server.close()

    asyncio.run(main())


def test_one_connection_too_many_takes_the_place_of_the_oldest() -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(say_path, max_connections=3)
        await server.listen(listener)
        async with asyncio.timeout(10):
            old = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET /new HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"/new")).startswith(b"HTTP/1.1 200 OK")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await old[0][0].readexactly(1)
            old[1][1].write(b"GET /old HTTP/1.1\r\n\r\n")
            assert (await old[1][0].readuntil(b"/old")).startswith(b"HTTP/1.1 200 OK")
        for _, other in (*old, (reader, writer)):
            other.close()
        await server.close()

    asyncio.run(main())
