"""kill -9 of the daemon at twenty moments of a build: what was finished is used again, and nothing else is left."""

from __future__ import annotations

import io
import json
import random
import tarfile
import threading
import time
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.root

MOMENTS = 20
DOCKERFILE = """\
FROM busybox AS one
ARG N
RUN --mount=type=cache,target=/cache echo $N > /one && head -c 3000000 /dev/zero > /big
FROM busybox AS two
ARG N
WORKDIR /two
RUN echo $N > /two/file; mkdir -p /two/a/b; ln /two/file /two/link
FROM busybox
ARG N
COPY data /data
COPY --from=one /one /big /out/
COPY --link --from=two /two /two
RUN --mount=type=tmpfs,target=/scratch rm -r /data/d1 && echo $N > /three
"""


def _context(number: int) -> bytes:
    files = {"Dockerfile": DOCKERFILE, **{f"data/d{one}/f": f"{number} {one}\n" * 50 for one in range(30)}}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


class _Build:
    """A build under way; `steps`: name -> its last vertex, as far as the client was told."""

    def __init__(self, sampan: Any, number: int) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        self.result = ""
        self.error = ""
        self._sampan = sampan
        self._number = number
        self.lines = 0
        self._heard = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        api = self._sampan.api.api
        query = {"progress": "rawjson", "t": "killed:1", "buildargs": json.dumps({"N": str(self._number)})}
        try:
            answer = api._post(
                api._url("/build"), params=query, data=_context(self._number), stream=True, timeout=60
            )
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    self._hear(json.loads(line))
        except (requests.RequestException, ValueError):
            return  # the daemon was killed, maybe in the middle of a line
        finally:
            with self._heard:
                self._over = True
                self._heard.notify()

    def _hear(self, line: dict[str, Any]) -> None:
        with self._heard:
            self.lines += 1
            self._heard.notify()
        for vertex in line.get("vertexes", []):
            if not vertex["name"].startswith(("[internal]", "exporting")) and "FROM" not in vertex["name"]:
                self.steps[vertex["name"]] = vertex
        self.result = line.get("aux", {}).get("ID", self.result)
        self.error = line.get("error", self.error)

    def wait_for(self, lines: int) -> None:
        """Until the engine has told so much."""
        with self._heard:
            assert self._heard.wait_for(lambda: self._over or self.lines >= lines, 30)

    def end(self) -> _Build:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self

    def finished(self) -> set[str]:
        return {
            name for name, vertex in self.steps.items() if vertex.get("completed") and not vertex.get("error")
        }

    def cached(self) -> set[str]:
        return {name for name, vertex in self.steps.items() if vertex.get("cached")}


def test_a_build_killed_at_any_moment_goes_on_where_it_was(
    fresh_sampan: Any, find_problems: Any, wait_until_empty: Any
) -> None:
    sampan = fresh_sampan
    _Build(sampan, 0).end()
    begun = time.monotonic()
    whole = _Build(sampan, 1).end()
    duration = time.monotonic() - begun
    assert whole.result, whole.error
    assert len(whole.finished()) == 7
    chance = random.Random(4)
    interrupted = 0
    for moment in range(MOMENTS):
        number = 2 + moment
        build = _Build(sampan, number)
        build.wait_for(whole.lines * moment // MOMENTS)
        threading.Event().wait(duration * chance.random() / MOMENTS)
        sampan.engine.kill()
        interrupted += not build.end().result
        sampan.engine.start()
        again = _Build(sampan, number).end()
        assert again.result, (moment, again.error)
        assert build.finished() <= again.cached(), moment
    assert interrupted >= MOMENTS // 2, "too few builds were under way when the daemon was killed"
    wait_until_empty(lambda: find_problems(sampan), "inconsistent")
    last = sampan.ok("run", "--rm", "killed:1", "sh", "-c", "cat /out/one /two/link /three; ls /data | wc -l")
    assert last.split() == [str(MOMENTS + 1)] * 3 + ["29"]
    # What is here is one build like any other: nothing is left of the interrupted ones but their cache.
    sampan.ok("rmi", "killed:1")
    sampan.ok("image", "prune", "-af")
    sampan.ok("builder", "prune", "-af")
    assert list((sampan.engine.root / "snapshots").iterdir()) == []
    assert list((sampan.engine.root / "layers").iterdir()) == []
    assert list((sampan.engine.root / "builds").iterdir()) == []
