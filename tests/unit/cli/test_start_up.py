"""Start-up time is kept by what is imported: the modules of the hot paths are held against a list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# What every command may load beyond the bare interpreter.
COMMON = {
    "_json",
    "_socket",
    "sampan",
    "sampan.cli",
    "sampan.cli.catalog",
    "sampan.cli.commands",
    "sampan.cli.failure",
    "sampan.cli.flags",
    "sampan.cli.main",
    "sampan.cli.units",
    "sampan.client",
    "sampan.client.address",
    "sampan.client.api",
    "sampan.client.codec",
    "sampan.client.connection",
    "sampan.errors",
    "__future__",
}
LISTING = {"sampan.cli.listing", "sampan.cli.table", "sampan.cli.template_functions"}
HOT = {
    "version": LISTING | {"sampan.cli.commands.version"},
    "ps -a": LISTING | {"sampan.cli.commands.ps"},
    "run -d --name x -p 80:80 -v a:/b busybox true": {
        "sampan.cli.commands.run",
        "sampan.cli.create",
        "sampan.cli.create.body",
        "sampan.cli.create.checks",
        "sampan.cli.create.flags",
        "sampan.cli.create.ports",
        "sampan.cli.create.texts",
    },
}
PROBE = """
import sys
before = set(sys.modules)
from sampan.cli.main import main
status = main(sys.argv[1:])
loaded = set(sys.modules) - before
import json
print(json.dumps([status, sorted(loaded)]))
"""


@pytest.mark.parametrize("line", HOT)
def test_a_hot_path_loads_only_what_it_needs(fake_engine: Path, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, "--host", f"unix://{fake_engine}", *line.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert set(loaded) <= COMMON | HOT[line]


SLOW = {"collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "json", "re", "typing"}
"""Each of them brings others along, and costs more than all that a build loads of ours."""


def test_a_build_of_a_directory_loads_nothing_that_is_slow(fake_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    line = ["--host", f"unix://{fake_engine}", "build", "-q", "-t", "some/app:1", str(tmp_path)]
    done = subprocess.run([sys.executable, "-I", "-c", PROBE, *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert not SLOW & set(loaded)
