"""Who may know whom inside the builder, and which of its modules are pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sampan.build

_FOLDER = Path(sampan.build.__file__).parent
_PURE = [
    "errors",
    "events",
    "model",
    *(f"dockerfile/{path.stem}" for path in sorted((_FOLDER / "dockerfile").glob("*.py"))),
    *(f"attest/{name}" for name in ("options", "packages", "provenance", "spdx", "statement")),
    "files/owners",
    "files/placement",
    "solver/progress",
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
            short = name.removeprefix("sampan.build.").replace(".", "/")
            if name.startswith("sampan.build.") and short not in found:
                found.add(short)
                pending.append(short)
    return found


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("dockerfile/parse", {"dockerfile/plan", "dockerfile/instructions", "worker"}),
        ("dockerfile/plan", {"dockerfile/parse", "worker"}),
        ("dockerfile/instructions", {"dockerfile/parse", "dockerfile/plan", "worker"}),
        (
            "solver/execute",
            {"dockerfile/parse", "dockerfile/plan", "dockerfile/instructions", "solver/builder"},
        ),
    ],
)
def test_parsing_planning_and_executing_do_not_know_each_other(module: str, strangers: set[str]) -> None:
    assert _reached(module) & strangers == set()


@pytest.mark.parametrize("package", ["dockerfile", "files", "fetch"])
def test_only_the_solver_knows_the_other_parts(package: str) -> None:
    others = {"dockerfile", "files", "fetch", "solver"} - {package}
    for path in (_FOLDER / package).glob("*.py"):
        reached = {name.partition("/")[0] for name in _reached(f"{package}/{path.stem}")}
        assert reached & others == set(), path.name


@pytest.mark.parametrize("module", _PURE)
def test_deciding_modules_touch_nothing_outside(module: str) -> None:
    assert _imports(module) & _IMPURE_IMPORTS == set()
