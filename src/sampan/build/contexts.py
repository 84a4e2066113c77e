"""Contexts of a build that are no image: how directories, Git repositories and archives become files to copy from."""

from __future__ import annotations

import threading
from typing import Protocol

from sampan.build.files.context import Context
from sampan.build.worker import TransferReport
from sampan.errors import Unsupported


class ContextOpener(Protocol):
    """Of one build. Thread-safe: stages ask at the same time, though for a name only once."""

    def open_context(
        self, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Context:
        """The files of `--build-context NAME=VALUE`; the caller closes the descriptor.

        `value` as the client sent it: a URL (http, https, git), or what the client's session knows by `name`. Files of
        the engine's own stay as they are until the build has ended; the context's `.dockerignore` is applied by the
        caller. `report` hears
        of downloads. Raises `NotFound`, `Invalid`, `Unavailable`, `Unsupported`, `BuildCancelled`.
        """
        ...


class NoContexts:
    """For builds whose named contexts can be images only."""

    def open_context(
        self, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Context:
        raise Unsupported(
            f"the build context {name}={value} is not supported", hint="docker-image://IMAGE is"
        )
