from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sampan.engine import apparmor
from sampan.errors import Unsupported

PROFILES = "kernel/security/apparmor/profiles"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A /sys with AppArmor, where the default profile is not loaded."""
    (tmp_path / "module/apparmor/parameters").mkdir(parents=True)
    (tmp_path / "module/apparmor/parameters/enabled").write_text("Y\n")
    (tmp_path / "kernel/security/apparmor").mkdir(parents=True)
    (tmp_path / PROFILES).write_text("/usr/bin/man (enforce)\nlsb_release (complain)\n")
    return tmp_path


def parser(directory: Path, script: str) -> str:
    program = directory / "parser"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_a_host_without_apparmor_confines_nothing(tmp_path: Path) -> None:
    assert apparmor.prepare(tmp_path, "/nonexistent") is False
    (tmp_path / "module/apparmor/parameters").mkdir(parents=True)
    (tmp_path / "module/apparmor/parameters/enabled").write_text("N\n")
    assert apparmor.prepare(tmp_path, "/nonexistent") is False


def test_the_default_profile_is_given_to_the_parser(host: Path) -> None:
    program = parser(host, f'echo "$@" > {host}/arguments; cat > {host}/source')
    assert apparmor.prepare(host, program) is True
    assert (host / "arguments").read_text().split() == ["-Kr"]
    assert (host / "source").read_text() == apparmor.default_profile_text()


def test_a_profile_that_is_loaded_stays_as_it_is(host: Path) -> None:
    (host / PROFILES).write_text("docker-default (enforce)\n")
    assert apparmor.prepare(host, parser(host, "exit 1")) is True


def test_a_profile_that_can_not_be_loaded_is_told_in_dockers_words(host: Path) -> None:
    with pytest.raises(Unsupported, match="the docker-default profile could not be loaded: no way"):
        apparmor.prepare(host, parser(host, "echo no way >&2; exit 3"))
    with pytest.raises(Unsupported, match="could not be loaded"):
        apparmor.prepare(host, "/nonexistent/parser")


def test_without_the_parser_there_is_no_confinement(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "find_parser", lambda: None)
    assert apparmor.prepare(host) is False


@pytest.mark.parametrize(
    ("asked", "privileged", "supported", "shown", "applied"),
    [
        ("", False, True, "docker-default", "docker-default"),
        ("mine", False, True, "mine", "mine"),
        ("unconfined", False, True, "unconfined", None),
        ("mine", True, True, "unconfined", None),
        ("", False, False, "", None),
        ("mine", False, False, "mine", None),
    ],
)
def test_the_profile_is_chosen_by_dockers_rules(
    asked: str, privileged: bool, supported: bool, shown: str, applied: str | None
) -> None:
    assert apparmor.profile_of(asked, privileged=privileged, supported=supported) == shown
    assert apparmor.applied_profile(asked, privileged=privileged, supported=supported) == applied


def test_names_with_spaces_and_modes_are_read() -> None:
    text = "docker-default (enforce)\nsnap.x y (complain)\n\n"
    assert apparmor.loaded_profiles(text) == {"docker-default", "snap.x y"}


def denied(path: str, right: str) -> bool:
    """Whether a rule of the profile denies it: AppArmor's globs (apparmor.d(5), "Globbing") as regular expressions."""
    for pattern, rights in re.findall(r"deny (/\S+) ([a-z]+),", apparmor.default_profile_text()):
        text = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        text = re.sub(r"\\\[\\\^([^]]*)\\\]", lambda found: f"[^/{found[1]}]", text)
        text = re.sub(r"\\\{([^}]*)\\\}", lambda found: f"(?:{found[1].replace(',', '|')})", text)
        if right in rights and re.fullmatch(text.replace(r"\-", "-"), path):
            return True
    return False


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger", "/proc/acpi/wakeup", "/proc/scsi/scsi", "/proc/irq/1/smp_affinity",
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/swappiness",
        "/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward", "/proc/sysvipc/shm",
        "/sys/kernel/uevent_helper", "/sys/firmware/efi/x", "/sys/fs/bpf/x", "/sys/fs/selinux/load",
        "/sys/power/state",
    ],
)  # fmt: skip
def test_what_is_the_hosts_can_not_be_written(path: str) -> None:
    assert denied(path, "w")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/oom_score_adj", "/proc/77/task/78/comm", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/shm_rmid_forced",
        "/sys/fs/cgroup/memory/x", "/etc/passwd", "/system/x", "/processed/x", "/sysroot/fs/x",
    ],
)  # fmt: skip
def test_what_is_the_containers_can_be_written(path: str) -> None:
    assert not denied(path, "w")


@pytest.mark.skipif(
    apparmor.find_parser() is None, reason="apparmor_parser (package apparmor) is not installed"
)
def test_the_real_parser_takes_the_profile() -> None:
    command = [apparmor.find_parser() or "", "-K", "-Q"]
    done = subprocess.run(
        command, input=apparmor.default_profile_text(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
