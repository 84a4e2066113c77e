"""`/volumes/...`: decode, one call of the engine, encode."""

from __future__ import annotations

from sampan.api.messages import DRY_RUN, AnyResponse, Request, Route, json_response, no_content
from sampan.api.trials import trial
from sampan.engine.config import Docker, decode_docker
from sampan.engine.engine import Engine
from sampan.errors import Unavailable


class VolumeCreate(Docker, frozen=True):
    """Body of POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: object = None


async def list_(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.volumes.look_at_all(request.filters()))


async def create(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), VolumeCreate)
    if body.cluster_volume_spec is not None:
        raise _no_swarm()
    record = await engine.volumes.create(
        body.name, driver=body.driver, labels=body.labels, options=body.driver_opts
    )
    return json_response(engine.volumes.inspect(record.name), 201)


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    # `size` is beyond Docker: what `system df` tells of all volumes.
    return json_response(await engine.volumes.look(request.match["name"], size=request.flag("size")))


def _no_swarm() -> Unavailable:
    return Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again.",
        hint="There are no swarms here, and so no cluster volumes.",
    )


async def update(_engine: Engine, _request: Request) -> AnyResponse:
    """Docker changes cluster volumes alone."""
    raise _no_swarm()


async def remove(engine: Engine, request: Request) -> AnyResponse:
    name, force = request.match["name"], request.flag("force")
    if request.flag(DRY_RUN):
        return json_response(await engine.volumes.would_remove(name, force=force))
    await engine.volumes.remove(name, force=force)
    return no_content()


async def prune(engine: Engine, request: Request) -> AnyResponse:
    wanted = await trial(request)
    return json_response(
        await engine.volumes.prune(request.filters(), dry_run=wanted.dry_run, without=wanted.without)
    )


ROUTES: tuple[Route, ...] = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("PUT", "/volumes/{name}", update),
    Route("DELETE", "/volumes/{name}", remove),
)
