"""Docker's profile as shipped, against the reference file, and what it means for a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.seccomp_profile import Profile, default_profile, load_profile, parse_kernel, resolve
from sampan.errors import Invalid
from sampan.oci.spec import Seccomp

REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference" / "seccomp" / "default.json"
DOCKER_CAPABILITIES = ("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_MKNOD")


def reference() -> bytes:
    if not REFERENCE.exists():
        pytest.skip(f"no reference profile at {REFERENCE}")
    return REFERENCE.read_bytes()


def allowed(section: Seccomp) -> set[str]:
    return {
        n
        for rule in section.syscalls
        if rule.action == "SCMP_ACT_ALLOW" and not rule.args
        for n in rule.names
    }


def without_comments(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in rule.items() if k != "comment"} for rule in document["syscalls"]]


def test_the_shipped_profile_is_the_reference_profile() -> None:
    assert load_profile(reference()) == default_profile()


def test_nothing_of_the_reference_file_is_left_unread() -> None:
    known = {"names", "action", "errnoRet", "args", "includes", "excludes"}
    document = json.loads(reference())
    assert set(document) == {"defaultAction", "defaultErrnoRet", "archMap", "syscalls"}
    assert {key for rule in without_comments(document) for key in rule} <= known
    conditions = {
        k for rule in document["syscalls"] for c in ("includes", "excludes") for k in rule.get(c, {})
    }
    assert conditions <= {"caps", "arches", "minKernel"}


def test_a_container_without_sys_admin_may_clone_only_without_namespaces() -> None:
    section = resolve(default_profile(), DOCKER_CAPABILITIES, "x86_64", (6, 1))
    clone = [rule for rule in section.syscalls if "clone" in rule.names]
    assert [(rule.args[0].index, rule.args[0].value, rule.args[0].op) for rule in clone] == [
        (0, 0x7E020000, "SCMP_CMP_MASKED_EQ")
    ]
    assert [(r.action, r.errno_ret) for r in section.syscalls if "clone3" in r.names] == [
        ("SCMP_ACT_ERRNO", 38)
    ]
    assert not {"mount", "bpf", "setns", "unshare"} & allowed(section)


def test_capabilities_open_the_calls_that_need_them() -> None:
    section = resolve(
        default_profile(), (*DOCKER_CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYSLOG"), "amd64", (6, 1)
    )
    assert {"mount", "bpf", "clone", "clone3", "syslog", "chroot"} <= allowed(section)
    assert "reboot" not in allowed(section)


def test_the_architecture_decides_names_and_sub_architectures() -> None:
    amd64 = resolve(default_profile(), (), "amd64", (6, 1))
    arm64 = resolve(default_profile(), (), "aarch64", (6, 1))
    assert amd64.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
    assert arm64.architectures == ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
    assert "arch_prctl" in allowed(amd64) - allowed(arm64)
    assert "cacheflush" in allowed(arm64) - allowed(amd64)


def test_tracing_is_allowed_from_the_kernel_that_made_it_safe() -> None:
    assert "ptrace" in allowed(resolve(default_profile(), (), "amd64", (4, 8)))
    assert "ptrace" not in allowed(resolve(default_profile(), (), "amd64", (4, 7)))
    assert parse_kernel("6.1.0-18-amd64") == (6, 1)


def test_a_users_profile_is_read_with_both_ways_to_name_a_call() -> None:
    raw = b"""{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"name": "chmod", "action": "SCMP_ACT_ERRNO", "args": []},
        {"names": ["mount", "umount2"], "action": "SCMP_ACT_KILL", "args": null, "comment": "", "includes": {}}]}"""
    section = resolve(load_profile(raw), (), "amd64", (6, 1))
    assert [rule.names for rule in section.syscalls] == [("chmod",), ("mount", "umount2")]
    assert section.architectures == ("SCMP_ARCH_X86_64",)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"{", "Decoding seccomp profile failed"),
        (b"[]", "Decoding seccomp profile failed"),
        (b"{}", "defaultAction"),
        (b'{"defaultAction": "ALLOW"}', "defaultAction"),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],'
            b' "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}',
            "use either one",
        ),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"],'
            b' "action": "SCMP_ACT_ALLOW"}]}',
            "both 'name' and 'names'",
        ),
        (b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}', "no 'names'"),
        (b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "X"}]}', "action 'X'"),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG",'
            b' "args": [{"index": 7, "value": 0, "op": "SCMP_CMP_EQ"}]}]}',
            "argument 7",
        ),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG",'
            b' "includes": {"minKernel": "new"}}]}',
            "minKernel 'new'",
        ),
    ],
)
def test_a_profile_that_is_wrong_is_refused_with_the_place(raw: bytes, text: str) -> None:
    with pytest.raises(Invalid, match=text):
        load_profile(raw)


def test_an_excluding_kernel_takes_a_rule_away() -> None:
    raw = b"""{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.0"}}]}"""
    profile: Profile = load_profile(raw)
    assert len(resolve(profile, (), "amd64", (4, 20)).syscalls) == 1
    assert resolve(profile, (), "amd64", (5, 0)).syscalls == ()
