"""`/_ping`, `/version`, `/info`, `/events`, `/auth`, `/system/df`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal, InvalidOperation

import msgspec

from sampan.api.images import summary
from sampan.api.messages import (
    AnyResponse,
    Request,
    Response,
    Route,
    StreamingResponse,
    json_response,
)
from sampan.api.router import API_VERSION, MIN_API_VERSION
from sampan.engine.engine import Engine
from sampan.errors import Invalid
from sampan.registry.config import Credentials


class AuthBody(msgspec.Struct, rename="lower"):
    """`POST /auth`. `serveraddress` is a host, or for Docker Hub its old URL."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""


async def ping(engine: Engine, request: Request) -> AnyResponse:
    headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    # 1: the classic builder; a client must not try to open BuildKit's session.
    return Response(
        200,
        b"OK",
        {**headers, "Builder-Version": "1"},
        "text/plain; charset=utf-8",
    )


async def version(engine: Engine, request: Request) -> AnyResponse:
    return json_response(
        {**engine.system.version(), "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION}
    )


async def info(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await asyncio.to_thread(engine.system.info))


async def auth(engine: Engine, request: Request) -> AnyResponse:
    body = await request.decode(AuthBody)
    sent = Credentials(body.username, body.password, body.identitytoken)
    token = await engine.images.login(body.serveraddress, sent)
    return json_response({"Status": "Login Succeeded", "IdentityToken": token})


async def events(engine: Engine, request: Request) -> AnyResponse:
    since, until = _nanoseconds(request.get("since")), _nanoseconds(request.get("until"))
    stream = engine.events.subscribe(request.filters(), since, until)

    async def lines() -> AsyncIterator[bytes]:
        async for event in stream:
            yield msgspec.json.encode(event.to_json()) + b"\n"

    return StreamingResponse(lines(), flush_headers=True)


async def disk_usage(engine: Engine, request: Request) -> AnyResponse:
    wanted = set(request.query_list("type")) or {"image", "container", "volume", "build-cache"}
    body: dict[str, object] = {}
    if "image" in wanted:
        usage = await engine.images.disk_usage()
        images = [
            summary(one.image, one.shared, engine.images.containers_of(one.image.id)) for one in usage.images
        ]
        body.update({"LayersSize": usage.layers_size, "Images": images})
    if "container" in wanted:
        body["Containers"] = await engine.containers.list(all=True, size=True)
    if "volume" in wanted:
        body["Volumes"] = await engine.volumes.disk_usage()
    if "build-cache" in wanted:
        body["BuildCache"] = await engine.builds.disk_usage()
    return json_response(body)


def _nanoseconds(text: str) -> int | None:
    """Seconds since the epoch, with a fraction, as Docker's clients send `since` and `until`."""
    if not text:
        return None
    try:
        return int(Decimal(text) * 1_000_000_000)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise Invalid(f"invalid time {text!r}: expected seconds since the epoch") from error


ROUTES = (
    Route("GET", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("POST", "/auth", auth),
    Route("GET", "/events", events),
    Route("GET", "/system/df", disk_usage),
)
