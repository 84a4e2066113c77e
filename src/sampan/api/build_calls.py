"""`POST /build?call=check`: a question about a Dockerfile; the answer is BuildKit's JSON, nothing is built."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from sampan.api.messages import AnyResponse, Request, json_response
from sampan.build.model import BuildRequest
from sampan.engine.engine import Engine
from sampan.errors import Invalid
from sampan.registry.config import Credentials


def is_call(request: Request) -> bool:
    return request.get("call") not in ("", "build")


async def build_call(
    engine: Engine, request: Request, wanted: BuildRequest, sent: Mapping[str, Credentials]
) -> AnyResponse:
    """`lint` is a check by BuildKit's rules alone, as is its own name for it. Raises `Invalid`."""
    context: AsyncIterator[bytes] | str = request.stream()
    if remote := request.get("remote"):
        from sampan.engine.remote_context import check_remote

        check_remote(remote)
        context = remote
    wanted = replace(wanted, platform=(wanted.platform or "").partition(",")[0] or None)
    call, calls = request.get("call"), engine.build_calls()
    if call in ("check", "lint"):
        return json_response(await calls.check(wanted, context, sent, practice=call == "check"))
    if call == "outline":
        return json_response(await calls.outline(wanted, context, sent))
    if call == "targets":
        return json_response(await calls.targets(wanted, context))
    raise Invalid(f"unknown call {call!r}", hint="check, lint, outline or targets")
