"""`sampan-runtime` is started for every step of a container's life: what small commands load is held against a list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "subprocess",
    "shutil",
    "hashlib",
    "typing_extensions",
    "sampan.runtime.creation",
    "sampan.runtime.init",
    "sampan.runtime.shim",
    "sampan.runtime.hooks",
    "sampan.linux.seccomp_compiler",
}
PROBE = """
import json, sys
from sampan.runtime.cli import main
main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("command", [["state", "none"], ["kill", "none"], ["start", "none"], ["list"]])
def test_small_commands_load_nothing_that_makes_containers(command: list[str], tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-c", PROBE, "--root", str(tmp_path), *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert HEAVY & set(json.loads(done.stdout.splitlines()[-1])) == set()
