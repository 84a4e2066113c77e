"""Commands that stream archives: `save`, `load`, `import`, `export`."""

from __future__ import annotations

import os
import sys

from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.platform import platform_json
from sampan.cli.progress import show_all
from sampan.client.api import quote_path
from sampan.oci.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from sampan.client.connection import Response

_CHUNK = 1 << 18


def read_all(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(_CHUNK):
        yield data


def write_out(response: Response, path: str) -> None:
    """To standard output, or to a file that appears only when it is complete."""
    from sampan.cli.replacing import Replacing
    from sampan.cli.streams import write_all

    if not path:
        for data in response.chunks():
            write_all(1, data)
        return
    with Replacing(path, 0o600) as descriptor:  # readable by its owner alone, as Docker's
        for data in response.chunks():
            write_all(descriptor, data)


def check_output(path: str, command: str) -> None:
    if not path:
        if os.isatty(1):
            raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise Failure(
            f'failed to {command} image: invalid output path: directory "{directory}" does not exist'
            if command == "save"
            else f'failed to export container: invalid output path: directory "{directory}" does not exist'
        )
    if os.path.isdir(path):
        raise Failure(f'failed to {command}: invalid output path: "{path}" must be a regular file')
    if os.path.exists(path) and not os.path.isfile(path):
        what = "image" if command == "save" else "container"
        raise Failure(
            f'failed to {command} {what}: invalid output path: "{path}" must be a directory or a regular file: '
            "got a device"
        )


def _save(invocation: Invocation) -> int:
    path = invocation.flags["output"]
    check_output(path, "save")
    client = invocation.client()
    query = {"names": invocation.args, "platform": platform_json(invocation.flags["platform"])}
    write_out(client.request("GET", "/images/get", query), path)
    return 0


def _export(invocation: Invocation) -> int:
    path = invocation.flags["output"]
    check_output(path, "export")
    client = invocation.client()
    write_out(client.request("GET", f"/containers/{quote_path(invocation.args[0])}/export"), path)
    return 0


def _load(invocation: Invocation) -> int:
    flags = invocation.flags
    client = invocation.client()
    if flags["input"]:
        try:
            source: BinaryIO = open(flags["input"], "rb")  # noqa: SIM115 - closed by the `with` below
        except OSError as error:
            raise Failure(f"open {flags['input']}: {(error.strerror or '').lower()}") from None
    else:
        if os.isatty(0):
            raise Failure("requested load from stdin, but stdin is empty")
        source = sys.stdin.buffer
    with source:
        quiet = flags["quiet"] or not sys.stdout.isatty()
        response = client.request(
            "POST",
            "/images/load",
            {"quiet": "1" if quiet else "0", "platform": platform_json(flags["platform"])},
            read_all(source),
            {"Content-Type": "application/x-tar"},
        )
        show_all(client.messages(response))
    return 0


def _import(invocation: Invocation) -> int:
    flags = invocation.flags
    place = invocation.args[0]
    repository, tag = "", ""
    if len(invocation.args) > 1:
        reference = parse_reference(invocation.args[1])
        repository, tag = reference.familiar_name, reference.tag or ""
    query = {
        "repo": repository,
        "tag": tag,
        "message": flags["message"],
        "changes": flags["change"],
        "platform": flags["platform"],
    }
    client = invocation.client()
    if place.startswith(("http://", "https://")):
        response = client.request("POST", "/images/create", {"fromSrc": place, **query}, b"")
        show_all(client.messages(response))
        return 0
    try:
        source: BinaryIO = sys.stdin.buffer if place == "-" else open(place, "rb")  # noqa: SIM115
    except OSError as error:
        raise Failure(f"open {place}: {(error.strerror or '').lower()}") from None
    with source:
        response = client.request("POST", "/images/create", {"fromSrc": "-", **query}, read_all(source))
        show_all(client.messages(response))
    return 0


_OUTPUT = Flag("output", "o", "string", "Write to this file instead of STDOUT")
SAVE = Command(
    _save,
    "IMAGE [IMAGE...]",
    (_OUTPUT, Flag("platform", "", "string", "Write only this platform of images that have several")),
    minimum=1,
    aliases=("image save", "save"),
)
EXPORT = Command(
    _export, "CONTAINER", (_OUTPUT,), minimum=1, maximum=1, aliases=("container export", "export")
)
LOAD = Command(
    _load,
    "",
    (
        Flag("input", "i", "string", "Read from this file instead of STDIN"),
        Flag("platform", "", "string", "Load only this platform of images that have several"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
    maximum=0,
    aliases=("image load", "load"),
)
IMPORT = Command(
    _import,
    "file|URL|- [REPOSITORY[:TAG]]",
    (
        Flag("change", "c", "list", "Apply a Dockerfile instruction to the image"),
        Flag("message", "m", "string", "Commit message"),
        Flag("platform", "", "string", "Platform of the image"),
    ),
    minimum=1,
    maximum=2,
    aliases=("image import", "import"),
)
