"""Whole builds over plain directories: a context, a worker and a builder that keep their state from build to build."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from sampan.build.contexts import ContextOpener
from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.build.solver.inputs import InputsStore
from sampan.oci.digest import Digest
from sampan.testing.build_reader import BuildReader
from sampan.testing.fake_worker import FakeTable, FakeWorker, Runner, run_script

BASE_FILES = {"/etc/passwd": "web:x:33:44::/:/bin/sh\n", "/etc/group": "ops:x:55:\n"}


class BuildBench:
    """`base` is an image with `BASE_FILES`; `runner` does what RUN says. Owners are set, which takes root."""

    def __init__(self, top: Path, runner: Runner = run_script) -> None:
        self.context = top / "context"
        self.context.mkdir()
        self.worker = FakeWorker(top / "worker", runner)
        self.worker.add_image("base", BASE_FILES)
        self.table = FakeTable()
        self.inputs = FakeTable()
        self.builder = Builder(self.worker, None, table=self.table, inputs=InputsStore(self.inputs))
        self.reader = BuildReader()
        """Has heard the last build."""
        self.cancelled = threading.Event()
        self.opener: ContextOpener | None = None

    def file(self, path: str, text: str = "text", mode: int = 0o644) -> Path:
        target = self.context / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def build(self, dockerfile: str, **options: object) -> Digest:
        """`options`: fields of the `BuildRequest`. The image's id; raises as the builder does."""
        self.reader = BuildReader()
        request = BuildRequest(dockerfile_text=dockerfile.encode(), **options)  # type: ignore[arg-type]
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self.builder.build(request, Context(fd), self.reader, self.cancelled, opener=self.opener)
        finally:
            os.close(fd)

    def tree(self, dockerfile: str, **options: object) -> Path:
        """The whole file system of the image."""
        return self.worker.tree(self.build(dockerfile, **options))

    @property
    def text(self) -> str:
        """What the last build has said to Docker's classic client."""
        return self.reader.text


def paths(tree: Path, below: str) -> list[str]:
    """All that is there, sorted, relative to `below`."""
    top = tree / below.lstrip("/")
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))
