"""Removing trees while somebody else removes them too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.storage import removal
from sampan.storage.removal import remove_tree


@pytest.mark.parametrize("gone_at", range(12))
def test_a_tree_that_another_removes_meanwhile_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone_at: int
) -> None:
    """The other does all of it at one call to the kernel, whichever."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("")
    (tree / "c").mkdir()
    calls = 0

    class Meddling:
        """`os`, with the other at work before the call of that number."""

        def __getattr__(self, name: str) -> object:
            nonlocal calls
            if name in ("unlink", "open", "listdir", "rmdir", "stat"):
                if calls == gone_at:
                    for found in sorted(tree.rglob("*"), reverse=True):
                        found.rmdir() if found.is_dir() else found.unlink()
                    tree.rmdir()
                calls += 1
            return getattr(os, name)

    monkeypatch.setattr(removal, "os", Meddling())
    remove_tree(tree)
    assert calls > gone_at
    assert not tree.exists()
