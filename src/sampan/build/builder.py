"""One build from start to end: Dockerfile, plan, execution, tags."""

from __future__ import annotations

import threading

from sampan.build.model import BuildRequest
from sampan.build.worker import Report, Worker
from sampan.oci.digest import Digest
from sampan.storage.metadata import Metadata


class Builder:
    def __init__(self, worker: Worker, metadata: Metadata) -> None:
        self._worker = worker
        self._metadata = metadata

    def build(
        self, request: BuildRequest, context_fd: int, report: Report, cancelled: threading.Event
    ) -> Digest:
        """Build the image and tag it; its id.

        `context_fd` is a directory descriptor of the unpacked context; it stays the caller's. Blocks;
        `report` is called from this thread. Raises `DockerfileError`, `RunFailed` (with `exit_code`), `BuildCancelled`,
        `NotFound`, `Invalid`, ...; nothing half-made remains then.
        """
        raise NotImplementedError
