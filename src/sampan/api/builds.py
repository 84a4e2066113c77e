"""`POST /build`: the query becomes a `BuildRequest`, events become Docker's JSON stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

import msgspec

from sampan.api.auth import registry_config
from sampan.api.build_calls import build_call, is_call
from sampan.api.classic_build import ClassicBuild, Withheld
from sampan.api.images import credentials
from sampan.api.messages import AnyResponse, Request, Route, StreamingResponse
from sampan.api.solve_status import failure_detail, status_of
from sampan.build.attest.options import parse_attests
from sampan.build.cache_options import CacheTo, parse_cache_from, parse_cache_to
from sampan.build.consent import NETWORK_HOST, parse_entitlements
from sampan.build.dockerfile.builtin_args import INLINE_CACHE, is_asked_for
from sampan.build.dockerfile.contexts import DIRECTORY, IMAGE, context_name
from sampan.build.dockerfile.state import EPOCH_ARG
from sampan.build.errors import RunFailed
from sampan.build.events import BuildEvent, BuildResult, Failure
from sampan.build.model import MAX_DOCKERFILE, BuildRequest, RunLimits
from sampan.build.output_options import Output, check_outputs, parse_output
from sampan.engine.client_directory import ClientDirectory
from sampan.engine.engine import Engine
from sampan.engine.validate import check_extra_hosts
from sampan.errors import Conflict, Invalid, SampanError, Unsupported
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.platforms import parse_platform

T = TypeVar("T")
MAX_OUTPUTS = 32


MAX_EPOCH = 253_402_300_799
"""The last second of the year 9999: later ones have no RFC 3339 form."""


class _Ulimit(msgspec.Struct, rename="pascal"):
    name: str
    soft: int = -1
    hard: int = -1


class _Output(msgspec.Struct, rename="pascal"):
    type: str
    attrs: dict[str, str] = {}


async def build(engine: Engine, request: Request) -> AnyResponse:
    if request.get("version") == "2":
        raise Unsupported(
            "BuildKit's session protocol is not offered",
            hint="build with `sampan build`, or with DOCKER_BUILDKIT=0 docker build",
        )
    sent = {domain_of(host): credentials(auth) for host, auth in registry_config(request).items()}
    if is_call(request):
        return await build_call(engine, request, await with_dockerfile(request, build_request(request)), sent)
    _refuse(request)
    wanted = build_request(request)
    progress = request.get("progress")
    if progress not in ("", "rawjson"):
        raise Invalid(f"invalid progress {progress!r}: the engine tells rawjson, or Docker's classic stream")
    context: AsyncIterator[bytes] | ClientDirectory | str = request.stream()
    if remote := request.get("remote"):
        from sampan.engine.remote_context import check_remote

        check_remote(remote)
        context = remote
    if request.get("contextdir"):
        context = await _directory(request)
    wanted = await with_dockerfile(request, wanted)
    events = engine.builds.build(
        wanted,
        context,
        sent,
        host_ca=request.flag("hostca", engine.settings.build_host_ca),
        session_id=request.get("session"),
    )
    if progress:
        return StreamingResponse(_raw_lines(events), flush_headers=True)
    return StreamingResponse(_classic_lines(events, quiet=wanted.quiet), flush_headers=True)


async def with_dockerfile(request: Request, wanted: BuildRequest) -> BuildRequest:
    """The body is the Dockerfile itself where the context does not come as one. Raises `Invalid`."""
    if not (request.flag("dockerfilebody") and (request.get("remote") or request.get("contextdir"))):
        return wanted
    return replace(wanted, dockerfile_text=await request.body(MAX_DOCKERFILE))


async def _directory(request: Request) -> ClientDirectory:
    """A context that the client names. Raises `Conflict`; a client elsewhere can't mean a directory of this host."""
    if not request.same_host:
        raise Conflict("only who uses the engine's Unix socket can name a directory", hint="send it as a tar")
    directory = _decoded("contextdir", request.get("contextdir"), ClientDirectory)
    await asyncio.to_thread(directory.verify)
    return directory


async def _classic_lines(events: AsyncGenerator[BuildEvent, None], *, quiet: bool) -> AsyncIterator[bytes]:
    """`quiet`: `build -q` of a client prints this stream and nothing else; all is told when the build fails."""
    classic = ClassicBuild()
    withheld = Withheld()
    try:
        async with aclosing(events):
            async for event in events:
                if not quiet:
                    for message in classic.feed(event):
                        yield _encode(message)
                elif isinstance(event, BuildResult) and event.image:
                    yield _encode({"stream": f"{event.image}\n"})
                else:
                    withheld.keep(classic.feed(event))
    except SampanError as error:
        for message in (*withheld.told(), *classic.rest()):
            yield _encode(message)
        if isinstance(error, RunFailed):
            place = error.place
            yield _encode({"stream": f"{place.file}, line {place.line}: {place.text.strip()}\n"})
        yield _encode({"errorDetail": _detail(error), "error": error.message})


async def _raw_lines(events: AsyncGenerator[BuildEvent, None]) -> AsyncIterator[bytes]:
    """BuildKit's words, and for our own client where an error belongs."""
    failure: Failure | None = None
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Failure):
                    failure = event
                message = status_of(event)
                if message is not None:
                    yield _encode(message)
    except SampanError as error:
        detail = _detail(error)
        detail["sampan"] = {"hint": error.hint, **(failure_detail(failure) if failure else {})}
        yield _encode({"errorDetail": detail, "error": error.message})


def _detail(error: SampanError) -> dict[str, object]:
    code = getattr(error, "exit_code", 0)
    return {"code": code, "message": error.message} if code else {"message": error.message}


def _refuse(request: Request) -> None:
    """What is not done must not be ignored either. Raises `Invalid`, `Unsupported`."""
    if request.flag("squash"):
        raise Unsupported(
            "squash is not supported",
            hint="put what belongs together into one RUN, or copy the result into a stage of its own",
        )
    if request.query_list("securityopt"):
        raise Invalid("The daemon on this platform does not support setting security options on build")


def domain_of(address: str) -> str:
    """The registry's domain of an address as config.json has it (a URL for Docker Hub)."""
    host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return "docker.io" if host in ("index.docker.io", "") else host


def build_request(request: Request) -> BuildRequest:
    """The query of `POST /build`, checked. Raises `Invalid`."""
    dockerfile = request.get("dockerfile") or "Dockerfile"
    if ".." in PurePosixPath(dockerfile).parts:
        raise Invalid(f"forbidden path outside the build context: {dockerfile}")
    build_args = _json(request, "buildargs", dict[str, str | None]) or {}
    platforms = tuple(dict.fromkeys(str(parse_platform(text)) for text in _listed(request.get("platform"))))
    tags = tuple(_tag(text) for text in request.query_list("t") if text)
    outputs = _outputs(request)
    attests = parse_attests(_json(request, "attests", list[str]) or [])
    check_outputs(outputs, tagged=bool(tags), platforms=len(platforms))
    entitlements = parse_entitlements(_json(request, "entitlements", list[str]) or ())
    if request.get("networkmode") == "host":
        entitlements |= {NETWORK_HOST}  # who asks for it for the whole build has agreed, as in Docker
    return BuildRequest(
        dockerfile=dockerfile,
        entitlements=entitlements,
        build_args=build_args,
        attests=attests,
        epoch=_epoch(build_args.get(EPOCH_ARG)),
        tags=tags,
        labels=_json(request, "labels", dict[str, str]) or {},
        target=request.get("target"),
        platform=platforms[0] if len(platforms) == 1 else None,
        platforms=platforms if len(platforms) > 1 else (),
        outputs=outputs,
        explain=request.flag("explain"),
        no_cache=request.flag("nocache"),
        no_cache_stages=frozenset(name.lower() for name in request.get("nocachefilter").split(",") if name),
        pull=request.flag("pull"),
        quiet=request.flag("q"),
        network=request.get("networkmode"),
        extra_hosts=tuple(_extra_hosts(request)),
        shm_size=request.integer("shmsize") or 0,
        limits=_limits(request),
        contexts=_contexts(request),
        cache_from=tuple(parse_cache_from(text) for text in _json(request, "cachefrom", list[str]) or ()),
        cache_to=_cache_to(request, build_args),
    )


def _cache_to(request: Request, build_args: dict[str, str | None]) -> tuple[CacheTo, ...]:
    wanted = tuple(parse_cache_to(text) for text in _json(request, "cacheto", list[str]) or ())
    if is_asked_for(INLINE_CACHE, build_args) and not any(one.inline for one in wanted):
        return (*wanted, CacheTo(None))
    return wanted


def _epoch(text: str | None) -> int | None:
    """SOURCE_DATE_EPOCH: seconds since 1970 (reproducible-builds.org). None when it is not given."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > MAX_EPOCH:
        raise Invalid(
            f"invalid {EPOCH_ARG}: {text[:40]!r}", hint="whole seconds since 1970, as `date +%s` prints them"
        )
    return int(text)


def _contexts(request: Request) -> dict[str, str]:
    contexts: dict[str, str] = {}
    for text, value in (_json(request, "buildcontexts", dict[str, str]) or {}).items():
        name = context_name(text)
        if not name:
            raise Invalid(f"invalid context name {text}: it is neither a name nor an image")
        if value.startswith(IMAGE):
            parse_reference(value.removeprefix(IMAGE))
        elif not value or value.startswith(("oci-layout://", "target:", "input:")):
            raise Unsupported(
                f"the build context {text}={value} is not supported", hint="docker-image://IMAGE is"
            )
        elsewhere = value.startswith(DIRECTORY) and not request.same_host
        contexts[name] = DIRECTORY if elsewhere else value
    return contexts


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _outputs(request: Request) -> tuple[Output, ...]:
    wanted = _json(request, "outputs", list[_Output]) or []
    if len(wanted) > MAX_OUTPUTS:
        raise Invalid(f"outputs: more than {MAX_OUTPUTS}")
    return tuple(parse_output(one.type, one.attrs) for one in wanted)


def _limits(request: Request) -> RunLimits:
    ulimits = _json(request, "ulimits", list[_Ulimit]) or []
    return RunLimits(
        memory=request.integer("memory") or 0,
        memory_swap=request.integer("memswap") or 0,
        cpu_shares=request.integer("cpushares") or 0,
        cpu_period=request.integer("cpuperiod") or 0,
        cpu_quota=request.integer("cpuquota") or 0,
        cpuset_cpus=request.get("cpusetcpus"),
        cpuset_mems=request.get("cpusetmems"),
        ulimits=tuple((each.name, each.soft, each.hard) for each in ulimits),
        cgroup_parent=request.get("cgroupparent"),
    )


def _tag(text: str) -> Reference:
    reference = parse_reference(text)
    if reference.digest is not None:
        raise Invalid(f"invalid tag {text!r}: a digest cannot be given to a build's result")
    return reference.with_default_tag()


def _extra_hosts(request: Request) -> list[str]:
    """A list in one parameter (comma-separated), a JSON list, or the parameter several times."""
    entries: list[str] = []
    for text in request.query_list("extrahosts"):
        entries += _decoded("extrahosts", text, list[str]) if text.startswith("[") else text.split(",")
    found = [entry for entry in entries if entry]
    check_extra_hosts(found)
    return found


def _json(request: Request, name: str, kind: type[T]) -> T | None:
    """None also for `null`, which Go's clients send for what was not given."""
    text = request.get(name)
    return None if text in ("", "null") else _decoded(name, text, kind)


def _decoded(name: str, text: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid {name}: {error}") from error


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


ROUTES = (Route("POST", "/build", build),)
