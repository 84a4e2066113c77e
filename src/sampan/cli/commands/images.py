"""`sampan images`, `rmi` and `tag`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Exit, no_such
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import FORMAT_HELP, print_listing
from sampan.cli.template_functions import Record
from sampan.client.api import ApiError, filters_query, quote_path
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NONE = "<none>"
_HEADERS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}


def split_tag(name: str) -> tuple[str, str]:
    """Repository and tag of "host:5000/path:tag"."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, _NONE)


def image_rows(images: list[dict[str, Any]], *, digests: bool, full: bool) -> list[Record]:
    """A row for every name of every image."""
    rows = []
    for image in images:
        names = _names(image, digests)
        rows += [image_record(image, *name, full=full) for name in names]
        if not names:
            rows.append(image_record(image, _NONE, _NONE, _NONE, full=full))
    return rows


def _names(image: dict[str, Any], digests: bool) -> list[tuple[str, str, str]]:
    tags = [split_tag(name) for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    pairs = [name.partition("@")[::2] for name in image.get("RepoDigests") or [] if name != "<none>@<none>"]
    if not digests:
        if tags:
            return [(repository, tag, "") for repository, tag in tags]
        return [(repository, _NONE, "") for repository, _ in pairs]
    names = []
    for repository, tag in tags:
        own = [digest for name, digest in pairs if name == repository]
        names += [(repository, tag, digest) for digest in own] or [(repository, tag, _NONE)]
    tagged = {repository for repository, _ in tags}
    names += [(repository, _NONE, digest) for repository, digest in pairs if repository not in tagged]
    return names


def image_record(image: dict[str, Any], repository: str, tag: str, digest: str, *, full: bool) -> Record:
    created = image.get("Created") or 0
    identity = image.get("Id", "")
    size = image.get("Size") or 0
    shared = image.get("SharedSize", -1)

    def optional_size(value: int) -> str:
        return "N/A" if value < 0 else units.human_size(value, 3)

    return Record(
        "imageContext",
        {
            "ID": lambda: identity if full else identity.removeprefix("sha256:")[:12],
            "Repository": lambda: repository,
            "Tag": lambda: tag,
            "Digest": lambda: digest or _NONE,
            "CreatedSince": lambda: units.ago(created) if created > 0 else "N/A",
            "CreatedAt": lambda: units.local_time(created),
            "Size": lambda: units.human_size(size, 3),
            "VirtualSize": lambda: units.human_size(image.get("VirtualSize") or size, 3),
            "SharedSize": lambda: optional_size(shared),
            "UniqueSize": lambda: optional_size(size - shared if shared >= 0 else -1),
            "Containers": lambda: "N/A" if image.get("Containers", -1) < 0 else str(image["Containers"]),
        },
    )


def _images(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    if invocation.args:
        filters.setdefault("reference", []).append(invocation.args[0])
    query = {"all": flags["all"], "filters": filters_query(filters)}
    images = invocation.client().call("GET", "/images/json", query) or []
    digests = flags["digests"] or ".Digest" in flags["format"]
    rows = image_rows(images, digests=digests, full=flags["no-trunc"])
    if flags["quiet"] and flags["format"] in ("", "table"):
        sys.stdout.write("".join(row.get("ID") + "\n" for row in rows))
        return 0
    columns = ("Repository", "Tag", *(("Digest",) if flags["digests"] else ()), "ID", "CreatedSince", "Size")
    print_listing(rows, flags["format"], columns, _HEADERS)
    return 0


def _rmi(invocation: Invocation) -> int:
    from sampan.cli.main import describe

    flags = invocation.flags
    client = invocation.client()
    query = {"force": flags["force"], "noprune": flags["no-prune"]}
    failures = []
    fatal = False
    for name in invocation.args:
        try:
            deleted = client.call("DELETE", f"/images/{quote_path(name)}", query)
        except ApiError as error:
            failures.append(describe(no_such("image", name, error)))
            fatal = fatal or error.status != 404
            continue
        except SampanError as error:
            failures.append(describe(error))
            fatal = True
            continue
        for item in deleted or []:
            if item.get("Deleted"):
                print(f"Deleted: {item['Deleted']}")
            else:
                print(f"Untagged: {item.get('Untagged', '')}")
    if failures:
        sys.stdout.flush()
        print("\n".join(failures), file=sys.stderr)
        if fatal or not flags["force"]:
            raise Exit(1)
    return 0


def _tag(invocation: Invocation) -> int:
    from sampan.cli.failure import Failure
    from sampan.oci.reference import parse_reference

    source, target = invocation.args
    try:
        reference = parse_reference(target)
    except SampanError as error:
        raise Failure(f'Error parsing reference: "{target}" is not a valid repository/tag: {error}') from None
    if reference.digest is not None:
        raise Failure("refusing to create a tag with a digest reference")
    reference = reference.with_default_tag()
    query = {"repo": reference.familiar_name, "tag": reference.tag}
    invocation.client().call("POST", f"/images/{quote_path(source)}/tag", query)
    return 0


IMAGES = Command(
    _images,
    "[REPOSITORY[:TAG]]",
    (
        Flag("all", "a", "bool", "Show intermediate images too"),
        Flag("digests", "", "bool", "Show digests"),
        Flag("filter", "f", "filter", "Show only what meets these conditions"),
        Flag("format", "", "string", FORMAT_HELP),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("quiet", "q", "bool", "Show only IDs"),
    ),
    maximum=1,
    aliases=("image ls", "image list", "images"),
)
RMI = Command(
    _rmi,
    "IMAGE [IMAGE...]",
    (
        Flag("force", "f", "bool", "Remove images although stopped containers use them"),
        Flag("no-prune", "", "bool", "Keep untagged parents"),
    ),
    minimum=1,
    aliases=("image rm", "image remove", "rmi"),
)
TAG = Command(
    _tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", minimum=2, maximum=2, aliases=("image tag", "tag")
)
