"""`/networks/...`: decode, one call of the engine, encode."""

from __future__ import annotations

from sampan.api.messages import AnyResponse, Request, Response, Route, json_response, no_content
from sampan.api.trials import trial
from sampan.engine.config import Docker, EndpointSettings, decode_docker
from sampan.engine.engine import Engine
from sampan.engine.networks.requests import GivenFamilies, NetworkCreate
from sampan.errors import NotFound


class NetworkConnect(Docker, frozen=True):
    """Body of POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointSettings = EndpointSettings()


class NetworkDisconnect(Docker, frozen=True):
    """Body of POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False


async def list_(engine: Engine, request: Request) -> AnyResponse:
    return json_response(engine.networks.list(request.filters()))


async def create(engine: Engine, request: Request) -> AnyResponse:
    raw = await request.body()
    body, given = decode_docker(raw, NetworkCreate), decode_docker(raw, GivenFamilies)
    network_id, warning = await engine.networks.create(body, given)
    return json_response({"Id": network_id, "Warning": warning}, 201)


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    found = engine.networks.inspect(request.match["id"])
    if request.get("scope") not in ("", found["Scope"]):
        raise NotFound(f"network {request.match['id']} not found")
    return json_response(found)


async def remove(engine: Engine, request: Request) -> AnyResponse:
    await engine.networks.remove(request.match["id"])
    return no_content()


async def connect(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), NetworkConnect)
    await engine.containers.connect(request.match["id"], body.container, body.endpoint_config)
    return Response(200)


async def disconnect(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), NetworkDisconnect)
    await engine.containers.disconnect(request.match["id"], body.container, force=body.force)
    return Response(200)


async def prune(engine: Engine, request: Request) -> AnyResponse:
    wanted = await trial(request)
    return json_response(
        await engine.networks.prune(request.filters(), dry_run=wanted.dry_run, without=wanted.without)
    )


ROUTES: tuple[Route, ...] = (
    Route("GET", "/networks", list_),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{id*}", inspect),
    Route("DELETE", "/networks/{id*}", remove),
    Route("POST", "/networks/{id*}/connect", connect),
    Route("POST", "/networks/{id*}/disconnect", disconnect),
)
