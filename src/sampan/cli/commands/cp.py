"""`sampan cp`: between a container and this host; trailing slashes and `/.` mean what they mean to Docker."""

from __future__ import annotations

import os
import stat
import sys

from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.client.api import ApiError, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.client.api import Client
    from sampan.client.connection import Response

_MAX_LINKS = 100
# Go's os.FileMode bits, as X-Docker-Container-Path-Stat has them.
_GO_DIRECTORY = 1 << 31
_GO_SYMLINK = 1 << 27
_GO_SPECIAL = (1 << 26) | (1 << 21)
_CHUNK = 1 << 18


def split_place(text: str) -> tuple[str, str]:
    """(container, path); container is "" for a path on this host. A path with a colon begins with / or ."""
    if text.startswith(("/", "./", "../")) or text in (".", "..", "-"):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def base_name(path: str) -> str:
    """The last component as Go's filepath.Base gives it, but "." for a path that ends in "/."."""
    if path.endswith("/."):
        return "."
    stripped = path.rstrip("/")
    return os.path.basename(stripped) or ("/" if path else ".")


def ends_with_separator(path: str) -> bool:
    return path.endswith("/")


def is_directory_asserted(path: str) -> bool:
    """The spelling says that it has to be a directory."""
    return path.endswith(("/", "/.")) or path == "."


def path_stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    """What a path in a container is; None when there is nothing. Raises `ApiError` for other refusals."""
    try:
        response = client.request("HEAD", f"/containers/{quote_path(container)}/archive", {"path": path})
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    client.release(response)
    return _decode_stat(response)


def _decode_stat(response: Response) -> dict[str, Any]:
    import binascii

    from sampan.client.codec import loads

    try:
        value = loads(binascii.a2b_base64(response.headers.get("x-docker-container-path-stat", "")))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Failure("unable to decode container path stat header")
    return value


def _cp(invocation: Invocation) -> int:
    source, target = invocation.args
    if not source:
        raise Failure("source can not be empty")
    if not target:
        raise Failure("destination can not be empty")
    from_container, source_path = split_place(source)
    to_container, target_path = split_place(target)
    if from_container and to_container:
        raise Failure("copying between containers is not supported")
    if from_container:
        _copy_out(invocation, from_container, source_path, target_path)
    elif to_container:
        _copy_in(invocation, source_path, to_container, target_path)
    else:
        raise Failure("must specify at least one container source")
    return 0


def _copy_out(invocation: Invocation, container: str, source: str, target: str) -> None:
    from sampan.cli.extract import Extractor, Pieces
    from sampan.cli.streams import write_all

    flags = invocation.flags
    client = invocation.client()
    if target == "-" and os.isatty(1):
        raise Failure("cowardly refusing to write the archive to a terminal: redirect the output")
    path, rename_to = source, ""
    if flags["follow-link"]:
        path = _followed(client, container, source)
        if path != source:
            rename_to = base_name(source)
    try:
        response = client.request("GET", f"/containers/{quote_path(container)}/archive", {"path": path})
    except ApiError as error:
        if error.status == 404:
            raise Failure(f"Error: No such container:path: {container}:{source}") from None
        raise
    if target == "-":
        for data in response.chunks():
            write_all(1, data)
        return
    is_directory = bool(_decode_stat(response).get("mode", 0) & _GO_DIRECTORY)
    name = base_name(path)
    directory, new_name = plan_destination(
        exists=os.path.exists(target),
        target_is_directory=os.path.isdir(target),
        source_is_directory=is_directory,
        target=target,
        name=rename_to or name,
    )
    if not os.path.isdir(directory):
        raise Failure(f'invalid output path: directory "{directory}" does not exist')
    rename = (name, new_name) if new_name and new_name != name else None
    if rename_to and rename is None and rename_to != name:
        rename = (name, rename_to)
    Extractor(directory, owner=flags["archive"]).extract(Pieces(response.read_some), rename)
    client.release(response)


def plan_destination(
    *, exists: bool, target_is_directory: bool, source_is_directory: bool, target: str, name: str
) -> tuple[str, str]:
    """(directory to unpack in, name the source gets there; "" keeps it). Raises `Failure`.

    docker cp: into an existing directory the source goes under its own name (`SRC/.`: its content); otherwise
    the source gets the target's name.
    """
    if exists and target_is_directory:
        return target, ""
    if exists and source_is_directory:
        raise Failure("cannot copy directory")
    if exists and is_directory_asserted(target):
        raise Failure("not a directory")
    if not exists and not source_is_directory and is_directory_asserted(target):
        raise Failure("no such directory")
    stripped = target.rstrip("/") or "/"
    return os.path.dirname(stripped) or ".", base_name(stripped)


def _followed(client: Client, container: str, path: str) -> str:
    """The path behind symbolic links at the end of `path` in a container."""
    for _ in range(_MAX_LINKS):
        found = path_stat(client, container, path)
        if found is None or not found.get("mode", 0) & _GO_SYMLINK:
            return path
        link = found.get("linkTarget", "")
        path = link if link.startswith("/") else os.path.join(os.path.dirname(path.rstrip("/")), link)
    raise Failure(f"too many symbolic links: {container}:{path}")


def _copy_in(invocation: Invocation, source: str, container: str, target: str) -> None:
    flags = invocation.flags
    client = invocation.client()
    target = _absolute(target)
    target_path = _followed(client, container, target)
    found = path_stat(client, container, target_path)
    mode = found.get("mode", 0) if found is not None else 0
    if mode & _GO_SPECIAL:
        raise Failure(f'destination "{container}:{target}" must be a directory or a regular file')
    is_directory = bool(mode & _GO_DIRECTORY)
    if source == "-":
        if not is_directory:
            raise Failure(f'destination "{container}:{target}" must be a directory')
        _put(client, container, target_path, _read_stdin(), keep_owner=flags["archive"])
        return
    if ends_with_separator(target) and not target_path.endswith("/"):
        target_path += "/"
    status = _local_status(source, follow=flags["follow-link"])
    source_is_directory = stat.S_ISDIR(status.st_mode)
    name = base_name(source) if base_name(source) not in (".", "..") else "."
    if name == "." and not source_is_directory:
        raise Failure(f"not a directory: {source}")
    directory, new_name = plan_destination(
        exists=found is not None,
        target_is_directory=is_directory,
        source_is_directory=source_is_directory,
        target=target_path,
        name=name,
    )
    archive_name = new_name or name
    body = _archive(os.path.realpath(source) if flags["follow-link"] else source, archive_name, status)
    _put(client, container, directory, body, keep_owner=flags["archive"])


def _absolute(path: str) -> str:
    """Container paths are relative to /; a trailing slash or dot keeps its meaning."""
    ending = "/." if path.endswith("/.") else "/" if path.endswith("/") and path != "/" else ""
    return os.path.normpath("/" + path).replace("//", "/") + ending


def _local_status(source: str, *, follow: bool) -> os.stat_result:
    follow = follow or is_directory_asserted(source)
    try:
        return os.stat(source) if follow else os.lstat(source)
    except OSError as error:
        raise Failure(f"lstat {os.path.abspath(source)}: {(error.strerror or '').lower()}") from None


def _archive(path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
    from sampan.cli.tarball import END, TreeWriter

    writer = TreeWriter(owner=True)
    yield from writer.entry(path, name, status)
    if stat.S_ISDIR(status.st_mode):
        yield from writer.tree(path, "." if name == "." else name)
    yield END


def _read_stdin() -> Iterator[bytes]:
    while data := sys.stdin.buffer.read(_CHUNK):
        yield data


def _put(client: Client, container: str, path: str, body: Iterator[bytes], *, keep_owner: bool) -> None:
    query = {"path": path, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if keep_owner else None}
    target = f"/containers/{quote_path(container)}/archive"
    try:
        response = client.request("PUT", target, query, body, {"Content-Type": "application/x-tar"})
    except ApiError as error:
        if error.status == 404:
            raise Failure(f"Error: No such container:path: {container}:{path}") from None
        raise
    client.finish(response)


CP = Command(
    _cp,
    "CONTAINER:SRC_PATH DEST_PATH|-\nSRC_PATH|- CONTAINER:DEST_PATH",
    (
        Flag("archive", "a", "bool", "Keep owners"),
        Flag("follow-link", "L", "bool", "Follow a symbolic link in SRC_PATH"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
    minimum=2,
    maximum=2,
    aliases=("container cp", "cp"),
    notes="Use '-' as the source to unpack a tar archive from STDIN in a directory of the container,\n"
    "and '-' as the destination to write a tar archive of the source to STDOUT.",
)
