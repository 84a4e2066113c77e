"""`make load`: log lines as fast as a container can write them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

ROUNDS = 100
FILE_BYTES = 10_000_000


def lines() -> Iterator[bytes]:
    """`FILE_BYTES` of different lines with what needs escaping in JSON here and there."""
    size = number = 0
    while size < FILE_BYTES:
        line = f'{number:08d} GET /articles?id={number}&x=<{number % 97}> "agent\t{number % 9973}" \\ ü\n'.encode()
        size += len(line)
        number += 1
        yield line


@pytest.fixture
def content() -> bytes:
    return b"".join(lines())


def with_file(content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("lines")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.timeout(900)
def test_a_gigabyte_of_lines_is_recorded_whole_and_in_order(fresh_sampan: Any, content: bytes) -> None:
    sampan = fresh_sampan
    script = f"i=0; while [ $i -lt {ROUNDS} ]; do echo round $i; cat /lines; i=$((i+1)); done"
    options = ["--network", "none", "--log-driver", "json-file", "--log-opt", "max-size=-1"]
    identity = sampan.ok("create", *options, "busybox", "sh", "-c", script)
    sampan.ok("cp", "-", f"{identity}:/", stdin=with_file(content))
    begin = time.monotonic()
    sampan.ok("start", identity)
    assert sampan.ok("wait", identity, timeout=800) == "0"
    seconds = time.monotonic() - begin
    expected = hashlib.sha256()
    for number in range(ROUNDS):
        expected.update(f"round {number}\n".encode())
        expected.update(content)
    found = hashlib.sha256()
    path = Path(sampan.api.api.inspect_container(identity)["LogPath"])
    count = 0
    with open(path, "rb") as log:
        for raw in log:
            found.update(json.loads(raw)["log"].encode())
            count += 1
    assert count == ROUNDS * (content.count(b"\n") + 1)
    assert found.hexdigest() == expected.hexdigest()
    print(f"{ROUNDS * len(content) / 1e6 / seconds:.0f} MB/s of log lines")
