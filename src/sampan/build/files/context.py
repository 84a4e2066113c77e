"""The build context: its Dockerfile and its ignore file."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field

from sampan.build.attest.provenance import Material
from sampan.build.files.checksums import Checksums
from sampan.build.files.tree import Tree
from sampan.build.model import MAX_DOCKERFILE, BuildRequest
from sampan.errors import Invalid, NotFound
from sampan.linux.paths import open_in_root
from sampan.oci.ignore import IgnoreRules, read_ignore_file
from sampan.storage.extract import ExtractOptions

CONTEXT_FILES = ExtractOptions(owner=(0, 0), devices=False)
"""How a context's tar is unpacked: everything belongs to root, as Docker has it; a device in it makes no sense."""
_MAX_IGNORE = 4 << 20
_MADE_UP = re.compile(r"\.dockerfile\.[0-9a-f]{4,40}")
"""How clients call a Dockerfile from standard input or from outside of the context."""


def read_dockerfile(fd: int, request: BuildRequest) -> bytes:
    """The Dockerfile of the request, or of the context. Raises `NotFound`, `Invalid`."""
    if request.dockerfile_text is not None:
        raw = request.dockerfile_text
    else:
        name = posixpath.normpath(request.dockerfile or "Dockerfile").lstrip("/")
        if name == ".." or name.startswith("../"):
            raise Invalid(f"forbidden path outside the build context: {request.dockerfile} ()")
        found = _read(fd, name, MAX_DOCKERFILE)
        if found is None and name == "Dockerfile":
            found = _read(fd, "dockerfile", MAX_DOCKERFILE)
        if found is None:
            raise NotFound(
                f"Cannot locate specified Dockerfile: {request.dockerfile}",
                hint="it is looked for in the build context; -f names another one",
            )
        raw = found
    if not raw:
        raise Invalid(f"the Dockerfile ({request.dockerfile}) cannot be empty")
    return raw


@dataclass(frozen=True, slots=True)
class Context:
    """A directory to build from: `fd` is its descriptor, the caller's.

    One that lies in place, where others may write to it, comes with what earlier builds knew of its files.
    """

    fd: int
    checksums: Checksums = field(default_factory=Checksums)
    scratch: str = ""
    """A directory on disk for copies that a build needs for itself; empty: the system's for temporary files."""
    in_place: bool = False
    dockerfile: bytes | None = None
    """The Dockerfile itself, when it came alone."""
    source: Material | None = None
    """Where the engine fetched it."""


def context_tree(context: Context, request: BuildRequest) -> Tree:
    """The context without what its ignore file names.

    A Dockerfile that a client has put into the tar under a name of its own making is no file of the context.
    """
    rules = ignore_rules(context.fd, request) or IgnoreRules()
    if request.dockerfile_text is None and _MADE_UP.fullmatch(request.dockerfile):
        rules = rules.without(request.dockerfile)
    return Tree(context.fd, rules, True, context.checksums, context.scratch, context.in_place)


def ignore_rules(fd: int, request: BuildRequest | None = None) -> IgnoreRules | None:
    """Those of `<Dockerfile>.dockerignore`, else of `.dockerignore`; None: there is neither. Raises `Invalid`.

    Without a request, for another context than the main one: of `.dockerignore` alone. A Dockerfile that does not
    come from the context has no ignore file there either.
    """
    names = [".dockerignore"]
    if request is not None and request.dockerfile_text is None:
        names.insert(0, posixpath.normpath(request.dockerfile or "Dockerfile").lstrip("/") + ".dockerignore")
    for name in names:
        text = _read(fd, name, _MAX_IGNORE)
        if text is not None:
            return read_ignore_file(text, name)
    return None


def _read(fd: int, name: str, limit: int) -> bytes | None:
    try:
        file_fd = open_in_root(fd, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Invalid(f"cannot read {name} in the build context: {error.strerror}") from error
    with os.fdopen(file_fd, "rb") as file:
        try:
            data = file.read(limit + 1)
        except IsADirectoryError as error:
            raise Invalid(f"{name} in the build context is a directory") from error
    if len(data) > limit:
        raise Invalid(f"{name} is larger than {limit} bytes")
    return data
