"""`POST /session`: a client's connection becomes the session of a build that it starts next."""

from __future__ import annotations

from sampan.api.messages import AnyResponse, HijackedResponse, Request, Route
from sampan.engine.build_sessions import PROTOCOL
from sampan.engine.engine import Engine
from sampan.errors import Unsupported


async def open_session(engine: Engine, request: Request) -> AnyResponse:
    if request.headers.get("upgrade", "").lower() != PROTOCOL:
        raise Unsupported(
            "BuildKit's session protocol is not offered",
            hint="build with `sampan build`, or with DOCKER_BUILDKIT=0 docker build",
        )
    sessions = engine.builds.sessions
    sessions.require_free(request.get("id"))
    taken = await request.hijack(f"application/vnd.{PROTOCOL}", PROTOCOL)
    sessions.add(request.get("id"), taken.socket, taken.preread)
    return HijackedResponse()


ROUTES = (Route("POST", "/session", open_session),)
