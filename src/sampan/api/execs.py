"""`/exec/...`: decode, one call of the engine, encode."""

from __future__ import annotations

from socket import socket

from sampan.api.containers import size_of, stream_type
from sampan.api.messages import AnyResponse, HijackedResponse, Request, Response, Route, json_response
from sampan.engine.config import Docker, decode_docker
from sampan.engine.containers.attach import parse_detach_keys
from sampan.engine.engine import Engine
from sampan.engine.execs import ExecCreate


class ExecStart(Docker, frozen=True):
    """Body of POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] = (0, 0)


async def create(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), ExecCreate)
    return json_response({"Id": engine.execs.create(request.match["id"], body)}, 201)


async def start(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), ExecStart)
    exec_id = request.match["id"]
    keys = parse_detach_keys(engine.execs.get(exec_id).body.detach_keys or None)
    if body.detach:
        await engine.execs.start(exec_id, None, console=body.console_size, keys=keys)
        return Response(200)
    content_type = stream_type(request, engine.execs.content_type(exec_id, tty=body.tty))

    async def take() -> tuple[socket, bytes]:
        taken = await request.hijack(content_type)
        return taken.socket, taken.preread

    await engine.execs.start(exec_id, take, console=body.console_size, keys=keys)
    return HijackedResponse()


async def resize(engine: Engine, request: Request) -> AnyResponse:
    height, width = size_of(request)
    await engine.execs.resize(request.match["id"], height, width)
    return Response(200)


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.execs.inspect(request.match["id"]))


ROUTES: tuple[Route, ...] = (
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
)
