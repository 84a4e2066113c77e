"""How a build ends when something else ends it: what is told is the reason, and not what followed from it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sampan.build.model import BuildRequest
from sampan.build.worker import Report
from sampan.engine import build_job
from sampan.engine.build_cache import BuildCacheKeeper
from sampan.engine.build_job import Tools, _together, _Told
from sampan.engine.builds import Builds, MakeTools
from sampan.engine.cache_use import CacheUse
from sampan.engine.containers.build_steps import _copy_output
from sampan.errors import Conflict, Internal, Unavailable
from sampan.oci.digest import Digest
from sampan.runtime.shim_client import ShimClient

Build = Callable[[Any, BuildRequest, Report, threading.Event], Digest]


class _Builder:
    def another(self) -> _Builder:
        return self


def test_of_several_platforms_the_first_failure_is_the_reason() -> None:
    """A pull for another platform that was told to stop ends with an error of its own."""
    other_is_at_work = threading.Event()

    def build(_builder: object, request: BuildRequest, _report: Report, stop: threading.Event) -> Digest:
        if request.platform == "linux/arm64":
            assert other_is_at_work.wait(10)
            raise Conflict("the reason")
        other_is_at_work.set()
        while not stop.is_set():
            threading.Event().wait(0.01)
        raise Internal("cancelled")

    platforms = ("linux/amd64", "linux/arm64")
    assert len(platforms) <= build_job.MAX_PLATFORMS
    request = BuildRequest(platforms=platforms)
    tools = cast(Tools, type("Tools", (), {"builder": _Builder()})())
    told = _Told(lambda _: None)
    reports = [told.of(platform, number) for number, platform in enumerate(platforms)]
    with pytest.raises(Conflict, match="the reason"):
        _together(tools, request, request, told, reports, build, threading.Event())


class _EndedShim:
    def __init__(self) -> None:
        self.events, self._other = socket.socketpair()
        self.killed = 0

    def fileno(self) -> int:
        return self.events.fileno()

    def kill(self, number: int) -> None:
        assert number == signal.SIGKILL
        self.killed += 1
        self._other.close()
        raise Conflict("the process has ended")


def test_a_step_that_ends_while_it_is_killed_is_no_error() -> None:
    shim = _EndedShim()
    cancelled = threading.Event()
    cancelled.set()
    read_end, write_end = os.pipe()
    said: list[bytes] = []
    try:
        os.write(write_end, b"last words")
        _copy_output([read_end], cast(ShimClient, shim), lambda _, data: said.append(data), cancelled)
        assert (b"".join(said), shim.killed) == (b"last words", 1)
    finally:
        os.close(read_end)
        os.close(write_end)
        shim.events.close()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/b/c"), Unavailable, "no space left on device"),
        (OSError(errno.EIO, "Input/output error"), Internal, "Input/output error"),
        (RecursionError("too deep"), Internal, "see the daemon's log"),
        (ConnectionResetError("the client has left"), ConnectionResetError, "the client has left"),
        (Conflict("as it is"), Conflict, "as it is"),
    ],
)
def test_what_goes_wrong_outside_of_any_step_ends_the_events_with_words(
    tmp_path: Path, error: Exception, kind: type[Exception], words: str
) -> None:
    """Anything else would cut off the client's stream, without a word."""

    async def main() -> None:
        cache = cast(BuildCacheKeeper, _Cache())
        builds = Builds(
            tmp_path / "builds",
            tmp_path / "small",
            lambda: _no_tools(error),
            cache,
            lambda: contextlib.nullcontext(lambda _layers: None),
        )
        async for _ in builds.build(BuildRequest(), None, {}):
            pass

    with pytest.raises(kind, match=words):
        asyncio.run(main())


def _no_tools(error: Exception) -> MakeTools:
    def make(*_: object) -> Tools:
        raise error

    return make


class _Cache:
    def __init__(self) -> None:
        self.use = CacheUse()
