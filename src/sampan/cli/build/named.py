"""`--build-context NAME=VALUE`: further contexts of a build, by their names."""

from __future__ import annotations

import os

from sampan.cli.build_context import ContextDirectory, directory_tar
from sampan.cli.failure import Failure
from sampan.client.codec import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.multiplex.link import Stream

_SCHEMES = ("docker-image://", "https://", "http://", "git://", "ssh://", "git@")


def named_contexts(values: list[str]) -> dict[str, str]:
    """By name what the engine opens by itself, or where a directory is. Raises `Failure`."""
    return {name: value if path == "" else _found(path) for name, value, path in _parsed(values)}


def context_offers(values: list[str]) -> dict[tuple[str, str], Callable[[Stream], None]]:
    """What the session gives of directories, for an engine that can't read them where they are."""
    return {("context", name): Directory(path).serve for name, _, path in _parsed(values) if path}


def _parsed(values: list[str]) -> Iterator[tuple[str, str, str]]:
    """Name, value, and the path of a directory, "" for what is none."""
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Failure(f"invalid context value: {text}, expected key=value")
        if value.startswith(_SCHEMES):
            yield name, value, ""
            continue
        if value.startswith("oci-layout://"):
            raise Failure(f"the build context {name}={value} is not supported: load it as an image")
        path = os.path.realpath(value)
        if not os.path.isdir(path):
            words = "not a directory" if os.path.exists(path) else "no such file or directory"
            raise Failure(f"failed to get build context {name}: stat {value}: {words}")
        yield name, value, path


def _found(path: str) -> str:
    return "directory:" + dumps(ContextDirectory(path, "", None).named())


class Directory:
    """Sends itself as a tar, without what its `.dockerignore` names."""

    def __init__(self, path: str) -> None:
        self._path = path

    def serve(self, stream: Stream) -> None:
        for piece in directory_tar(self._path):
            stream.write(piece)
        stream.end()
