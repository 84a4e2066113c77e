"""`/images/...`; `/commit` is with the containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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
from sampan.engine.engine import Engine
from sampan.engine.filters import parse_time
from sampan.engine.images import Images, created_ns
from sampan.engine.model import NEVER, rfc3339
from sampan.errors import Invalid, SampanError
from sampan.oci.digest import parse_digest
from sampan.oci.image import History
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress
from sampan.storage.image_model import Image, Removal

Json = dict[str, object]


def credentials(auth: AuthConfig) -> Credentials:
    return Credentials(auth.username, auth.password, auth.identitytoken)


async def list_images(engine: Engine, request: Request) -> AnyResponse:
    filters = request.filters()
    if request.get("filter"):
        filters.setdefault("reference", []).append(request.get("filter"))
    images = await engine.images.list(filters, everything=request.flag("all"))
    shared = request.flag("shared-size")
    return json_response(
        [summary(image, engine.images, images if shared else None, counted=shared) for image in images]
    )


def summary(image: Image, images: Images, others: Sequence[Image] | None, *, counted: bool) -> Json:
    """One entry of the list; -1 stands for "not asked for", as Docker has it."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": [tag.familiar for tag in image.tags],
        "RepoDigests": [digest.familiar for digest in image.digests],
        "Created": created_ns(image) // 1_000_000_000,
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": -1 if others is None else images.shared_size(image, others),
        "Labels": image.config.defaults.labels,
        "Containers": images.containers_of(image.id) if counted else -1,
    }


async def inspect(engine: Engine, request: Request) -> AnyResponse:
    image = engine.images.get(request.match["name"])
    config = image.config
    tagged = engine.images.store.tagged_at(image.id)
    body: Json = {
        "Id": image.id,
        "RepoTags": [tag.familiar for tag in image.tags],
        "RepoDigests": [digest.familiar for digest in image.digests],
        "Parent": "",
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
        "Metadata": {"LastTagTime": rfc3339_or_never(tagged)},
    }
    if not config.variant:
        del body["Variant"]
    return json_response(body)


def rfc3339_or_never(time_ns: int) -> str:
    return rfc3339(time_ns) if time_ns else NEVER


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
        "Env": list(defaults.env) if defaults.env else [],
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
    """Newest first; only the topmost entry has an id, as with images that were pulled or built by BuildKit."""
    image = engine.images.get(request.match["name"])
    layers = engine.images.store.layers
    sizes = iter([layers.size(one) if layers.has(one) else 0 for one in image.diff_ids])
    entries: list[Json] = []
    for entry in image.config.history or ():
        entries.append(
            {
                "Id": "<missing>",
                "Created": seconds_of(entry.created),
                "CreatedBy": entry.created_by or "",
                "Tags": None,
                "Size": 0 if entry.empty_layer else next(sizes, 0),
                "Comment": entry.comment or "",
            }
        )
    entries.reverse()
    if entries:
        entries[0]["Id"] = image.id
        entries[0]["Tags"] = [tag.familiar for tag in image.tags] or None
    return json_response(entries)


def seconds_of(created: str | None) -> int:
    return parse_time(created) // 1_000_000_000 if created else 0


async def create(engine: Engine, request: Request) -> AnyResponse:
    """Pull (`fromImage`) or import (`fromSrc`)."""
    source = request.get("fromSrc")
    if source:
        return await _import(engine, request, source)
    reference = named(request.get("fromImage"), request.get("tag"))
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


def named(name: str, tag: str) -> Reference:
    """The reference of a name with the tag or digest given beside it."""
    if tag.startswith("sha256:"):
        parsed = parse_reference(name)
        return Reference(parsed.domain, parsed.path, None, parse_digest(tag))
    if tag:
        parsed = parse_reference(name)
        if parsed.tag is not None or parsed.digest is not None:
            return parsed
        return parse_reference(f"{name}:{tag}")
    return parse_reference(name).with_default_tag()


async def push(engine: Engine, request: Request) -> AnyResponse:
    reference = named(request.match["name"], request.get("tag"))
    progress = engine.images.push(reference, credentials(registry_auth(request)))
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
        body["progressDetail"] = {"current": item.current, "total": item.total} if item.total else {}
    return encode_line(body)


def encode_line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


async def tag(engine: Engine, request: Request) -> AnyResponse:
    await engine.images.tag(request.match["name"], request.get("repo"), request.get("tag"))
    return Response(201)


async def remove(engine: Engine, request: Request) -> AnyResponse:
    removal = await engine.images.remove(request.match["name"], force=request.flag("force"))
    return json_response(removal_json(removal))


def removal_json(removal: Removal) -> list[dict[str, str]]:
    untagged = [{"Untagged": name} for name in removal.untagged]
    deleted = [{"Deleted": str(digest)} for digest in (*removal.deleted, *removal.chains)]
    return untagged + deleted


async def prune(engine: Engine, request: Request) -> AnyResponse:
    removals, freed = await engine.images.prune(request.filters())
    deleted = [entry for removal in removals for entry in removal_json(removal)]
    return json_response({"ImagesDeleted": deleted or None, "SpaceReclaimed": freed})


async def save_one(engine: Engine, request: Request) -> AnyResponse:
    return StreamingResponse(engine.images.save([request.match["name"]]), "application/x-tar")


async def save_many(engine: Engine, request: Request) -> AnyResponse:
    names = [name for text in request.query_list("names") for name in text.split(",") if name]
    if not names:
        raise Invalid("names: at least one image must be given")
    return StreamingResponse(engine.images.save(names), "application/x-tar")


async def load(engine: Engine, request: Request) -> AnyResponse:
    loaded = engine.images.load(request.stream())

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
