"""`/build/shells`: a shell in the state before a build's failed step; made, started and looked at as an exec is."""

from __future__ import annotations

from socket import socket

from sampan.api.containers import size_of, stream_type
from sampan.api.messages import AnyResponse, HijackedResponse, Request, Response, Route, json_response
from sampan.engine.build_shells import ShellCreate
from sampan.engine.config import decode_docker
from sampan.engine.engine import Engine


async def create(engine: Engine, request: Request) -> AnyResponse:
    shell = engine.builds.shells.create(decode_docker(await request.body(), ShellCreate))
    failed = shell.failed
    made = {
        "Id": shell.id,
        "Failure": failed.id,
        "Command": failed.state.operation.shown,
        "Missing": failed.missing,
    }
    return json_response(made, 201)


async def start(engine: Engine, request: Request) -> AnyResponse:
    shells, shell_id = engine.builds.shells, request.match["id"]
    kind = "raw-stream" if shells.get(shell_id).body.tty else "multiplexed-stream"
    content_type = stream_type(request, f"application/vnd.docker.{kind}")

    async def take() -> tuple[socket, bytes]:
        taken = await request.hijack(content_type)
        return taken.socket, taken.preread

    await shells.start(shell_id, take)
    return HijackedResponse()


async def resize(engine: Engine, request: Request) -> AnyResponse:
    height, width = size_of(request)
    await engine.builds.shells.resize(request.match["id"], height, width)
    return Response(200)


async def wait(engine: Engine, request: Request) -> AnyResponse:
    return json_response({"StatusCode": await engine.builds.shells.wait(request.match["id"])})


ROUTES = (
    Route("POST", "/build/shells", create),
    Route("POST", "/build/shells/{id}/start", start),
    Route("POST", "/build/shells/{id}/resize", resize),
    Route("POST", "/build/shells/{id}/wait", wait),
)
