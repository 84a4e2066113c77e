"""Each flag of `sampan run`, by its effect inside the container."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def inside(sampan: Any, flags: list[str], script: str) -> str:
    """What a shell script in a new container prints."""
    output: str = sampan.ok("run", "--rm", *flags, BUSYBOX, "sh", "-c", script)
    return output


def cgroup_file(sampan: Any, v1: str, v2: str) -> str:
    """Prints a file of the container's own control group: the path is that of the host's layout."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return f"cat /sys/fs/cgroup/{v2}"
    return f"cat /sys/fs/cgroup/{v1}"


def test_interactive_passes_input(sampan: Any) -> None:
    assert sampan.ok("run", "--rm", "-i", BUSYBOX, "cat", stdin=b"typed\nlines\n") == "typed\nlines"


def test_detach_prints_the_id_and_returns_at_once(sampan: Any) -> None:
    container = sampan.ok("run", "-d", BUSYBOX, "sleep", "1000")
    assert len(container) == 64
    assert sampan.ok("ps", "-q", "--no-trunc") == container


def test_rm_removes_the_container_and_its_anonymous_volumes_only(sampan: Any) -> None:
    sampan.ok("run", "--rm", "-v", "/anon", "-v", "named:/named", BUSYBOX, "touch", "/anon/f", "/named/f")
    assert sampan.ok("ps", "-aq") == ""
    assert sampan.ok("volume", "ls", "-q") == "named"


def test_rm_of_a_detached_container_happens_when_it_ends(sampan: Any, wait_until: Any) -> None:
    sampan.ok("run", "-d", "--rm", "-v", "/anon", "--name", "brief", BUSYBOX, "true")
    wait_until(lambda: sampan.ok("ps", "-aq") == "" and sampan.ok("volume", "ls", "-q") == "", "the removal")


def test_tty_gives_a_terminal(sampan: Any) -> None:
    assert inside(sampan, ["-t"], "tty") == "/dev/pts/0"
    assert inside(sampan, [], "tty; true") == "not a tty"


def test_environment_from_flags_the_caller_and_a_file(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\nFROM_FILE=one two\nPATH_LIKE=/a:/b\n\nHOME_HERE=\n")
    printed = inside(
        sampan,
        ["-e", "A=1", "-e", "DOCKER_BUILDKIT", "-e", "NOT_SET_ANYWHERE", "--env-file", f"{tmp_path}/env"],
        "env",
    )
    lines = set(printed.splitlines())
    wanted = {"A=1", "DOCKER_BUILDKIT=0", "FROM_FILE=one two", "PATH_LIKE=/a:/b", "HOME_HERE="}
    assert wanted <= lines
    assert not [line for line in lines if line.startswith("NOT_SET_ANYWHERE")]
    assert "HOME=/root" in lines


def test_workdir_is_made_when_it_is_missing(sampan: Any) -> None:
    assert inside(sampan, ["-w", "/made/for/it"], "pwd") == "/made/for/it"


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("nobody", "65534 65534"),
        ("1", "1 1"),
        ("1234", "1234 0"),
        ("1234:5678", "1234 5678"),
        ("root:daemon", "0 1"),
    ],
)
def test_user_by_name_and_number(sampan: Any, user: str, shown: str) -> None:
    assert inside(sampan, ["-u", user], "echo $(id -u) $(id -g)") == shown


def test_an_unknown_user_is_refused(sampan: Any) -> None:
    done = sampan.run("run", "--rm", "-u", "stranger", BUSYBOX, "true")
    assert done.returncode in (125, 126)
    assert "unable to find user stranger: no matching entries in passwd file" in done.stderr


def test_name_and_hostname(sampan: Any) -> None:
    assert inside(
        sampan, ["--name", "given", "-h", "its-host"], "hostname; grep its-host /etc/hosts"
    ).startswith("its-host\n")
    default = sampan.ok("run", "--name", "given", BUSYBOX, "hostname")
    assert sampan.ok("inspect", "-f", "{{.Id}}", "given").startswith(default)
    done = sampan.run("run", "--name", "given", BUSYBOX, "true")
    assert done.returncode == 125
    assert 'The container name "/given" is already in use by container' in done.stderr


def test_entrypoint_replaces_the_images(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nENTRYPOINT ["echo", "entry"]\nCMD ["default"]\n')
    sampan.ok("build", "-t", "entry:1", str(tmp_path))
    assert sampan.ok("run", "--rm", "entry:1") == "entry default"
    assert sampan.ok("run", "--rm", "entry:1", "given") == "entry given"
    assert sampan.ok("run", "--rm", "--entrypoint", "printf", "entry:1", "%s-%s", "a", "b") == "a-b"
    sampan.ok("rmi", "entry:1")


def test_network_none_and_host(sampan: Any) -> None:
    assert inside(sampan, ["--network", "none"], "ls /sys/class/net") == "lo"
    here = os.readlink("/proc/self/ns/net")
    assert inside(sampan, ["--network", "host"], "readlink /proc/self/ns/net") == here
    names = inside(sampan, ["--network", "bridge"], "ls /sys/class/net").split()
    assert names == ["eth0", "lo"]


def test_network_of_another_container(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "owner", BUSYBOX, "httpd", "-f", "-p", "8080", "-h", "/etc")
    shared = inside(sampan, ["--network", "container:owner"], "wget -qO- 127.0.0.1:8080/passwd")
    assert shared.startswith("root:")


def test_memory_is_limited(sampan: Any) -> None:
    file = cgroup_file(sampan, "memory/memory.limit_in_bytes", "memory.max")
    assert inside(sampan, ["--memory", "48m"], file) == str(48 << 20)
    script = "head -c 100m /dev/zero | tail > /dev/null"
    done = sampan.run("run", "--name", "hungry", "--memory", "16m", BUSYBOX, "sh", "-c", script)
    assert done.returncode != 0
    assert sampan.ok("inspect", "-f", "{{.State.OOMKilled}}", "hungry") == "true"


def test_cpus_are_limited(sampan: Any) -> None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        assert inside(sampan, ["--cpus", "0.5"], "cat /sys/fs/cgroup/cpu.max") == "50000 100000"
    else:
        script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us"
        assert inside(sampan, ["--cpus", "0.5"], script) == "50000\n100000"


def test_processes_are_limited(sampan: Any) -> None:
    file = cgroup_file(sampan, "pids/pids.max", "pids.max")
    assert inside(sampan, ["--pids-limit", "7"], file) == "7"
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 10 & done; echo all"
    done = sampan.run("run", "--rm", "--pids-limit", "5", BUSYBOX, "sh", "-c", script)
    assert "can't fork" in done.stderr


def test_read_only_with_a_tmpfs(sampan: Any) -> None:
    script = "touch /x 2>&1; touch /scratch/ok && ls /scratch; grep ' /scratch ' /proc/mounts"
    printed = inside(sampan, ["--read-only", "--tmpfs", "/scratch:size=1m,mode=1777"], script).splitlines()
    assert printed[0] == "touch: /x: Read-only file system"
    assert printed[1] == "ok"
    assert printed[2].startswith("tmpfs /scratch tmpfs rw,nosuid,nodev,noexec") and "size=1024k" in printed[2]


def test_init_reaps_orphans_and_passes_signals_on(sampan: Any) -> None:
    # An orphan whose parent is gone: with a shell that only waits for its own child it would stay a zombie.
    script = "sh -c 'sleep 0 & exec true'; sh -c '(sleep 0.1 &) ; exit'; sleep 0.5; ps -o pid,stat,comm"
    printed = inside(sampan, ["--init"], script)
    first = printed.splitlines()[1].split()
    assert first[0] == "1" and first[2] != "sh"
    assert " Z " not in printed
    sampan.ok("run", "-d", "--init", "--name", "inited", BUSYBOX, "sleep", "1000")
    sampan.ok("stop", "-t", "30", "inited")
    assert sampan.ok("inspect", "-f", "{{.State.ExitCode}}", "inited") == "143"


def test_bind_mounts_follow_their_options(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("from the host\n")
    assert inside(sampan, ["-v", f"{tmp_path}/d:/d"], "cat /d/f; touch /d/made") == "from the host"
    assert (tmp_path / "d" / "made").exists()
    assert "Read-only" in inside(sampan, ["-v", f"{tmp_path}/d:/d:ro"], "touch /d/x 2>&1; true")
    one_file = ["--mount", f"type=bind,source={tmp_path}/d/f,target=/one,readonly"]
    assert (
        inside(sampan, one_file, "cat /one; echo x 2>/dev/null > /one || echo refused")
        == "from the host\nrefused"
    )
    assert inside(sampan, ["-v", f"{tmp_path}/new:/n"], "touch /n/x") == ""
    assert (tmp_path / "new" / "x").exists()
    done = sampan.run("run", "--rm", "--mount", f"type=bind,source={tmp_path}/no,target=/n", BUSYBOX, "true")
    assert done.returncode == 125
    assert "bind source path does not exist" in done.stderr


def test_tmpfs_and_volume_mounts_by_the_long_form(sampan: Any) -> None:
    flags = [
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=2m,tmpfs-mode=0700",
        "--mount",
        "type=volume,src=vv,dst=/v",
    ]
    printed = inside(sampan, flags, "grep ' /t ' /proc/mounts; stat -c %a /t; touch /v/x").splitlines()
    assert "size=2048k" in printed[0]
    assert printed[1] == "700"
    mountpoint = Path(sampan.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "vv"))
    assert (mountpoint / "x").exists()


def test_labels_are_kept_and_found(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("from=file\n")
    sampan.ok(
        "run",
        "-d",
        "-l",
        "a=b",
        "--label",
        "c",
        "--label-file",
        str(tmp_path / "labels"),
        BUSYBOX,
        "sleep",
        "99",
    )
    labels = json.loads(sampan.ok("inspect", "-f", "{{json .Config.Labels}}", sampan.ok("ps", "-q")))
    assert labels == {"a": "b", "c": "", "from": "file"}
    assert sampan.ok("ps", "-q", "--filter", "label=a=b") == sampan.ok("ps", "-q")
    assert sampan.ok("ps", "-q", "--filter", "label=a=x") == ""


def test_restart_on_failure_stops_after_its_count(sampan: Any, wait_until: Any) -> None:
    script = "echo try; exit 3"
    sampan.ok("run", "-d", "--restart", "on-failure:2", "--name", "retries", BUSYBOX, "sh", "-c", script)
    wait_until(
        lambda: sampan.ok("inspect", "-f", "{{.State.Status}}", "retries") == "exited", "the end of retries"
    )
    assert sampan.ok("inspect", "-f", "{{.RestartCount}} {{.State.ExitCode}}", "retries") == "2 3"
    assert sampan.ok("logs", "retries") == "try\ntry\ntry"


def test_restart_on_failure_leaves_success_alone(sampan: Any) -> None:
    sampan.ok("run", "-d", "--restart", "on-failure", "--name", "fine", BUSYBOX, "true")
    assert sampan.ok("wait", "fine") == "0"
    assert sampan.ok("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "fine") == "0 exited"


def test_restart_always_starts_again_until_it_is_stopped(sampan: Any, wait_until: Any) -> None:
    sampan.ok(
        "run", "-d", "--restart", "always", "--name", "eternal", BUSYBOX, "sh", "-c", "echo up; sleep 0.2"
    )
    wait_until(lambda: int(sampan.ok("inspect", "-f", "{{.RestartCount}}", "eternal")) >= 2, "two restarts")
    sampan.ok("stop", "-t", "0", "eternal")
    count = sampan.ok("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "eternal")
    assert count.endswith(" exited")
    sampan.ok("start", "eternal")
    assert sampan.ok("inspect", "-f", "{{.State.Running}}", "eternal") == "true"
    done = sampan.run("run", "--rm", "--restart", "always", BUSYBOX, "true")
    assert done.returncode == 125
    assert "onflicting options" in done.stderr


def test_capabilities_seccomp_and_no_new_privileges_are_dockers(sampan: Any) -> None:
    script = "grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status | tr '\\t' ' '"
    assert inside(sampan, [], script) == "CapEff: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 2"
    dropped = inside(sampan, ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"], script)
    assert "CapEff: 0000000000000400" in dropped
    open_ended = inside(
        sampan, ["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"], script
    )
    assert open_ended.endswith("NoNewPrivs: 1\nSeccomp: 0")
    assert inside(sampan, ["--privileged"], "mount -t tmpfs none /tmp && echo done") == "done"


def test_more_flags_have_their_effect(sampan: Any, tmp_path: Path) -> None:
    flags = [
        "--add-host",
        "friend:10.1.2.3",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "corp.test",
        "--ulimit",
        "nofile=77:88",
    ]
    script = "grep friend /etc/hosts; cat /etc/resolv.conf; ulimit -n; ulimit -Hn"
    printed = inside(sampan, flags, script)
    assert "10.1.2.3\tfriend" in printed
    assert "nameserver 192.0.2.53" in printed and "search corp.test" in printed
    assert printed.endswith("77\n88")
    assert inside(sampan, ["--shm-size", "3m"], "df -k /dev/shm | tail -1 | awk '{print $2}'") == "3072"
    assert inside(sampan, ["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward") == "1"
    groups = "grep Groups /proc/self/status | cut -f2"
    assert inside(sampan, ["--group-add", "daemon", "--group-add", "77"], groups) == "0 1 77"
    assert inside(sampan, ["--device", "/dev/loop-control:/dev/lc"], "stat -c %t:%T /dev/lc") == "a:ed"
    cid = tmp_path / "cid"
    sampan.ok("run", "-d", "--cidfile", str(cid), "--stop-signal", "USR1", "--mac-address", "02:42:ac:11:00:99",
              "--name", "many", BUSYBOX, "sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.05; done")  # fmt: skip
    assert cid.read_text() == sampan.ok("inspect", "-f", "{{.Id}}", "many")
    assert sampan.ok("exec", "many", "cat", "/sys/class/net/eth0/address") == "02:42:ac:11:00:99"
    sampan.ok("stop", "-t", "20", "many")
    assert sampan.ok("inspect", "-f", "{{.State.ExitCode}}", "many") == "9"


def test_signals_of_the_terminal_reach_the_container(sampan: Any) -> None:
    client = sampan.start("run", "--name", "proxied", BUSYBOX, "sh", "-c",
                          "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done")  # fmt: skip
    assert client.stdout.readline() == b"ready\n"
    client.terminate()
    out, _ = client.communicate(timeout=20)
    assert (client.returncode, out) == (5, b"caught\n")


def test_no_descriptor_or_mount_of_the_host_is_inside(sampan: Any) -> None:
    assert inside(sampan, [], "ls /proc/self/fd | wc -l") == "4"  # 0, 1, 2 and ls's own
    mounts = inside(sampan, [], "cat /proc/self/mountinfo")
    assert str(sampan.engine.directory) not in [line.split()[4] for line in mounts.splitlines()]
    host_mounts = subprocess.run(
        ["cat", "/proc/self/mountinfo"], capture_output=True, text=True, check=True
    ).stdout
    assert str(sampan.engine.directory) not in host_mounts
