"""Many builds at once, a third of which fail and a third of which are given up: afterwards nothing of them is left."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from sampan.testing.belongings import belongings, grown

pytestmark = pytest.mark.root

COUNT = 48
AT_ONCE = 8
SHARED = """\
FROM busybox AS one
RUN --mount=type=cache,target=/k echo $$ >> /k/all && head -c 300000 /dev/zero > /big
FROM busybox AS two
WORKDIR /two
COPY files /two/
RUN --mount=type=bind,source=files,target=/f,rw --mount=type=tmpfs,target=/t cp /f/* /t && rm /f/*
FROM busybox
COPY --from=one /big /
COPY --link --from=two /two /two
ARG N
RUN --mount=from=two,target=/m echo $N > /n && ls /m > /dev/null
"""
ENDS = {
    "done": "RUN echo $N >> /n\n",
    "failed": "RUN echo $N >> /n && exit 3\n",
    "refused": "COPY --from=two /nowhere /\n",
    "given up": "RUN echo under-way-$N; sleep 1000\n",
}


def _context(kind: str) -> bytes:
    files = {"Dockerfile": SHARED + ENDS[kind], **{f"files/{number}": str(number) for number in range(20)}}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def _lines(answer: requests.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines(chunk_size=1):
        if line:
            yield json.loads(line)


def _build(sampan: Any, number: int) -> str:
    """How it ended, by what the engine told."""
    kind = list(ENDS)[number % len(ENDS)]
    query = {
        "t": "leak:1",
        "buildargs": json.dumps({"N": str(number)}),
        "nocache": "1" if number % 5 == 0 else "0",
        "progress": "rawjson" if number % 2 else "",
    }
    api = sampan.api.api
    with api._post(api._url("/build"), params=query, data=_context(kind), stream=True) as answer:
        for message in _lines(answer):
            if f"under-way-{number}" in str(message.get("stream", "")):
                break
            if "error" in message:
                return "failed" if "non-zero code: 3" in message["error"] else "refused"
            if message.get("aux", {}).get("ID"):
                return "done"
            if kind == "given up" and message.get("logs"):
                break
        else:
            pytest.fail(f"build {number} ended without a word")
    return "given up"


def test_of_builds_that_end_failed_or_were_given_up_nothing_is_left(
    fresh_sampan: Any, find_problems: Callable[[Any], list[str]], wait_until_empty: Callable[..., None]
) -> None:
    sampan = fresh_sampan

    def clear() -> None:
        wait_until_empty(lambda: find_problems(sampan), "inconsistent")
        sampan.ok("rmi", "leak:1")
        sampan.ok("image", "prune", "-f")
        sampan.ok("builder", "prune", "-af")

    assert [_build(sampan, number) for number in range(len(ENDS))] == list(ENDS)
    clear()
    before = belongings(sampan.engine)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda number: _build(sampan, number), range(COUNT)))
    assert ends == list(ENDS) * (COUNT // len(ENDS))
    clear()
    # What went into steps is kept for explanations; connections of the client and threads of the pool stay for a while.
    allowed = {
        "rows of build_inputs": 10**6,
        "descriptors of the daemon": 2 * AT_ONCE,
        "threads of the daemon": 2 * AT_ONCE,
    }
    wait_until_empty(lambda: grown(before, belongings(sampan.engine), allowed), "left over")
    assert "Traceback" not in sampan.engine.log.read_text(errors="replace")
