"""COPY, ADD and WORKDIR against results recorded from dockerd (see copy_matrix.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.errors import SampanError
from sampan.testing.fake_worker import FakeTable, FakeWorker

pytestmark = pytest.mark.root

_SPEC = importlib.util.spec_from_file_location("copy_matrix", Path(__file__).with_name("copy_matrix.py"))
assert _SPEC is not None and _SPEC.loader is not None
matrix = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrix)

CASES: dict[str, Any] = json.loads(matrix.RESULTS.read_text())

# Where BuildKit, today's default, differs from the classic builder, sampan does as BuildKit does.
AS_BUILDKIT = {
    "WORKDIR /w\nCOPY a b .": "`.` alone is a directory",
    "COPY a /t/.": "so is `/.` at the end",
    "ADD --chown=7:8 x.tar /t": "--chown counts for unpacked archives too",
    "COPY ../a /t": "a path that climbs ends at the context's root",
    "COPY a b /t": "of several files for what is no directory the last one is left",
    "COPY d/\\* /t": "a directory among the sources makes the destination one",
    "COPY n* /t": "a pattern may match nothing",
    "COPY usr/ /\nCOPY root/ /": "a link to a directory is followed, /lib of a merged /usr is not replaced",
    "USER 5\nWORKDIR /t/u": "a WORKDIR belongs to USER",
}
REWORDED = {"COPY ['a', '/t']"}
"""Refused by both; sampan says that the pattern is malformed."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top: Path = tmp_path_factory.mktemp("matrix") / "context"
    matrix.make_context(top)
    return top


@pytest.mark.parametrize("case", [case for case in CASES if case not in AS_BUILDKIT])
def test_files_land_as_with_dockerd(case: str, context: Path, tmp_path: Path) -> None:
    expected = CASES[case]
    result = _build(case, context, tmp_path)
    if isinstance(expected, str):
        assert isinstance(result, str)
        assert expected in ("", result) or case in REWORDED
        return
    assert _comparable(result) == _comparable(expected)


@pytest.mark.parametrize("case", list(AS_BUILDKIT))
def test_buildkits_way_is_taken_where_the_two_differ(case: str, context: Path, tmp_path: Path) -> None:
    result = _build(case, context, tmp_path)
    assert isinstance(result, dict)
    found = {name: row[:3] for name, row in result.items()}
    if case == "COPY n* /t":
        assert found == {}
        return
    expected = {
        "COPY ../a /t": ("t", ["file", "644", "0:0"]),
        "COPY a b /t": ("t", ["file", "644", "0:0"]),
        "COPY a /t/.": ("t/a", ["file", "644", "0:0"]),
        "COPY d/\\* /t": ("t/y", ["file", "644", "0:0"]),
        "WORKDIR /w\nCOPY a b .": ("w/b", ["file", "644", "0:0"]),
        "ADD --chown=7:8 x.tar /t": ("t/td/tf", ["file", "600", "7:8"]),
        "COPY usr/ /\nCOPY root/ /": ("usr/lib/y", ["file", "644", "0:0"]),
        "USER 5\nWORKDIR /t/u": ("t/u", ["dir", "755", "5:5"]),
    }[case]
    assert found[expected[0]] == expected[1]


def _build(case: str, context: Path, tmp_path: Path) -> dict[str, list[Any]] | str:
    worker = FakeWorker(tmp_path / "worker")
    request = BuildRequest(dockerfile_text=f'FROM scratch\n{case}\nCMD ["x"]\n'.encode())
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY)
    try:
        image = Builder(worker, None, table=FakeTable()).build(
            request, Context(fd), lambda event: None, threading.Event()
        )
    except SampanError as error:
        return error.message
    finally:
        os.close(fd)
    listing: dict[str, list[Any]] = matrix.list_tree(worker.tree(image))
    return listing


def _comparable(listing: dict[str, list[Any]] | str) -> dict[str, list[Any]]:
    """Without what differs for known reasons: times of links and of directories that dockerd's client did not
    send; the set-uid bit, which the classic builder loses and BuildKit keeps.
    """
    assert isinstance(listing, dict)
    rows: dict[str, list[Any]] = {}
    for name, row in listing.items():
        row = list(row)
        if row[0] in ("link", "dir"):
            row[4] = ""
        if name.rpartition("/")[2] == "set" or row[1:2] == ["4755"]:
            row[1] = "755"
        rows[name] = row
    return rows
