"""`POST /build?call=check`: a question about a Dockerfile; the answer is BuildKit's JSON, nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sampan.api.messages import AnyResponse, Request, json_response
from sampan.build.model import BuildRequest
from sampan.engine.engine import Engine
from sampan.errors import Invalid, Unsupported
from sampan.registry.config import Credentials


def is_call(request: Request) -> bool:
    return request.get("call") not in ("", "build")


async def build_call(
    engine: Engine, request: Request, wanted: BuildRequest, sent: Mapping[str, Credentials]
) -> AnyResponse:
    """`lint` is a check by BuildKit's rules alone, as is its own name for it. Raises `Invalid`, `Unsupported`."""
    if request.get("remote"):
        raise Unsupported("a call needs the Dockerfile itself", hint="send it as a tar")
    wanted = replace(wanted, platform=(wanted.platform or "").partition(",")[0] or None)
    call, calls = request.get("call"), engine.build_calls
    if call in ("check", "lint"):
        return json_response(await calls.check(wanted, request.stream(), sent, practice=call == "check"))
    if call == "outline":
        return json_response(await calls.outline(wanted, request.stream(), sent))
    if call == "targets":
        return json_response(await calls.targets(wanted, request.stream()))
    raise Invalid(f"unknown call {call!r}", hint="check, lint, outline or targets")
