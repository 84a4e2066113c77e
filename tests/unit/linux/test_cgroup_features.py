"""What a host's control groups can enforce, from directories that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

from sampan.linux.cgroups import detect
from sampan.linux.cgroups.features import CgroupFeatures, available_cpuset, detect_features


def _v1(root: Path, files: dict[str, tuple[str, ...]]) -> None:
    for controller, names in files.items():
        (root / controller).mkdir()
        for name in ("cgroup.procs", *names):
            (root / controller / name).write_text("0-1\n")


def test_version_1_offers_what_its_roots_have_files_for(tmp_path: Path) -> None:
    _v1(
        tmp_path,
        {
            "memory": ("memory.soft_limit_in_bytes", "memory.oom_control"),
            "cpu": ("cpu.shares", "cpu.cfs_quota_us"),
            "cpuset": ("cpuset.cpus", "cpuset.mems"),
            "blkio": ("blkio.throttle.read_bps_device",),
        },
    )
    host = detect(tmp_path)
    assert detect_features(host) == CgroupFeatures(
        swap=False,
        swappiness=False,
        pids=False,
        cpu_realtime=False,
        blkio_weight=False,
        blkio_weight_device=False,
        throttle=frozenset(("read_bps",)),
    )
    assert available_cpuset(host) == ("0-1", "0-1")


def test_version_2_offers_what_it_has_controllers_for(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (tmp_path / "cpuset.cpus.effective").write_text("0-7\n")
    (tmp_path / "cpuset.mems.effective").write_text("0\n")
    host = detect(tmp_path)
    found = detect_features(host)
    assert (found.memory, found.pids, found.cpu_shares, found.cpuset) == (True, True, True, True)
    assert (found.blkio_weight, found.throttle) == (False, frozenset())
    assert (found.oom_kill_disable, found.swappiness, found.cpu_realtime) == (False, False, False)
    assert available_cpuset(host) == ("0-7", "0")
