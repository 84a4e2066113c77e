"""What has to be true of an engine at rest, whatever happened to it before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def pushed(fresh_sampan: Any, session_registry: Any, tmp_path: Path) -> str:
    """An image of 12 MB that can't be compressed, in the registry only: `team/big:1`."""
    (tmp_path / "noise").write_bytes(os.urandom(12 << 20))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY noise /noise\n")
    name = f"{session_registry.host}/team/big{os.getpid()}-{tmp_path.name.lower()}:1"
    fresh_sampan.ok("build", "-q", "-t", name, str(tmp_path))
    fresh_sampan.ok("push", name)
    fresh_sampan.ok("rmi", name)
    fresh_sampan.ok("builder", "prune", "-af")
    repository: str = name.partition("/")[2]
    return repository
