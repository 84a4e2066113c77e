"""Version 2's events of the OOM killer, on plain files: inotify tells of a write as the kernel's notification does."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from sampan.linux.cgroups import detect
from sampan.linux.cgroups.oom_listener import listen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    for name in ("one", "two"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "memory.events").write_text("oom_kill 0\n")
    return tmp_path


def test_the_group_whose_events_change_is_told_of_once(root: Path) -> None:
    listener = listen(detect(root))
    try:
        for name in ("one", "two"):
            listener.add(f"a/{name}")
        assert listener.touched_nowait() == []
        for kills in (1, 2):
            (root / "a" / "two" / "memory.events").write_text(f"oom_kill {kills}\n")
        assert select.select([listener], [], [], 10)[0] == [listener]
        assert listener.touched_nowait() == ["a/two"]
        assert listener.touched_nowait() == []
    finally:
        listener.close()


def test_a_group_that_is_removed_from_the_list_is_not_told_of(root: Path) -> None:
    listener = listen(detect(root))
    try:
        listener.add("a/one")
        listener.remove("a/one")
        listener.remove("never added")
        (root / "a" / "one" / "memory.events").write_text("oom_kill 1\n")
        assert listener.touched_nowait() == []
    finally:
        listener.close()


def test_a_group_that_is_not_there_cannot_be_listened_to(root: Path) -> None:
    listener = listen(detect(root))
    try:
        with pytest.raises(OSError):
            listener.add("a/three")
    finally:
        listener.close()
