"""What `build` sends: the context as a tar stream, made while it is being sent, and which Dockerfile in it counts."""

from __future__ import annotations

import os
import sys

from sampan.cli.failure import Failure
from sampan.cli.tarball import END, TreeWriter, file_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from sampan.oci.ignore import IgnoreRules

_MAX_DOCKERFILE = 8 << 20
_CHUNK = 1 << 18
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class BuildContext:
    """The body of a build request: `dockerfile` names the Dockerfile inside, `remote` a context the engine fetches.

    With a `remote` the body is the Dockerfile itself, if it is not to come from there.
    """

    __slots__ = ("body", "directory", "dockerfile", "remote")

    def __init__(
        self,
        dockerfile: str,
        body: Iterator[bytes] | None,
        remote: str = "",
        directory: ContextDirectory | None = None,
    ) -> None:
        self.dockerfile = dockerfile
        self.body = body
        self.remote = remote
        self.directory = directory


class ContextDirectory:
    """What the body is made of: an engine that sees the same directory needs no body.

    `outside`: the Dockerfile when it is not in the directory; `dockerfile`: its name then, else its path in it.
    """

    __slots__ = ("dockerfile", "outside", "path")

    def __init__(self, path: str, dockerfile: str, outside: bytes | None) -> None:
        self.path = path
        self.dockerfile = dockerfile
        self.outside = outside

    def named(self) -> dict[str, str | int]:
        """What the engine must find there."""
        status = os.stat(self.path)
        return {"path": self.path, "device": status.st_dev, "inode": status.st_ino}


def open_context(place: str, dockerfile: str) -> BuildContext:
    """The context at `place` (a directory, "-" or a URL). Raises `Failure` with Docker's words."""
    if place == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(dockerfile)
    if not os.path.isdir(place) and is_remote(place):
        name, text = remote_dockerfile(dockerfile)
        return BuildContext(name, None if text is None else iter((text,)), place)
    if not os.path.exists(place):
        raise Failure(f'unable to prepare context: path "{place}" not found')
    if not os.path.isdir(place):
        raise Failure(f"unable to prepare context: context must be a directory: {os.path.abspath(place)}")
    return _from_directory(os.path.realpath(place), dockerfile)


def is_remote(place: str) -> bool:
    """A URL or a git repository, which the engine fetches itself."""
    return place.startswith(("http://", "https://", "git://", "ssh://", "git@", "github.com/"))


def remote_dockerfile(dockerfile: str) -> tuple[str, bytes | None]:
    """Name and text of the Dockerfile for a context behind a URL; None: it is looked for there.

    As buildx has it: standard input and absolute paths are this side's. Raises `Failure`.
    """
    if dockerfile == "-":
        return "Dockerfile", stdin_dockerfile()
    if not os.path.isabs(dockerfile):
        return dockerfile, None
    try:
        return os.path.basename(dockerfile), _read(dockerfile)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise Failure(f"failed to read dockerfile: open {dockerfile}: {words}") from error


def stdin_dockerfile() -> bytes:
    data = sys.stdin.buffer.read(_MAX_DOCKERFILE + 1)
    if len(data) > _MAX_DOCKERFILE:
        raise Failure("unable to prepare context: standard input is no Dockerfile: it is too large")
    return data


def _from_directory(root: str, dockerfile: str) -> BuildContext:
    outside: bytes | None = None
    ignored: tuple[str, bytes] | None = None
    if dockerfile == "-":
        outside, name = stdin_dockerfile(), "Dockerfile"
    else:
        name = relative_dockerfile(root, dockerfile)
        if name.startswith("../"):
            outside = _read(os.path.join(root, name))
            file, text = ignore_file(root, name)
            ignored = (file, text) if file.startswith("../") else None
            name = os.path.basename(name)
    # An ignore file beside a Dockerfile elsewhere is not in the directory: both are sent then.
    directory = ContextDirectory(root, name, outside) if ignored is None else None
    if outside is not None:
        name = f".dockerfile.{os.getpid():x}{id(outside) & 0xFFFFFF:x}"
    return BuildContext(name, _stream(root, name, outside, ignored), directory=directory)


def relative_dockerfile(root: str, dockerfile: str) -> str:
    """The Dockerfile's path from `root`, by Docker's rules; "../…" for one outside. Raises `Failure`."""
    if dockerfile:
        path = os.path.abspath(dockerfile)
        if not os.path.lexists(path) and not os.path.isabs(dockerfile):
            inside = os.path.join(root, dockerfile)
            path = inside if os.path.lexists(inside) else path
    else:
        path = os.path.join(root, "Dockerfile")
        if not os.path.lexists(path) and os.path.lexists(os.path.join(root, "dockerfile")):
            path = os.path.join(root, "dockerfile")
    if not os.path.exists(path):
        raise Failure(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {path}: no such file or directory",
            hint=_similar(path),
        )
    if os.path.isdir(path):
        raise Failure(f"unable to prepare context: the Dockerfile is a directory: {path}")
    directory = os.path.realpath(os.path.dirname(path))
    return os.path.relpath(os.path.join(directory, os.path.basename(path)), root)


def _similar(path: str) -> str:
    """What may have been meant by a path that is not there; "" when nothing comes to mind."""
    directory, wanted = os.path.split(path)
    if not os.path.isdir(directory):
        return f"there is no directory {directory}"
    import difflib

    files = {name.casefold(): name for name in os.listdir(directory) if "dock" in name.casefold()}
    if os.path.exists(os.path.join(directory, "Containerfile")):
        files["dockerfile"] = files.get("dockerfile", "Containerfile")
    files.pop(".dockerignore", None)
    close = difflib.get_close_matches(wanted.casefold(), sorted(files), n=1)
    return f"Did you mean -f {os.path.relpath(os.path.join(directory, files[close[0]]))}?" if close else ""


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(_MAX_DOCKERFILE + 1)
    if len(data) > _MAX_DOCKERFILE:
        raise Failure(f"unable to prepare context: {path} is no Dockerfile: it is too large")
    return data


def _rules_of(text: bytes, file: str, dockerfile: str) -> IgnoreRules | None:
    """`file`: the ignore file's name. Raises `Invalid`."""
    if not text:
        return None
    from sampan.oci.ignore import read_ignore_file

    keep = (".dockerignore", dockerfile) if dockerfile else (".dockerignore",)
    return read_ignore_file(text, file, keep=keep) or None


def ignore_file(root: str, dockerfile: str) -> tuple[str, bytes]:
    """Name and text of the ignore file beside the Dockerfile (Dockerfile.dockerignore), else the context's own.

    Both paths count from `root`, which a Dockerfile may be outside of.
    """
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            return name, _read(os.path.join(root, name))
        except FileNotFoundError:
            continue
    return "", b""


def directory_tar(root: str) -> Iterator[bytes]:
    """A further context of a build."""
    name, text = ignore_file(root, "")
    yield from TreeWriter().tree(root, "", _rules_of(text, name, ""))
    yield END


def _stream(
    root: str, dockerfile: str, outside: bytes | None, ignored: tuple[str, bytes] | None
) -> Iterator[bytes]:
    file, text = ignored or ignore_file(root, dockerfile)
    yield from TreeWriter().tree(root, "", _rules_of(text, file, dockerfile))
    if outside is not None:
        # The two are no files of the context: their own ignore file keeps them out of what is copied.
        own = f"\n{dockerfile}\n{dockerfile}.dockerignore\n"
        yield file_entry(f"{dockerfile}.dockerignore", text + own.encode(), 0o600)
        yield file_entry(dockerfile, outside, 0o600)
    yield END


def _from_stdin(dockerfile: str) -> BuildContext:
    """An archive as it comes, or a Dockerfile alone."""
    source = sys.stdin.buffer
    start = source.read(512)
    if not start:
        raise Failure("unable to prepare context: context from stdin is empty")
    if start.startswith(_ARCHIVES) or start[257:262] == b"ustar":
        return BuildContext(dockerfile, _rest(start, source))
    if dockerfile:
        raise Failure("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    data = start + stdin_dockerfile()
    return BuildContext("Dockerfile", iter([file_entry("Dockerfile", data), END]))


def _rest(start: bytes, source: BinaryIO) -> Iterator[bytes]:
    yield start
    while data := source.read(_CHUNK):
        yield data
