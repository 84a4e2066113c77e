"""Contexts of a build that are no image: how directories, Git repositories and archives become files to copy from."""

from __future__ import annotations

import threading
from typing import Protocol

from sampan.build.worker import TransferReport
from sampan.errors import Unsupported


class ContextOpener(Protocol):
    """Of one build. Thread-safe: stages ask at the same time, though for a name only once."""

    def open_context(self, name: str, value: str, report: TransferReport, cancelled: threading.Event) -> int:
        """A directory descriptor of the files of `--build-context NAME=VALUE`; the caller closes it.

        `value` as the client sent it: a URL (http, https, git), or what the client's session knows by `name`. The
        files stay as they are until the build has ended; their `.dockerignore` is applied by the caller. `report` hears
        of downloads. Raises `NotFound`, `Invalid`, `Unavailable`, `Unsupported`, `BuildCancelled`.
        """
        ...


class NoContexts:
    """For builds whose named contexts can be images only."""

    def open_context(self, name: str, value: str, report: TransferReport, cancelled: threading.Event) -> int:
        raise Unsupported(
            f"the build context {name}={value} is not supported", hint="docker-image://IMAGE is"
        )
