"""`POST /build/prune`: the query becomes a rule of the collection."""

from __future__ import annotations

import time

from sampan.api.messages import AnyResponse, Request, Route, json_response
from sampan.engine.cache_rules import rule_of
from sampan.engine.engine import Engine


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
    deleted, reclaimed = await engine.builds.prune(rule)
    engine.events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
    return json_response({"CachesDeleted": deleted, "SpaceReclaimed": reclaimed})


ROUTES = (Route("POST", "/build/prune", prune),)
