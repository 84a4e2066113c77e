"""Images and cache taken away from under a build, and builds that want the same step at the same time."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

pytestmark = pytest.mark.root

GATED = (
    "RUN --mount=type=cache,id=gate,target=/g "
    "echo x >> /g/begun; echo under-way; until [ -e /g/open ]; do sleep 0.05; done; wc -l < /g/begun > /count\n"
)
"""Runs until the gate is open; the number of times that it was begun stays."""


def _start(sampan: Any, text: str, *flags: str) -> subprocess.Popen[bytes]:
    client: subprocess.Popen[bytes] = sampan.start("build", *flags, "-", stderr=subprocess.STDOUT)
    assert client.stdin is not None
    client.stdin.write(text.encode())
    client.stdin.close()
    client.stdin = None
    return client


def _read_until(client: subprocess.Popen[bytes], line: bytes) -> None:
    assert client.stdout is not None
    said = []
    for each in client.stdout:
        said.append(each)
        if each.rstrip().endswith(line):
            return
    pytest.fail(f"the build ended without {line!r}: {said}")


def _open_gate(sampan: Any) -> None:
    text = b"FROM busybox\nRUN --mount=type=cache,id=gate,target=/g touch /g/open\n"
    sampan.ok("build", "-q", "--no-cache", "-", stdin=text)


def _succeeds(client: subprocess.Popen[bytes]) -> None:
    out = client.communicate(timeout=60)[0]
    assert client.returncode == 0, out


def test_what_a_build_stands_on_outlives_its_removal(fresh_sampan: Any, find_problems: Any) -> None:
    sampan = fresh_sampan
    sampan.ok("build", "-q", "-t", "below", "-", stdin=b"FROM busybox\nRUN head -c 100000 /dev/zero > /own\n")
    text = f"FROM below\n{GATED}COPY --from=below /own /copy\nRUN wc -c < /own > /size\n"
    client = _start(sampan, text, "-t", "above")
    _read_until(client, b"under-way")
    sampan.ok("rmi", "below", "busybox")
    sampan.ok("builder", "prune", "-af")
    assert sampan.ok("images", "-q") == ""
    sampan.import_busybox()
    _open_gate(sampan)
    _succeeds(client)
    assert sampan.ok("run", "--rm", "above", "cat", "/size", "/count").split() == ["100000", "1"]
    assert find_problems(sampan) == []


def test_a_step_that_two_builds_want_is_done_once_or_taken_over(
    fresh_sampan: Any, find_problems: Any
) -> None:
    sampan = fresh_sampan
    first = _start(sampan, f"FROM busybox\n{GATED}LABEL a=1\n", "-t", "first")
    _read_until(first, b"under-way")
    second = _start(sampan, f"FROM busybox\nLABEL b=1\n{GATED}", "-t", "second")
    _read_until(second, b"open ]; do sleep 0.05; done; wc -l < /g/begun > /count")
    _open_gate(sampan)
    for client in (first, second):
        _succeeds(client)
    for name in ("first", "second"):
        assert sampan.ok("run", "--rm", name, "cat", "/count") == "1"

    # The one that does the step is given up: the other does it.
    sampan.ok("rmi", "first", "second")
    sampan.ok("builder", "prune", "-af")
    first = _start(sampan, f"FROM busybox\n{GATED}")
    _read_until(first, b"under-way")
    second = _start(sampan, f"FROM busybox\n{GATED}", "-t", "second")
    _read_until(second, b"open ]; do sleep 0.05; done; wc -l < /g/begun > /count")
    first.kill()
    first.communicate()
    _read_until(second, b"under-way")
    _open_gate(sampan)
    _succeeds(second)
    assert sampan.ok("run", "--rm", "second", "cat", "/count") == "2"
    assert find_problems(sampan) == []
