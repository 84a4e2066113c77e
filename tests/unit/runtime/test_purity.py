from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

_IMPURE = {"os", "socket", "subprocess", "ctypes", "signal", "time", "select", "fcntl", "pathlib"}


@pytest.mark.parametrize(
    "name", ["plan", "steps", "options", "limits", "defaultspec", "messages", "refusals", "statistics"]
)
def test_what_decides_does_not_act(name: str) -> None:
    found = find_spec(f"sampan.runtime.{name}")
    assert found is not None
    assert found.origin is not None
    imported: set[str] = set()
    for node in ast.walk(ast.parse(Path(found.origin).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert imported & _IMPURE == set()
