from __future__ import annotations

from sampan.runtime.cgroupmount import Hierarchy, version_1

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /../.. /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:39 /below /elsewhere rw,relatime - cgroup cgroup rw,memory
"""
GROUPS = "9:name=systemd:/init\n4:memory:/box/a\n2:cpu,cpuacct:/\n0::/\n"


def test_hierarchies_of_version_1_are_found_with_the_own_group() -> None:
    assert list(version_1(HYBRID, GROUPS)) == [
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", ""),
        Hierarchy("/sys/fs/cgroup/memory", "memory", "/box/a"),
        Hierarchy("/sys/fs/cgroup/systemd", "name=systemd", "/init"),
    ]


def test_a_host_with_version_2_only_has_none() -> None:
    assert list(version_1("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/x\n")) == []
