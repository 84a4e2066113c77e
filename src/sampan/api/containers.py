"""`/containers/...` and `/commit`: decode, one call of the engine, encode."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from socket import socket
from typing import Any

import msgspec

from sampan.api.messages import (
    DRY_RUN,
    AnyResponse,
    HijackedResponse,
    Request,
    Response,
    Route,
    StreamingResponse,
    json_response,
    no_content,
)
from sampan.engine.config import ContainerConfig, CreateBody, HostConfig, decode_docker
from sampan.engine.containers.attach import LogOptions, parse_detach_keys
from sampan.engine.containers.commit import CommitRequest
from sampan.engine.containers.monitor import Waited
from sampan.engine.engine import Engine
from sampan.engine.filters import parse_time
from sampan.engine.port_update import PortChanges
from sampan.errors import Invalid
from sampan.runtime.messages import AttachOptions

_MULTIPLEXED = (1, 42)
"""The first API version whose clients know the content type of multiplexed streams."""


async def list_(engine: Engine, request: Request) -> AnyResponse:
    limit = request.integer("limit", 0) or 0
    found = await engine.containers.list(
        request.filters(), all=request.flag("all"), limit=limit, size=request.flag("size")
    )
    return json_response(found)


async def create(engine: Engine, request: Request) -> AnyResponse:
    body = decode_docker(await request.body(), CreateBody)
    container_id, warnings = await engine.containers.create(
        request.get("name"), body, request.get("platform")
    )
    return json_response({"Id": container_id, "Warnings": warnings}, 201)


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.containers.inspect(request.match["id"], size=request.flag("size")))


async def top(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.containers.top(request.match["id"], request.get("ps_args")))


async def start(engine: Engine, request: Request) -> AnyResponse:
    return _changed(await engine.containers.start(request.match["id"]))


async def stop(engine: Engine, request: Request) -> AnyResponse:
    changed = await engine.containers.stop(request.match["id"], request.integer("t"), request.get("signal"))
    return _changed(changed)


async def restart(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.restart(request.match["id"], request.integer("t"), request.get("signal"))
    return no_content()


async def kill(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.kill(request.match["id"], request.get("signal"))
    return no_content()


async def pause(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.pause(request.match["id"])
    return no_content()


async def unpause(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.unpause(request.match["id"])
    return no_content()


async def rename(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.rename(request.match["id"], request.get("name"))
    return no_content()


async def update(engine: Engine, request: Request) -> AnyResponse:
    body = await request.body()
    changes = decode_docker(body, PortChanges)
    warnings = await engine.containers.update(request.match["id"], decode_docker(body, HostConfig), changes)
    answer: dict[str, Any] = {"Warnings": warnings or None}
    if changes.wanted:
        # A client of another engine must notice that it knows no such change.
        answer["PortsChanged"] = True
    return json_response(answer)


async def remove(engine: Engine, request: Request) -> AnyResponse:
    if request.flag("link"):
        await engine.containers.remove_link(request.match["id"])
        return no_content()
    await engine.containers.remove(
        request.match["id"], force=request.flag("force"), volumes=request.flag("v")
    )
    return no_content()


async def wait(engine: Engine, request: Request) -> AnyResponse:
    # Registered before the head is sent: the client may start the container as soon as it has the head.
    future = engine.containers.wait(request.match["id"], request.get("condition"))

    async def body() -> AsyncIterator[bytes]:
        try:
            yield _waited(await future)
        finally:
            future.cancel()

    return StreamingResponse(body(), flush_headers=True)


def _waited(result: Waited) -> bytes:
    error = {"Message": result.error} if result.error else None
    return msgspec.json.encode({"StatusCode": result.exit_code, "Error": error}) + b"\n"


async def attach(engine: Engine, request: Request) -> AnyResponse:
    reference = request.match["id"]
    options = AttachOptions(
        stdin=request.flag("stdin"),
        stdout=request.flag("stdout"),
        stderr=request.flag("stderr"),
        framed=True,
        detach_keys=parse_detach_keys(request.query.get("detachKeys") or None),
    )
    content_type = stream_type(request, engine.containers.content_type(reference))

    async def take() -> tuple[socket, bytes]:
        taken = await request.hijack(content_type)
        return taken.socket, taken.preread

    await engine.containers.attach(
        reference, take, options, logs=request.flag("logs"), stream=request.flag("stream")
    )
    return HijackedResponse()


def stream_type(request: Request, content_type: str) -> str:
    if request.version:
        major, _, minor = request.version.partition(".")
        if (int(major), int(minor)) < _MULTIPLEXED:
            return "application/vnd.docker.raw-stream"
    return content_type


async def resize(engine: Engine, request: Request) -> AnyResponse:
    height, width = size_of(request)
    await engine.containers.resize(request.match["id"], height, width)
    return Response(200)


def size_of(request: Request) -> tuple[int, int]:
    """(rows, columns) of a resize. Raises `Invalid`."""
    height, width = request.integer("h", 0) or 0, request.integer("w", 0) or 0
    if not 0 <= height < 65536 or not 0 <= width < 65536:
        raise Invalid(f"invalid terminal size {height}x{width}")
    return height, width


async def logs(engine: Engine, request: Request) -> AnyResponse:
    reference = request.match["id"]
    follow = request.flag("follow")
    options = LogOptions(
        stdout=request.flag("stdout"),
        stderr=request.flag("stderr"),
        follow=follow,
        timestamps=request.flag("timestamps"),
        since_ns=_moment(request.get("since")),
        until_ns=_moment(request.get("until")),
        tail=_tail(request.get("tail")),
        details=request.flag("details"),
    )
    chunks = engine.containers.logs(reference, options)
    content_type = stream_type(request, engine.containers.content_type(reference))
    return StreamingResponse(chunks, content_type, flush_headers=follow)


def _moment(text: str) -> int | None:
    return None if text in ("", "0") else parse_time(text)


def _tail(text: str) -> int | None:
    if text in ("", "all"):
        return None
    # As Docker: what is no number means everything.
    return int(text) if text.isdecimal() else None


async def stats(engine: Engine, request: Request) -> AnyResponse:
    stream = request.flag("stream", True)
    samples = await engine.containers.stats(
        request.match["id"], stream=stream, one_shot=request.flag("one-shot")
    )

    async def lines() -> AsyncIterator[bytes]:
        async for sample in samples:
            yield msgspec.json.encode(sample) + b"\n"

    return StreamingResponse(lines(), flush_headers=True)


async def changes(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.containers.changes(request.match["id"]) or None)


async def export(engine: Engine, request: Request) -> AnyResponse:
    return StreamingResponse(engine.containers.export(request.match["id"]), "application/x-tar")


def _path(request: Request) -> str:
    path = request.get("path")
    if not path:
        raise Invalid("bad parameter: path cannot be empty")
    return path


async def archive_head(engine: Engine, request: Request) -> AnyResponse:
    stat = await engine.containers.archive_stat(request.match["id"], _path(request))
    return Response(200, headers=_stat_header(stat))


def _stat_header(stat: dict[str, Any]) -> dict[str, str]:
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(stat).encode()).decode()}


async def archive_get(engine: Engine, request: Request) -> AnyResponse:
    path = _path(request)
    stat = await engine.containers.archive_stat(request.match["id"], path)
    chunks = engine.containers.archive_get(request.match["id"], path)
    return StreamingResponse(chunks, "application/x-tar", headers=_stat_header(stat))


async def archive_put(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.archive_put(
        request.match["id"],
        _path(request),
        request.stream(),
        no_overwrite_dir_non_dir=request.flag("noOverwriteDirNonDir"),
    )
    return Response(200)


async def prune(engine: Engine, request: Request) -> AnyResponse:
    return json_response(await engine.containers.prune(request.filters(), dry_run=request.flag(DRY_RUN)))


async def commit(engine: Engine, request: Request) -> AnyResponse:
    raw = await request.body()
    repository, tag = request.get("repo"), request.get("tag")
    wanted = CommitRequest(
        name=f"{repository}:{tag}" if repository and tag else repository,
        author=request.get("author"),
        comment=request.get("comment"),
        pause=request.flag("pause", True),
        config=decode_docker(raw, ContainerConfig) if raw.strip() not in (b"", b"null") else None,
        changes=tuple(request.query_list("changes")),
    )
    image_id = await engine.containers.commit(request.get("container"), wanted)
    return json_response({"Id": image_id}, 201)


def _changed(changed: bool) -> AnyResponse:
    """204, or 304 when there was nothing to do."""
    return no_content() if changed else Response(304)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune),
    Route("POST", "/commit", commit),
    Route("GET", "/containers/{id}/json", inspect),
    Route("GET", "/containers/{id}/top", top),
    Route("GET", "/containers/{id}/logs", logs),
    Route("GET", "/containers/{id}/changes", changes),
    Route("GET", "/containers/{id}/export", export),
    Route("GET", "/containers/{id}/stats", stats),
    Route("POST", "/containers/{id}/resize", resize),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/update", update),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/attach", attach),
    Route("POST", "/containers/{id}/wait", wait),
    Route("DELETE", "/containers/{id*}", remove),
    Route("HEAD", "/containers/{id}/archive", archive_head),
    Route("GET", "/containers/{id}/archive", archive_get),
    Route("PUT", "/containers/{id}/archive", archive_put),
)
