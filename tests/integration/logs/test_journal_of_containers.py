"""Containers that log to a real journald, read back from the local copy or, without one, from the journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

SCRIPT = Path(__file__).with_name("journal_in_engine.py")


def test_a_container_without_a_local_copy_is_read_back_from_the_journal(
    journald: Any, tmp_path: Path
) -> None:
    # In the mount namespace in which that journald's socket and journal are where the driver and journalctl look.
    pid = journald.run.parts[2]
    source = SCRIPT.parents[3] / "src"
    done = subprocess.run(
        ["nsenter", f"--mount=/proc/{pid}/ns/mnt", sys.executable, str(SCRIPT), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == {
        "followed": ["one\n", "got it\n", ""],
        "errors": "two\n",
        "stored": "one\ngot it\n",
        "tail": "got it\n",
        "cached": "copy\n",
        "copy": ["container-cached.log"],
    }
