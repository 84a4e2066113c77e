from __future__ import annotations

from pathlib import Path

import pytest

from sampan.oci.spec import Capabilities, Process
from sampan.runtime.execute import capability_masks, environment_of, find_program
from sampan.runtime.failure import ExecFailed
from sampan.runtime.users import ResolvedUser

CHOWN, KILL, SYS_RESOURCE = 1 << 0, 1 << 5, 1 << 24


def test_capabilities_that_can_not_be_had_are_left_out() -> None:
    names = ("CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_NOT_KNOWN_HERE")
    masks = capability_masks(Capabilities(names, names, (), names, ()), CHOWN | KILL)
    assert (masks.bounding, masks.permitted, masks.effective) == (CHOWN, CHOWN, CHOWN)


def test_ambient_capabilities_are_permitted_and_inheritable_ones() -> None:
    both = ("CAP_CHOWN", "CAP_KILL")
    masks = capability_masks(Capabilities(both, both, ("CAP_KILL",), both, both), CHOWN | KILL | SYS_RESOURCE)
    assert masks.ambient == KILL


def test_no_capabilities_are_none_at_all() -> None:
    masks = capability_masks(None, CHOWN)
    assert (masks.bounding, masks.effective, masks.permitted) == (0, 0, 0)


def test_the_last_of_equal_names_wins_and_home_is_added() -> None:
    process = Process("/", env=("A=1", "A=2", "B", "=x", "C="))
    environment = environment_of(process, ResolvedUser(0, 0, (), "/root"))
    assert environment == {"A": "2", "C": "", "HOME": "/root"}
    given = environment_of(Process("/", env=("HOME=/else",)), ResolvedUser(0, 0, (), "/root"))
    assert given["HOME"] == "/else"


def test_a_program_is_looked_for_in_the_path_and_directories_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a/tool").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tool").write_text("")
    with pytest.raises(ExecFailed, match="not found in"):
        find_program("tool", f"{tmp_path}/a:{tmp_path}/b")
    (tmp_path / "b/tool").chmod(0o755)
    assert find_program("tool", f"{tmp_path}/a:{tmp_path}/b") == f"{tmp_path}/b/tool"


@pytest.mark.parametrize("name", ["", "tool"])
def test_without_a_path_nothing_is_found(name: str) -> None:
    with pytest.raises(ExecFailed) as caught:
        find_program(name, "")
    assert caught.value.exit_code == 127
