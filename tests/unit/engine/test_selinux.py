"""Labels as Docker makes them; the policy's files are those of Fedora's container-selinux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.engine import selinux
from sampan.engine.config import HostConfig
from sampan.errors import Invalid, Unsupported

CONTEXTS = selinux.Contexts("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")
LEVEL = "s0:c5,c700"


def test_a_containers_labels_are_the_policys_with_a_level_of_its_own() -> None:
    assert selinux.labels(CONTEXTS, (), LEVEL) == (
        f"system_u:system_r:container_t:{LEVEL}",
        f"system_u:object_r:container_file_t:{LEVEL}",
    )


@pytest.mark.parametrize(
    ("option", "process", "mount"),
    [
        ("disable", "", f"system_u:object_r:container_file_t:{LEVEL}"),
        ("type:spc_t", f"system_u:system_r:spc_t:{LEVEL}", f"system_u:object_r:container_file_t:{LEVEL}"),
        (
            "level:s0:c1,c2",
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        ("user:u", f"u:system_r:container_t:{LEVEL}", f"u:object_r:container_file_t:{LEVEL}"),
        ("role:r", f"system_u:r:container_t:{LEVEL}", f"system_u:object_r:container_file_t:{LEVEL}"),
        ("filetype:f_t", f"system_u:system_r:container_t:{LEVEL}", f"system_u:object_r:f_t:{LEVEL}"),
    ],
)
def test_label_options_change_a_part(option: str, process: str, mount: str) -> None:
    assert selinux.labels(CONTEXTS, (option,), LEVEL) == (process, mount)


@pytest.mark.parametrize("option", ["foo", "kind:x"])
def test_an_option_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(Invalid, match="Bad label option"):
        selinux.labels(CONTEXTS, (option,), LEVEL)


def test_both_spellings_of_label_options_are_read() -> None:
    options = ("label=type:a_t", "no-new-privileges", "label:disable", "seccomp=unconfined")
    assert selinux.label_options(options) == ("type:a_t", "disable")


def test_levels_are_of_two_categories_and_given_once() -> None:
    numbers = iter([3, 3, 9, 2, 2, 9, 1, 0])
    assert selinux.unique_level({"s0:c2,c9"}, lambda below: next(numbers)) == "s0:c0,c1"


def test_who_shares_the_hosts_processes_is_not_confined_and_says_so() -> None:
    def options(**host: object) -> tuple[str, ...] | None:
        return selinux.with_default_options(HostConfig(**host)).security_opt  # type: ignore[arg-type]

    assert options() is None
    for given in ({"privileged": True}, {"pid_mode": "host"}, {"ipc_mode": "host"}):
        assert options(**given) == ("label=disable",)
    assert options(privileged=True, security_opt=("no-new-privileges",)) == (
        "no-new-privileges",
        "label=disable",
    )
    assert options(privileged=True, security_opt=("label=type:x",)) == ("label=type:x",)


def test_volumes_are_relabelled_for_one_or_for_all() -> None:
    label = f"system_u:object_r:container_file_t:{LEVEL}"
    assert selinux.volume_label(label, "ro,Z") == label
    assert selinux.volume_label(label, "z") == "system_u:object_r:container_file_t:s0"
    assert selinux.volume_label(label, "ro") == ""


def host(directory: Path, contexts: str | None) -> tuple[Path, Path]:
    (directory / "sys/fs/selinux").mkdir(parents=True)
    (directory / "sys/fs/selinux/enforce").write_text("1")
    policy = directory / "etc/selinux/targeted/contexts"
    policy.mkdir(parents=True)
    (directory / "etc/selinux/config").write_text("# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    if contexts is not None:
        (policy / "lxc_contexts").write_text(contexts)
    return directory / "sys", directory / "etc"


def test_the_policys_labels_are_found_when_they_are_wanted(tmp_path: Path) -> None:
    text = f'process = "{CONTEXTS.process}"\ncontent = "x"\nfile = "{CONTEXTS.file}"\nsandbox_kvm_process = "y"\n'
    where = host(tmp_path, text)
    assert selinux.find_contexts(True, *where) == CONTEXTS
    assert selinux.find_contexts(False, *where) is None
    assert selinux.find_contexts(True, tmp_path / "nothing", where[1]) is None


def test_a_policy_without_containers_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="lxc_contexts has no labels for containers"):
        selinux.find_contexts(True, *host(tmp_path, None))


def test_relabelling_reaches_everything_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    (tmp_path / "d/link").symlink_to("/etc/passwd")
    seen: list[tuple[str, bytes, bool]] = []

    def setxattr(path: str, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        assert name == "security.selinux"
        directory, name = os.path.split(path)
        seen.append((os.path.join(os.path.realpath(directory), name), value, follow_symlinks))

    monkeypatch.setattr(os, "setxattr", setxattr)
    selinux.relabel(str(tmp_path / "d"), "a:b:c:s0")
    assert sorted(seen) == [(str(tmp_path / name), b"a:b:c:s0\0", False) for name in ("d", "d/f", "d/link")]


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/etc/../home"])
def test_the_systems_own_directories_are_not_relabelled(path: str) -> None:
    with pytest.raises(Invalid, match="is not allowed"):
        selinux.relabel(path, "a:b:c:s0")
