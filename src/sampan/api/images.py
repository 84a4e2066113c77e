"""`/images/...`; `/commit` is with the containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from sampan.api.auth import AuthConfig, registry_auth
from sampan.api.messages import (
    AnyResponse,
    Request,
    Response,
    Route,
    StreamingResponse,
    json_response,
)
from sampan.api.platforms import descriptor_of, manifests, platform_query
from sampan.api.trials import trial
from sampan.engine.engine import Engine
from sampan.engine.model import NEVER, rfc3339
from sampan.errors import Invalid, SampanError
from sampan.oci.digest import Digest, parse_digest
from sampan.oci.image import History
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress
from sampan.storage.image_model import Image

Json = dict[str, object]


def credentials(auth: AuthConfig) -> Credentials:
    return Credentials(auth.username, auth.password, auth.identitytoken)


async def list_images(engine: Engine, request: Request) -> AnyResponse:
    filters = request.filters()
    if request.get("filter"):
        filters.setdefault("reference", []).append(request.get("filter"))
    images = await engine.images.list(filters, everything=request.flag("all"))
    shared: dict[Digest, int] = {}
    if request.flag("shared-size"):
        usage = await engine.images.disk_usage()
        shared = {one.image.id: one.shared for one in usage.images}
    listed = [summary(image, shared.get(image.id, -1)) for image in images]
    if request.flag("manifests"):
        for image, one in zip(images, listed, strict=True):
            one.update(several(engine, image))
    return json_response(listed)


def several(engine: Engine, image: Image) -> Json:
    """What the API says of an image whose name has several platforms."""
    store = engine.images.store
    found = manifests(store, image, {image.id: engine.images.containers_of(image.id)})
    return {} if found is None else {"Manifests": found, "Descriptor": descriptor_of(store, image)}


def summary(image: Image, shared: int, containers: int = -1) -> Json:
    """One entry of the list; -1 stands for "not asked for", as Docker has it."""
    return {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": [tag.familiar for tag in image.tags],
        "RepoDigests": [digest.familiar for digest in image.digests],
        "Created": int(image.created),
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": shared,
        "Labels": image.config.defaults.labels,
        "Containers": containers,
    }


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    # In a thread: the store may be busy with removing data.
    image = await asyncio.to_thread(engine.images.get, request.match["name"], platform_query(request))
    config = image.config
    body: Json = {
        "Id": image.id,
        "RepoTags": [tag.familiar for tag in image.tags],
        "RepoDigests": [digest.familiar for digest in image.digests],
        "Parent": image.parent,
        "Comment": (config.history or (History(),))[-1].comment or "",
        "Created": config.created or "",
        "DockerVersion": "",
        "Author": config.author or "",
        "Config": config_json(image),
        "Architecture": config.architecture,
        "Variant": config.variant or "",
        "Os": config.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": rfc3339(image.tagged_at) if image.tagged_at else NEVER},
    }
    if not config.variant:
        del body["Variant"]
    if request.flag("manifests"):
        body.update(several(engine, image))
    return json_response(body)


def config_json(image: Image) -> Json:
    """The image's `Config` with Docker's full set of members."""
    defaults = image.config.defaults
    body: Json = {
        "Hostname": "",
        "Domainname": "",
        "User": defaults.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": list(defaults.env) if defaults.env else None,
        "Cmd": list(defaults.cmd) if defaults.cmd else None,
        "Image": "",
        "Volumes": defaults.volumes,
        "WorkingDir": defaults.working_dir,
        "Entrypoint": list(defaults.entrypoint) if defaults.entrypoint else None,
        "OnBuild": list(defaults.on_build) if defaults.on_build else None,
        "Labels": defaults.labels,
    }
    optional: Json = {
        "ExposedPorts": defaults.exposed_ports,
        "Healthcheck": defaults.healthcheck,
        "Shell": defaults.shell,
        "StopSignal": defaults.stop_signal,
    }
    return body | {name: value for name, value in optional.items() if value}


async def history(engine: Engine, request: Request) -> AnyResponse:
    items = await asyncio.to_thread(engine.images.history, request.match["name"], platform_query(request))
    return json_response(
        [
            {
                "Id": item.id,
                "Created": int(item.created),
                "CreatedBy": item.created_by,
                "Tags": list(item.tags) or None,
                "Size": item.size,
                "Comment": item.comment,
            }
            for item in items
        ]
    )


async def create(engine: Engine, request: Request) -> AnyResponse:
    """Pull (`fromImage`) or import (`fromSrc`)."""
    source = request.get("fromSrc")
    if source:
        return await _import(engine, request, source)
    reference = named(request.get("fromImage"), request.get("tag"), default=False)
    progress = engine.images.pull(reference, request.get("platform"), credentials(registry_auth(request)))
    return StreamingResponse(progress_lines(progress))


async def _import(engine: Engine, request: Request, source: str) -> AnyResponse:
    if source != "-":
        raise Invalid(
            "importing from a URL is not supported", hint="send the archive in the request (fromSrc=-)"
        )
    repository = request.get("repo")
    name = named(repository, request.get("tag")) if repository else None
    image_id = await engine.images.import_(
        request.stream(),
        name,
        message=request.get("message"),
        changes=request.query_list("changes"),
        platform=request.get("platform"),
    )
    return Response(200, msgspec.json.encode({"status": image_id}) + b"\r\n")


def named(name: str, tag: str, *, default: bool = True) -> Reference:
    """The reference of a name with the tag or digest given beside it; without either "latest" by `default`."""
    if tag.startswith("sha256:"):
        parsed = parse_reference(name)
        return Reference(parsed.domain, parsed.path, None, parse_digest(tag))
    if tag:
        parsed = parse_reference(name)
        if parsed.tag is not None or parsed.digest is not None:
            return parsed
        return parse_reference(f"{name}:{tag}")
    parsed = parse_reference(name)
    return parsed.with_default_tag() if default else parsed


async def push(engine: Engine, request: Request) -> AnyResponse:
    reference = named(request.match["name"], request.get("tag"), default=False)
    progress = engine.images.push(reference, credentials(registry_auth(request)), platform_query(request))
    return StreamingResponse(progress_lines(progress))


async def progress_lines(progress: AsyncIterator[Progress]) -> AsyncIterator[bytes]:
    """Docker's JSON stream; an error after the first line is its last one."""
    begun = False
    try:
        async for item in progress:
            begun = True
            yield progress_line(item)
    except SampanError as error:
        if not begun:
            raise
        message = f"{error.message}\n{error.hint}" if error.hint else error.message
        yield encode_line({"errorDetail": {"message": message}, "error": message})


def progress_line(item: Progress) -> bytes:
    if item.aux is not None:
        return encode_line({"progressDetail": {}, "aux": item.aux})
    body: Json = {"status": item.status}
    if item.id:
        body["id"] = item.id
    if item.id and not item.heading:
        body["progressDetail"] = {"current": item.current, "total": item.total} if item.total else {}
    return encode_line(body)


def encode_line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


async def tag(engine: Engine, request: Request) -> AnyResponse:
    await engine.images.tag(request.match["name"], request.get("repo"), request.get("tag"))
    return Response(201)


async def remove(engine: Engine, request: Request) -> AnyResponse:
    removal = await engine.images.remove(request.match["name"], force=request.flag("force"))
    return json_response(removal.records())


async def prune(engine: Engine, request: Request) -> AnyResponse:
    wanted = await trial(request)
    removal = await engine.images.prune(request.filters(), dry_run=wanted.dry_run, without=wanted.without)
    return json_response({"ImagesDeleted": removal.records() or None, "SpaceReclaimed": removal.freed})


async def save_one(engine: Engine, request: Request) -> AnyResponse:
    return StreamingResponse(
        engine.images.save([request.match["name"]], platform_query(request)), "application/x-tar"
    )


async def save_many(engine: Engine, request: Request) -> AnyResponse:
    names = [name for text in request.query_list("names") for name in text.split(",") if name]
    if not names:
        raise Invalid("names: at least one image must be given")
    return StreamingResponse(engine.images.save(names, platform_query(request)), "application/x-tar")


async def load(engine: Engine, request: Request) -> AnyResponse:
    loaded = engine.images.load(request.stream(), platform_query(request))

    async def lines() -> AsyncIterator[bytes]:
        begun = False
        try:
            async for line in loaded:
                begun = True
                yield encode_line({"stream": line})
        except SampanError as error:
            if not begun:
                raise
            yield encode_line({"errorDetail": {"message": error.message}, "error": error.message})

    return StreamingResponse(lines())


ROUTES = (
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/get", save_many),
    Route("GET", "/images/{name*}/get", save_one),
    Route("GET", "/images/{name*}/json", inspect),
    Route("GET", "/images/{name*}/history", history),
    Route("POST", "/images/{name*}/push", push),
    Route("POST", "/images/{name*}/tag", tag),
    Route("DELETE", "/images/{name*}", remove),
)
