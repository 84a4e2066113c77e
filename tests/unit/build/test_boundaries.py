"""Who may know whom inside the builder, and which of its modules are pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sampan.build

_FOLDER = Path(sampan.build.__file__).parent
_PURE = [
    *(
        "check",
        "errors",
        "expand",
        "instructions",
        "lines",
        "model",
        "mounts",
        "owners",
        "parse",
        "placement",
    ),
    *("plan", "ports", "progress", "state", "timespan"),
]
_IMPURE_IMPORTS = {"os", "socket", "subprocess", "ctypes", "threading", "tempfile", "shutil", "fcntl"}


def _imports(module: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((_FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _reached(module: str) -> set[str]:
    """The modules of the builder that `module` imports, directly or not."""
    pending, found = [module], set()
    while pending:
        for name in _imports(pending.pop()):
            short = name.removeprefix("sampan.build.")
            if short != name and short not in found:
                found.add(short)
                pending.append(short)
    return found


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("parse", {"plan", "instructions", "execute", "builder", "worker"}),
        ("plan", {"parse", "execute", "builder", "worker"}),
        ("instructions", {"parse", "plan", "execute", "builder", "worker"}),
        ("execute", {"parse", "plan", "instructions", "builder", "check"}),
    ],
)
def test_parsing_planning_and_executing_do_not_know_each_other(module: str, strangers: set[str]) -> None:
    assert _reached(module) & strangers == set()


@pytest.mark.parametrize("module", _PURE)
def test_deciding_modules_touch_nothing_outside(module: str) -> None:
    assert _imports(module) & _IMPURE_IMPORTS == set()
