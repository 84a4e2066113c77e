"""The reference's build arguments that speak to the builder: BUILDKIT_..."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.testing.build_reader import BuildReader
from sampan.testing.fake_worker import FakeTable, FakeWorker

pytestmark = pytest.mark.root


def test_the_host_of_steps_and_the_namespace_of_caches_are_what_build_arguments_say(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "worker")
    worker.add_image("base", {})
    builder = Builder(worker, None, table=FakeTable())
    text = b"FROM base\nRUN --mount=type=cache,target=/c,id=deps write /x x\n"
    said = ""

    def build(**arguments: str) -> None:
        nonlocal said
        reader = BuildReader()
        request = BuildRequest(dockerfile_text=text, build_args=dict(arguments))
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            builder.build(request, Context(fd), reader, threading.Event())
        finally:
            os.close(fd)
        said += reader.text

    build()
    build(BUILDKIT_SANDBOX_HOSTNAME="foo", BUILDKIT_CACHE_MOUNT_NS="team", BUILDKIT_INLINE_CACHE="1")
    build(
        BUILDKIT_SANDBOX_HOSTNAME="foo", BUILDKIT_CACHE_MOUNT_NS="team", BUILDKIT_SYNTAX="docker/dockerfile:1"
    )
    # A step may look at the name of its host: with another one it is another step.
    assert [run.hostname for run in worker.runs] == ["buildkitsandbox", "foo"]
    assert [wish.id for wish in worker.caches] == ["deps", "team/deps"]
    assert "not consumed" not in said
    assert "front end" not in said
    build(BUILDKIT_SYNTAX="other/language:1")
    assert "the front end other/language:1 is not loaded" in said
