"""`POST /build/prune`: the query becomes a rule of the collection. `/build/cache-mount` is ours: mounts as tars."""

from __future__ import annotations

import time

from sampan.api.messages import (
    DRY_RUN,
    AnyResponse,
    Request,
    Response,
    Route,
    StreamingResponse,
    json_response,
)
from sampan.engine.cache_rules import rule_of
from sampan.engine.engine import Engine
from sampan.errors import Invalid


async def prune(engine: Engine, request: Request) -> AnyResponse:
    # `keep-storage` is what API 1.47 and older call the reserved space.
    reserved = request.integer("reserved-space") or request.integer("keep-storage") or 0
    rule = rule_of(
        request.filters(),
        time.time(),
        everything=request.flag("all"),
        reserved_space=reserved,
        max_used_space=request.integer("max-used-space") or 0,
        min_free_space=request.integer("min-free-space") or 0,
    )
    dry_run = request.flag(DRY_RUN)
    deleted, reclaimed = await engine.builds.prune(rule, dry_run=dry_run)
    if not dry_run:
        engine.events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
    return json_response({"CachesDeleted": deleted, "SpaceReclaimed": reclaimed})


async def export_mount(engine: Engine, request: Request) -> AnyResponse:
    return StreamingResponse(await engine.builds.export_mount(_id(request)), "application/x-tar")


async def import_mount(engine: Engine, request: Request) -> AnyResponse:
    await engine.builds.import_mount(_id(request), request.stream())
    return Response(204)


def _id(request: Request) -> str:
    text = request.get("id")
    if not text or len(text) > 4096:
        raise Invalid("bad parameter: id of a cache mount is needed")
    return text


ROUTES = (
    Route("POST", "/build/prune", prune),
    Route("GET", "/build/cache-mount", export_mount),
    Route("POST", "/build/cache-mount", import_mount),
)
