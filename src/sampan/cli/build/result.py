"""What a build leaves for scripts: the ID in a file, and what came out as JSON with BuildKit's keys."""

from __future__ import annotations

import os

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Result:
    """What the engine said of the result; `remember` takes the `aux` messages of its stream."""

    __slots__ = ("id", "response")

    def __init__(self) -> None:
        self.id = ""
        self.response: dict[str, Any] | None = None
        """None: the engine says nothing of the kind."""

    def remember(self, value: Any) -> None:
        if isinstance(value, dict):
            self.id = str(value.get("ID") or self.id)
            response = value.get("ExporterResponse")
            if isinstance(response, dict):
                self.response = {**(self.response or {}), **response}

    def metadata(self, tags: list[str]) -> dict[str, Any]:
        """BuildKit's keys; an engine that says no more than an ID gets those that follow from it."""
        if self.response is not None:
            return self.response
        metadata: dict[str, Any] = {}
        if self.id:
            metadata = {"containerimage.config.digest": self.id, "containerimage.digest": self.id}
        if tags:
            from sampan.oci.reference import parse_reference

            names = (str(parse_reference(tag).with_default_tag()) for tag in tags)
            metadata["image.name"] = ",".join(names)
        return metadata


def forget_old(*paths: str) -> None:
    """A build that fails must not leave an earlier one's files behind as if they were its own.

    Raises `Failure`, or `OSError`, for a path that can't be written: better now than when the build is done.
    """
    for path in paths:
        if not path:
            continue
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise Failure(f"open {path}: no such file or directory")
        if os.path.lexists(path):
            os.unlink(path)


def write_iidfile(path: str, result: Result) -> None:
    """Empty when the result is no image, as buildx has it. Raises `Failure` for an engine that says nothing of it."""
    if not path:
        return
    if not result.id and result.response is None:
        raise Failure(f"cannot write {path}: server did not provide an image ID")
    _write(path, result.id)


def write_metadata(path: str, metadata: dict[str, Any]) -> None:
    if not path:
        return
    import json

    _write(path, json.dumps(metadata, indent=2, sort_keys=True))


def _write(path: str, text: str) -> None:
    """The file appears complete, as Docker's and BuildKit's do."""
    from sampan.cli.replacing import Replacing
    from sampan.cli.streams import write_all

    try:
        with Replacing(path) as descriptor:
            write_all(descriptor, text.encode())
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise Failure(f"cannot write {path}: {words}", hint="the build itself has succeeded") from error
