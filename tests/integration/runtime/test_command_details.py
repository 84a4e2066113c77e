"""`sampan-runtime` judged from outside, further: descriptors, hooks, the seccomp agent, figures. On runc first."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.namespaces import has_time
from sampan.oci import spec as oci

pytestmark = pytest.mark.root

FILES = "cat <&3; for n in 4 5 6 7 8 9; do test -e /proc/self/fd/$n && echo leaked $n; done; echo $LISTEN_FDS"


def with_descriptors(*descriptors: int) -> dict[str, Any]:
    """For `Runtime.call`: the program gets these from 3 on, and one more that nobody spoke of."""

    def place() -> None:
        # Out of the way first: the numbers to fill may be in use.
        held = [os.dup(number) for number in descriptors]
        high = [__import__("fcntl").fcntl(number, 0, 20) for number in held]
        for target, source in enumerate((*high, 1), 3):
            os.dup2(source, target, inheritable=True)

    return {"preexec_fn": place, "close_fds": False}


def test_preserved_descriptors_reach_the_program_and_no_others_do(
    runtime: Any, harbour: Any, tmp_path: Path
) -> None:
    (tmp_path / "given").write_text("given\n")
    with open(tmp_path / "given") as given:
        bundle = runtime.bundle(harbour.spec("sh", "-c", FILES))
        options = with_descriptors(given.fileno())
        name = runtime.new_id()
        done = runtime.call("run", "--bundle", str(bundle), "--preserve-fds", "1", name, **options)
    assert done.stdout.split() == ["given"]


def test_an_exec_gets_preserved_descriptors(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given\n")
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    with open(tmp_path / "given") as given:
        options = with_descriptors(given.fileno())
        done = runtime.call("exec", "--preserve-fds", "1", name, "sh", "-c", FILES, **options)
    assert done.stdout.split() == ["given"]


def test_a_descriptor_that_is_not_open_cannot_be_preserved(runtime: Any, harbour: Any) -> None:
    bundle = runtime.bundle(harbour.spec("true"))
    done = runtime.call("run", "--bundle", str(bundle), "--preserve-fds", "7", runtime.new_id())
    assert done.returncode == 1
    assert "preserved-fd" in done.stdout


def test_sockets_of_activation_are_handed_on(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given\n")
    bundle = runtime.bundle(harbour.spec("sh", "-c", "cat <&3; echo $LISTEN_FDS $LISTEN_PID"))
    # Only the process itself may say that they are its own: a shell that becomes the runtime.
    name = runtime.new_id()
    words = " ".join(runtime.command("run", "--bundle", str(bundle), name))
    script = f"exec 3<{tmp_path}/given; export LISTEN_FDS=1 LISTEN_PID=$$; exec {words}"
    done = runtime.raw("sh", "-c", script)
    assert done.stdout.split() == ["given", "1", "1"]


def hook(script: str, **fields: Any) -> tuple[oci.Hook, ...]:
    return (oci.Hook("/bin/sh", ("sh", "-c", script), ("PATH=/bin:/usr/bin", "WORD=env"), **fields),)


def test_a_start_hook_runs_inside_before_the_program_with_its_environment(runtime: Any, harbour: Any) -> None:
    hooks = oci.Hooks(start_container=hook("cat > /state; echo $WORD $(pwd) > /hooked"))
    made = harbour.spec("sh", "-c", "cat /hooked /state", hooks=hooks)
    first, _, state = runtime.run(made).stdout.partition("\n")
    assert first == "env /"
    assert json.loads(state)["status"] == "created"


def test_a_hook_that_takes_too_long_fails_the_creation(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    hooks = oci.Hooks(create_runtime=hook("exec sleep 60", timeout=1))
    bundle = runtime.bundle(harbour.spec("true", hooks=hooks))
    done = runtime.call("create", "--bundle", str(bundle), runtime.new_id())
    assert done.returncode == 1
    assert "hook ran past specified timeout" in done.stdout


def test_after_a_failing_hook_the_poststop_hooks_run(ours: Any, harbour: Any, tmp_path: Path) -> None:
    """runtime.md, "Lifecycle": the life goes on at the step that undoes all. runc does not do it."""
    told = tmp_path / "told"
    hooks = oci.Hooks(create_runtime=(oci.Hook("/bin/false"),), poststop=hook(f"cat > {told}"))
    name = ours.new_id()
    done = ours.call("create", "--bundle", str(ours.bundle(harbour.spec("true", hooks=hooks))), name)
    assert done.returncode == 1
    assert json.loads(told.read_text())["status"] == "stopped"
    assert ours.call("state", name).returncode == 1


def test_a_failing_poststart_hook_is_a_warning_and_the_next_one_runs(
    ours: Any, harbour: Any, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    hooks = oci.Hooks(poststart=(oci.Hook("/bin/false"), *hook(f"cat > {told}")))
    name = ours.create(harbour.spec("sleep", "100", hooks=hooks))
    done = ours.call("start", name)
    assert done.returncode == 0
    assert "error running hook" in done.stdout
    assert json.loads(told.read_text())["status"] == "running"
    assert ours.state(name)["status"] == "running"


def test_figures_are_printed_once_and_memory_limits_take_units(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    assert runtime.call("update", "--memory", "64M", "--memory-swap", "128M", name).returncode == 0
    event = json.loads(runtime.call("events", "--stats", name).stdout)
    assert (event["type"], event["id"]) == ("stats", name)
    assert event["data"]["pids"]["current"] == 1
    assert event["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert event["data"]["cpu"]["usage"]["total"] > 0
    assert set(event["data"]) >= {"cpu", "memory", "pids", "blkio"}


def test_events_end_with_the_container(ours: Any, harbour: Any) -> None:
    name = ours.create(harbour.spec("sleep", "100"))
    ours.call("start", name)
    command = ours.command("events", "--interval", "50ms", name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        said = [json.loads(events.stdout.readline()) for _ in range(2)]
        ours.call("kill", name, "KILL")
        assert events.wait(20) == 0
    assert [event["type"] for event in said] == ["stats", "stats"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"intel_rdt": {"closID": "x"}}, "linux.intelRdt"),
        ({"net_devices": {"eth0": {}}}, "linux.netDevices"),
        ({"resources": oci.Resources(hugepage_limits=({"pageSize": "2MB", "limit": 1},))}, "hugepageLimits"),
        ({"resources": oci.Resources(network=oci.NetworkLimits(class_id=1))}, "resources.network"),
        ({"personality": oci.Personality("VAX")}, "VAX"),
        ({"time_offsets": {"monotonic": oci.TimeOffset(1)}}, "time namespace"),
    ],
)
def test_what_is_not_done_is_refused_by_name(ours: Any, harbour: Any, part: Any, words: str) -> None:
    done = ours.run(harbour.spec("true", linux=part))
    assert done.returncode == 1
    assert words in done.stdout


def test_a_process_cannot_be_scheduled_or_checkpointed(ours: Any, harbour: Any) -> None:
    done = ours.run(harbour.spec("true", process={"scheduler": {"policy": "SCHED_FIFO"}}))
    assert (done.returncode, "process.scheduler is not supported" in done.stdout) == (1, True)
    refused = ours.call("checkpoint", "any", "--image-path", "x")
    assert (refused.returncode, "checkpoint is not supported" in refused.stdout) == (1, True)


def test_the_personality_and_io_priority_are_the_programs(ours: Any, harbour: Any) -> None:
    made = harbour.spec(
        "sh",
        "-c",
        "uname -m; ionice -p $$",
        linux={
            "personality": oci.Personality("LINUX32"),
            "seccomp": oci.Seccomp(
                "SCMP_ACT_ALLOW", syscalls=(oci.SeccompRule(("swapon",), "SCMP_ACT_LOG"),)
            ),
        },
        process={"io_priority": oci.IoPriority("IOPRIO_CLASS_BE", 6)},
    )
    done = ours.run(made)
    assert done.stdout.split()[:1] == ["i686" if os.uname().machine == "x86_64" else "armv8l"], done.stdout
    assert "best-effort: prio 6" in done.stdout


def test_clocks_are_shifted_in_a_time_namespace(ours: Any, harbour: Any) -> None:
    if not has_time():
        pytest.skip("this kernel has no time namespaces")
    kinds = ("pid", "mount", "uts", "ipc", "network", "cgroup", "time")
    linux = {
        "namespaces": tuple(oci.Namespace(kind) for kind in kinds),
        "time_offsets": {"boottime": oci.TimeOffset(1_000_000), "monotonic": oci.TimeOffset(5, 7)},
    }
    name = ours.create(harbour.spec("sh", "-c", "cat /proc/uptime; exec sleep 100", linux=linux))
    ours.call("start", name)
    inside = ours.call("exec", name, "cat", "/proc/uptime", "/proc/self/timens_offsets").stdout.split()
    assert 0 <= float(inside[0]) - 1_000_000 - float(Path("/proc/uptime").read_text().split()[0]) + 5 < 10
    assert inside[2:] == ["monotonic", "5", "7", "boottime", "1000000", "0"]
    path = f"/proc/{ours.state(name)['pid']}/ns/time"
    namespaces = (*(oci.Namespace(kind) for kind in kinds[:-1]), oci.Namespace("time", path))
    joined = ours.run(harbour.spec("cat", "/proc/uptime", linux={"namespaces": namespaces}))
    assert float(joined.stdout.split()[0]) > 1_000_000
    # With its processes too, which are entered at another moment.
    beside = oci.Namespace("pid", path.replace("time", "pid"))
    namespaces = (*(one for one in namespaces if one.type != "pid"), beside)
    joined = ours.run(harbour.spec("cat", "/proc/uptime", "/proc/1/comm", linux={"namespaces": namespaces}))
    assert float(joined.stdout.split()[0]) > 1_000_000
    assert joined.stdout.split()[2] == "sleep"


class Agent(threading.Thread):
    """Answers one notified call with an errno (seccomp_unotify(2)); keeps what it was told."""

    _RECEIVE, _SEND = 0xC0502100, 0xC0182101

    def __init__(self, path: Path, errno: int) -> None:
        super().__init__(daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._errno = errno
        self.told: dict[str, Any] = {}
        self.calls: list[int] = []

    def run(self) -> None:
        import fcntl

        connection, _ = self._listener.accept()
        with connection, self._listener:
            message, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        self.told = json.loads(message)
        descriptor = array.array("i", control[0][2])[0]
        notification = bytearray(80)  # struct seccomp_notif
        fcntl.ioctl(descriptor, self._RECEIVE, notification)
        number = struct.unpack_from("=QIIi", notification)
        self.calls.append(number[3])
        answer = struct.pack("=QqiI", number[0], 0, -self._errno, 0)
        fcntl.ioctl(descriptor, self._SEND, bytearray(answer))
        os.close(descriptor)


def test_a_seccomp_agent_answers_for_the_kernel(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", 22)
    agent.start()
    profile = oci.Seccomp(
        "SCMP_ACT_ALLOW",
        listener_path=str(tmp_path / "agent"),
        listener_metadata="harbour",
        syscalls=(oci.SeccompRule(("mkdir", "mkdirat"), "SCMP_ACT_NOTIFY"),),
    )
    # runc loads such a filter when it creates the container: mkdir is asked for by the program only.
    done = runtime.run(harbour.spec("mkdir", "/made", linux={"seccomp": profile}))
    agent.join(20)
    assert "Invalid argument" in done.stdout
    assert agent.told["metadata"] == "harbour"
    assert agent.told["fds"] == ["seccompFd"]
    assert agent.told["state"]["id"]
    assert agent.told["pid"] > 1
    assert len(agent.calls) == 1


def test_a_seccomp_agent_hears_of_further_processes_too(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    profile = oci.Seccomp(
        "SCMP_ACT_ALLOW",
        listener_path=str(tmp_path / "agent"),
        syscalls=(oci.SeccompRule(("mkdir", "mkdirat"), "SCMP_ACT_NOTIFY"),),
    )
    first = Agent(tmp_path / "agent", 22)
    first.start()
    name = runtime.create(harbour.spec("sh", "-c", "mkdir /x; exec sleep 100", linux={"seccomp": profile}))
    runtime.call("start", name)
    first.join(20)
    (tmp_path / "agent").unlink()
    second = Agent(tmp_path / "agent", 17)
    second.start()
    done = runtime.call("exec", name, "sh", "-c", "mkdir /y; readlink /proc/self")
    second.join(20)
    assert "File exists" in done.stdout
    assert second.told["state"]["id"] == name
    # The host's number, not that in the container.
    assert second.told["pid"] not in (first.told["pid"], int(done.stdout.split()[-1]))


@pytest.mark.parametrize("call", ["sendmsg", "default"])
def test_an_agent_cannot_have_what_the_runtime_needs_itself(ours: Any, harbour: Any, call: str) -> None:
    default = "SCMP_ACT_NOTIFY" if call == "default" else "SCMP_ACT_ALLOW"
    rules = (oci.SeccompRule((call,), "SCMP_ACT_NOTIFY"),)
    profile = oci.Seccomp(default, listener_path="/run/agent", syscalls=rules)
    done = ours.run(harbour.spec("true", linux={"seccomp": profile}))
    assert done.returncode == 1
    assert "SCMP_ACT_NOTIFY cannot be used" in done.stdout
