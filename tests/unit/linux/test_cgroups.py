"""Control groups over directories that look like the kernel's, the same contract for every layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sampan.errors import Conflict, Invalid, NotFound, Unsupported
from sampan.linux.cgroups import CgroupHost, CgroupLimits, DeviceRule, DeviceWeight, Throttle, detect, files
from sampan.linux.cgroups.device_policy import device_policy
from sampan.linux.cgroups.device_program import device_program
from sampan.linux.cgroups.v1_stats import parse_blkio
from sampan.linux.cgroups.v2 import swap_maximum, weight_of_shares
from sampan.linux.cgroups.v2_stats import parse_io

V1_FILES = {
    "cpu": {
        "cpu.shares": "1024",
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.stat": "nr_periods 4\n",
    },
    "cpuacct": {
        "cpuacct.stat": "user 5\nsystem 4\n",  # in ticks of 10 ms
        "cpuacct.usage_percpu": "300 600 \n",
    },
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.memsw.limit_in_bytes": "9223372036854771712\n",
        "memory.soft_limit_in_bytes": "",
        "memory.usage_in_bytes": "4096\n",
        "memory.max_usage_in_bytes": "8192\n",
        "memory.failcnt": "3\n",
        "memory.stat": "cache 12\nrss 34\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.swappiness": "60",
    },
    "pids": {"pids.max": "max\n", "pids.current": "1\n"},
    "blkio": {
        "blkio.throttle.read_bps_device": "",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\nTotal 30\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    },
    "devices": {"devices.list": "a *:* rwm\n", "devices.allow": "", "devices.deny": ""},
    "freezer": {"freezer.state": "THAWED\n"},
    "systemd": {},
}
V2_FILES = {
    "cgroup.events": "populated 0\nfrozen 1\n",
    "cgroup.subtree_control": "",
    "cgroup.freeze": "0",
    "cgroup.kill": "",
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 4\nnr_throttled 1\nthrottled_usec 7\n",
    "cpuset.cpus": "",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.max": "max\n",
    "memory.low": "0",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 12\nfile 34\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n",
    "memory.oom.group": "0",
    "pids.max": "max\n",
    "pids.current": "1\n",
    "io.max": "",
    "io.weight": "100",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
}


class FakeKernel:
    """Fills a new group with the kernel's files; a group with processes or children is busy."""

    def __init__(self, root: Path, layout: str) -> None:
        self.root = root
        self.layout = layout
        self.programs: dict[str, bytes] = {}
        if layout == "v2":
            self._fill(root, V2_FILES)
            (root / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
        else:
            for controller, files in V1_FILES.items():
                (root / controller).mkdir()
                self._fill(root / controller, files)
            (root / "cpuset" / "cpuset.cpus").write_text("0-3\n")
            (root / "cpuset" / "cpuset.mems").write_text("0\n")
            if layout == "hybrid":
                (root / "unified").mkdir()
                (root / "unified" / "cgroup.controllers").write_text("")
                (root / "unified" / "cgroup.procs").write_text("")

    def _fill(self, directory: Path, files: dict[str, str]) -> None:
        for name, text in {"cgroup.procs": "", "tasks": "", **files}.items():
            (directory / name).write_text(text)

    def make(self, path: str) -> None:
        os.mkdir(path)
        files = V2_FILES if self.layout == "v2" else V1_FILES[Path(path).relative_to(self.root).parts[0]]
        self._fill(Path(path), files)

    def remove(self, path: str) -> None:
        entries = list(Path(path).iterdir())
        if any(entry.is_dir() for entry in entries) or (Path(path) / "cgroup.procs").read_text().strip():
            raise OSError(16, "Device or resource busy")
        shutil.rmtree(path)

    def attach(self, group: str, program: bytes) -> None:
        self.programs[group] = program

    def host(self) -> CgroupHost:
        return detect(self.root, directories=self, attach_devices=self.attach)

    def text(self, controller: str, path: str, name: str) -> str:
        base = self.root if self.layout == "v2" else self.root / controller
        return (base / path / name).read_text().strip()


@pytest.fixture(params=["v1", "hybrid", "v2"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path, request.param)


@pytest.fixture
def v1(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path, "v1")


@pytest.fixture
def v2(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path, "v2")


class TestContract:
    def test_the_layout_is_recognised(self, kernel: FakeKernel) -> None:
        host = kernel.host()
        assert host.layout == kernel.layout
        assert {"cpu", "memory", "pids"} <= host.controllers

    def test_a_group_exists_from_create_to_remove(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("/sampan/one/")
        assert group.path == "sampan/one"
        assert not group.exists()
        group.create(CgroupLimits())
        assert group.exists()
        group.remove()
        assert not group.exists()
        group.remove()

    def test_limits_reach_the_kernels_files(self, kernel: FakeKernel) -> None:
        kernel.host().group("a/b").create(
            CgroupLimits(memory=1 << 26, memory_swap=1 << 27, pids=7, cpuset_cpus="1")
        )
        if kernel.layout == "v2":
            assert kernel.text("", "a/b", "memory.max") == "67108864"
            assert kernel.text("", "a/b", "memory.swap.max") == "67108864"
        else:
            assert kernel.text("memory", "a/b", "memory.limit_in_bytes").startswith("67108864")
            assert kernel.text("memory", "a/b", "memory.memsw.limit_in_bytes").startswith("134217728")
        assert kernel.text("pids", "a/b", "pids.max").startswith("7")
        assert kernel.text("cpuset", "a/b", "cpuset.cpus") in ("1", "1-3")

    def test_a_group_that_cannot_have_its_limits_is_not_left_behind(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a/b")
        limits = CgroupLimits(cpu_burst=1000)
        with pytest.raises(Unsupported, match="burst"):
            group.create(limits)
        assert not group.exists()

    def test_a_limit_of_nothing_is_no_limit_as_docker_writes_it(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a")
        group.create(CgroupLimits(memory=0, memory_swap=0, cpu_shares=0, cpu_quota=0, cpu_period=0, pids=0))
        assert kernel.text("pids", "a", "pids.max") == "max"
        assert group.stats().memory.limit is None

    def test_measurements_are_in_bytes_and_nanoseconds(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a")
        group.create(CgroupLimits())
        stats = group.stats()
        times = (9000, 5000, 4000) if kernel.layout == "v2" else (900, 50_000_000, 40_000_000)
        assert (stats.cpu.total, stats.cpu.user, stats.cpu.system) == times
        assert stats.cpu.periods == 4
        failures = 2 if kernel.layout == "v2" else 3  # version 2: how often memory ran out
        assert (stats.memory.usage, stats.memory.max_usage, stats.memory.failures) == (4096, 8192, failures)
        assert stats.memory.limit is None and stats.pids.limit is None and stats.pids.current == 1
        assert sorted(stats.memory.stat.values()) == [12, 34]
        assert [(e.operation.lower(), e.value) for e in stats.io_service_bytes] == [
            ("read", 10),
            ("write", 20),
        ]
        assert [(e.major, e.minor, e.value) for e in stats.io_serviced] == [(8, 0, 1), (8, 0, 2)]
        assert group.oom_kills() == 2

    def test_files_kept_open_give_what_is_in_them_now(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a")
        group.create(CgroupLimits())
        kept = files.KeptFiles()
        assert group.stats(kept.read) == group.stats()
        for path in kernel.root.glob("**/pids.current"):
            path.write_text("7\n")
        assert group.stats(kept.read).pids.current == 7
        kept.close()

    def test_a_group_that_is_not_there_has_no_processes_no_kills_and_no_stats(
        self, kernel: FakeKernel
    ) -> None:
        group = kernel.host().group("none")
        assert group.pids() == [] and group.oom_kills() == 0 and not group.frozen()
        group.kill_all()
        with pytest.raises(NotFound):
            group.stats()

    def test_processes_of_groups_below_are_counted_and_foreign_ones_are_not(self, kernel: FakeKernel) -> None:
        host = kernel.host()
        host.group("a").create(CgroupLimits())
        host.group("a/b").create(CgroupLimits())
        for root in [kernel.root] if kernel.layout == "v2" else [kernel.root / name for name in V1_FILES]:
            (root / "a" / "cgroup.procs").write_text("11\n0\n")
            (root / "a" / "b" / "cgroup.procs").write_text("12\n")
        assert sorted(host.group("a").pids()) == [11, 12]

    def test_removing_takes_the_groups_below_along(self, kernel: FakeKernel) -> None:
        host = kernel.host()
        host.group("a/b/c").create(CgroupLimits())
        host.group("a").remove()
        assert not host.group("a").exists()

    def test_freezing_and_thawing_are_told(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a")
        group.create(CgroupLimits())
        group.freeze()
        assert group.frozen()
        group.thaw()

    @pytest.mark.parametrize("path", ["", "/", "..", "a/../b", "./a", "a\0b", "a/" + "x" * 300])
    def test_a_path_that_could_leave_the_root_is_refused(self, kernel: FakeKernel, path: str) -> None:
        with pytest.raises(Invalid, match="cgroup path"):
            kernel.host().group(path)


def test_a_host_without_control_groups_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no control groups"):
        detect(tmp_path)
    with pytest.raises(Unsupported):
        detect(tmp_path / "missing")


class TestUndoing:
    def test_an_update_can_be_taken_back(self, kernel: FakeKernel) -> None:
        group = kernel.host().group("a")
        group.create(CgroupLimits(pids=7))
        undo = group.update(CgroupLimits(pids=9))
        assert kernel.text("pids", "a", "pids.max").startswith("9")
        undo()
        assert kernel.text("pids", "a", "pids.max").startswith("7")

    def test_an_update_that_fails_in_the_middle_leaves_the_limits_as_they_were(
        self, kernel: FakeKernel
    ) -> None:
        """The limit of processes is there no more, and it is written after the memory limits."""
        group = kernel.host().group("a")
        group.create(CgroupLimits(memory=1 << 26, memory_swap=1 << 27, cpu_quota=50000))
        names = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
        if kernel.layout != "v2":
            names = (
                "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "pids.max",
            )  # fmt: skip
        before = [kernel.text(name.partition(".")[0], "a", name) for name in names[:3]]
        base = kernel.root if kernel.layout == "v2" else kernel.root / "pids"
        (base / "a" / "pids.max").unlink()
        with pytest.raises(Unsupported, match="pids"):
            group.update(CgroupLimits(memory=1 << 24, memory_swap=1 << 25, cpu_quota=90000, pids=5))
        assert [kernel.text(name.partition(".")[0], "a", name) for name in names[:3]] == before


class TestVersion1:
    @pytest.mark.parametrize(("shares", "word"), [(1, "minimum"), (262145, "maximum")])
    def test_shares_that_the_kernel_would_silently_change_are_refused(
        self, v1: FakeKernel, shares: int, word: str
    ) -> None:
        with pytest.raises(Invalid, match=f"the {word} allowed cpu-shares is"):
            v1.host().group("a").create(CgroupLimits(cpu_shares=shares))

    def test_hierarchies_that_share_a_directory_are_made_once(self, v1: FakeKernel) -> None:
        shutil.rmtree(v1.root / "cpuacct")
        (v1.root / "cpu").rename(v1.root / "cpu,cpuacct")
        for name in ("cpu", "cpuacct"):
            (v1.root / name).symlink_to("cpu,cpuacct")
        host = v1.host()
        assert host.hierarchies["cpu"] == host.hierarchies["cpuacct"]
        assert {"cpu", "cpuacct"} <= host.controllers

    def test_new_cpusets_take_over_processors_and_memory_nodes_all_the_way_down(self, v1: FakeKernel) -> None:
        v1.host().group("a/b").create(CgroupLimits())
        for path in ("a", "a/b"):
            assert v1.text("cpuset", path, "cpuset.cpus") == "0-3"
            assert v1.text("cpuset", path, "cpuset.mems") == "0"

    def test_a_parent_that_somebody_else_has_just_made_is_filled_before_it_is_inherited_from(
        self, v1: FakeKernel
    ) -> None:
        """Between the other's mkdir and its writes, the parent's cpuset is empty."""
        for controller in V1_FILES:
            v1.make(str(v1.root / controller / "a"))
        v1.host().group("a/b").create(CgroupLimits())
        for path in ("a", "a/b"):
            assert v1.text("cpuset", path, "cpuset.cpus") == "0-3"
            assert v1.text("cpuset", path, "cpuset.mems") == "0"

    def test_an_empty_cpuset_that_is_taken_over_is_filled(self, v1: FakeKernel) -> None:
        v1.host().group("a").create(CgroupLimits())
        (v1.root / "cpuset" / "a" / "cpuset.mems").write_text("\n")
        v1.host().group("a").create(CgroupLimits())
        assert v1.text("cpuset", "a", "cpuset.mems") == "0"

    def test_a_missing_controller_is_named(self, v1: FakeKernel) -> None:
        shutil.rmtree(v1.root / "pids")
        with pytest.raises(Unsupported, match="'pids'"):
            v1.host().group("a").create(CgroupLimits(pids=5))
        v1.host().group("a").create(CgroupLimits(memory=1 << 20))

    def test_unified_limits_are_unsupported(self, v1: FakeKernel) -> None:
        with pytest.raises(Unsupported, match="unified"):
            v1.host().group("a").create(CgroupLimits(unified={"memory.high": "1"}))

    @pytest.mark.parametrize(
        ("present", "limits", "order"),
        [
            (1 << 27, CgroupLimits(memory=1 << 28, memory_swap=1 << 29), ["memsw", "limit"]),
            (1 << 27, CgroupLimits(memory=1 << 28, memory_swap=-1), ["memsw", "limit"]),
            (1 << 27, CgroupLimits(memory=1 << 20, memory_swap=1 << 21), ["limit", "memsw"]),
            (1 << 27, CgroupLimits(memory=-1), ["memsw", "limit"]),
        ],
    )
    def test_memory_never_exceeds_memory_and_swap_on_the_way(
        self,
        v1: FakeKernel,
        monkeypatch: pytest.MonkeyPatch,
        present: int,
        limits: CgroupLimits,
        order: list[str],
    ) -> None:
        group = v1.host().group("a")
        group.create(CgroupLimits())
        (v1.root / "memory" / "a" / "memory.memsw.limit_in_bytes").write_text(f"{present}\n")
        written: list[str] = []
        monkeypatch.setattr("sampan.linux.cgroups.files.write", lambda path, value: written.append(path))
        group.update(limits)
        assert [Path(path).name.split(".")[1].removesuffix("_in_bytes") for path in written] == order

    def test_unlimited_swap_needs_no_swap_accounting(self, v1: FakeKernel) -> None:
        group = v1.host().group("a")
        group.create(CgroupLimits())
        (v1.root / "memory" / "a" / "memory.memsw.limit_in_bytes").unlink()
        group.update(CgroupLimits(memory=1 << 26, memory_swap=-1))
        assert v1.text("memory", "a", "memory.limit_in_bytes").startswith("67108864")
        group.update(CgroupLimits(memory=-1))
        assert v1.text("memory", "a", "memory.limit_in_bytes").startswith("-1")
        with pytest.raises(Unsupported, match="memsw"):
            group.update(CgroupLimits(memory=1 << 26, memory_swap=1 << 27))

    def test_memory_in_use_is_told_in_the_runtimes_words(
        self, v1: FakeKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group = v1.host().group("a")
        group.create(CgroupLimits())

        def busy(path: str, value: str) -> None:
            raise Conflict(f"{path}: busy")

        monkeypatch.setattr("sampan.linux.cgroups.files.write", busy)
        with pytest.raises(
            Conflict, match=r"unable to set memory limit to 1024 \(current usage: 4096, peak usage: 8192\)"
        ):
            group.update(CgroupLimits(memory=1024))

    def test_a_changed_device_policy_touches_only_what_differs(
        self, v1: FakeKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group = v1.host().group("a")
        group.create(CgroupLimits())
        (v1.root / "devices" / "a" / "devices.list").write_text("c 1:3 rwm\nc 1:5 rw\nb *:* m\n")
        written: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(
            "sampan.linux.cgroups.v1._write_each",
            lambda path, values: written.append((Path(path).name, values)),
        )
        rules = (
            DeviceRule(False),
            DeviceRule(True, "c", 1, 3),
            DeviceRule(True, "c", 1, 5, "r"),
            DeviceRule(True, "b", None, None, "m"),
            DeviceRule(True, "c", 10, 200),
        )
        group.update(CgroupLimits(devices=rules))
        assert written == [("devices.allow", ["c 10:200 mrw"]), ("devices.deny", ["c 1:5 w"])]

    def test_the_sum_over_all_devices_is_left_out(self) -> None:
        assert [e.value for e in parse_blkio("8:0 Read 1\n8:16 Write 2\nTotal 3\n")] == [1, 2]


class TestVersion2:
    def test_controllers_are_enabled_in_every_group_above(self, v2: FakeKernel) -> None:
        v2.host().group("a/b/c").create(CgroupLimits())
        for path in ("", "a", "a/b"):
            assert v2.text("", path, "cgroup.subtree_control") == "+cpuset +cpu +io +memory +pids"
        assert v2.text("", "a/b/c", "cgroup.subtree_control") == ""

    def test_limits_are_translated(self, v2: FakeKernel) -> None:
        limits = CgroupLimits(
            cpu_shares=1024,
            cpu_quota=50000,
            memory_reservation=1 << 20,
            blkio_weight=1000,
            read_bps=(Throttle(8, 0, 1000),),
            write_iops=(Throttle(8, 16, 5),),
            unified={"memory.oom.group": "1"},
        )
        v2.host().group("a").create(limits)
        assert v2.text("", "a", "cpu.weight") == "100"
        assert v2.text("", "a", "cpu.max") == "50000 100000"
        assert v2.text("", "a", "memory.low") == "1048576"
        assert v2.text("", "a", "io.weight") == "10000"
        assert v2.text("", "a", "memory.oom.group") == "1"

    def test_weights_of_devices_go_where_the_kernel_has_them(self, v2: FakeKernel) -> None:
        limits = CgroupLimits(blkio_weight_devices=(DeviceWeight(8, 0, 1000),))
        group = v2.host().group("a")
        group.create(limits)
        assert v2.text("", "a", "io.weight") == "8:0 10000"
        (v2.root / "a" / "io.bfq.weight").write_text("default 100\n")
        group.update(limits)
        assert v2.text("", "a", "io.bfq.weight").startswith("8:0 1000")

    def test_devices_become_a_program_on_the_group(self, v2: FakeKernel) -> None:
        rules = (DeviceRule(False), DeviceRule(True, "c", 1, 3))
        v2.host().group("a").create(CgroupLimits(devices=rules))
        assert v2.programs == {f"{v2.root}/a": device_program(device_policy(rules))}

    @pytest.mark.parametrize(
        ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1, 1), (1 << 20, 10000)]
    )
    def test_shares_become_weights_that_keep_both_defaults(self, shares: int, weight: int) -> None:
        assert weight_of_shares(shares) == weight

    def test_more_shares_never_give_less_weight(self) -> None:
        weights = [weight_of_shares(shares) for shares in range(2, 5000)]
        assert weights == sorted(weights)

    @pytest.mark.parametrize(
        ("memory", "swap", "value"),
        [
            (100, 100, "0"),
            (100, 300, "200"),
            (100, -1, "max"),
            (-1, None, "max"),
            (100, None, None),
            (None, -1, "max"),
        ],
    )
    def test_swap_is_counted_alone(self, memory: int | None, swap: int | None, value: str | None) -> None:
        assert swap_maximum(memory, swap) == value

    @pytest.mark.parametrize(("memory", "swap"), [(None, 100), (100, 50), (-1, 100)])
    def test_swap_limits_that_contradict_the_memory_limit_are_refused(
        self, memory: int | None, swap: int
    ) -> None:
        with pytest.raises(Invalid):
            swap_maximum(memory, swap)

    def test_what_only_version_1_has_is_unsupported(self, v2: FakeKernel) -> None:
        for limits in (CgroupLimits(oom_kill_disable=True), CgroupLimits(cpu_rt_runtime=1000)):
            with pytest.raises(Unsupported, match="version 1"):
                v2.host().group("a").create(limits)

    @pytest.mark.parametrize("name", ["../b", "cgroup.procs", "a/b.c", "nodot"])
    def test_a_unified_limit_can_only_name_a_limit(self, v2: FakeKernel, name: str) -> None:
        with pytest.raises(Invalid, match="unified"):
            v2.host().group("a").create(CgroupLimits(unified={name: "1"}))

    def test_a_missing_controller_is_named(self, v2: FakeKernel) -> None:
        (v2.root / "cgroup.controllers").write_text("cpu memory\n")
        group = v2.host().group("a")
        group.create(CgroupLimits())
        (v2.root / "a" / "pids.max").unlink()
        with pytest.raises(Unsupported, match="'pids'"):
            group.update(CgroupLimits(pids=3))

    def test_input_and_output_are_split_by_direction(self) -> None:
        text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n259:1 rbytes=5\nnonsense\n"
        found = [
            (e.major, e.operation, e.value) for e in parse_io(text, {"rbytes": "read", "wbytes": "write"})
        ]
        assert found == [(8, "read", 1), (8, "write", 2), (259, "read", 5)]


def test_a_list_longer_than_a_page_is_read_to_its_end() -> None:
    """The kernel gives whole lines per read: 682 numbers of six bytes are 4,092 bytes, and more may follow."""
    lines = [f"{number}\n".encode() for number in range(10_000, 12_000)]
    reading, writing = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)  # a pipe of packets: each read gives one
    try:
        for start in range(0, len(lines), 682):
            os.write(writing, b"".join(lines[start : start + 682]))
        os.close(writing)
        assert files.read(f"/proc/self/fd/{reading}") == b"".join(lines).decode()
    finally:
        os.close(reading)
