"""`sampan-runtime` judged from outside: every test runs on runc first, then on ours."""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.oci import spec as oci

pytestmark = pytest.mark.root

REFERENCE = Path(__file__).parents[4] / "shared/reference/oci-runtime"


def test_run_has_the_programs_exit_code_and_output(runtime: Any, harbour: Any) -> None:
    done = runtime.run(harbour.spec("sh", "-c", "echo hello; exit 17"))
    assert (done.returncode, done.stdout) == (17, "hello\n")


def test_the_life_of_a_container(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    name = runtime.create(
        harbour.spec("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"),
        "--pid-file",
        str(tmp_path / "pid"),
    )
    state = runtime.state(name)
    assert (state["status"], state["id"]) == ("created", name)
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    assert runtime.call("start", name).returncode == 0
    assert runtime.state(name)["status"] == "running"
    assert runtime.call("start", name).returncode != 0
    refused = runtime.call("delete", name)
    assert refused.returncode != 0
    assert "that is not stopped: running" in refused.stdout
    assert runtime.call("kill", name, "KILL").returncode == 0
    runtime.wait_for(name, "stopped")
    assert runtime.call("kill", name, "TERM").returncode != 0
    assert runtime.call("delete", name).returncode == 0
    gone = runtime.call("state", name)
    assert gone.returncode != 0
    assert "does not exist" in gone.stdout


def test_a_pid_file_is_not_written_through_a_link_and_a_state_not_read_beside_the_root(
    ours: Any, harbour: Any, tmp_path: Path
) -> None:
    (tmp_path / "pids").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("pid", "pid.tmp", ".pid"):
        (tmp_path / "pids" / name).symlink_to(victim)
    name = ours.create(harbour.spec("true"), "--pid-file", str(tmp_path / "pids/pid"))
    assert victim.read_text() == "untouched"
    assert int((tmp_path / "pids/pid").read_text()) == ours.state(name)["pid"]
    # A root inside another one's directory, say of a container that an attacker has named.
    inside = Path(ours.command()[2]) / name / "inner"
    inside.mkdir()
    inner = ("--root", str(inside))
    for bad in ("..", ".", "../x", "x/../..", "/etc", ""):
        done = ours.call("delete", "--force", bad, options=inner)
        assert "does not exist" in done.stdout or done.stdout == "", (bad, done.stdout)
        assert ours.state(name)["status"] == "created"
    inside.rmdir()


def test_the_state_follows_the_schema(runtime: Any, harbour: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    if not REFERENCE.is_dir():
        pytest.skip("the runtime-spec's schemas are not at hand")
    definitions = json.loads((REFERENCE / "defs.json").read_text())
    schema = json.loads((REFERENCE / "state-schema.json").read_text().replace("defs.json#", "#"))
    schema["definitions"] = definitions["definitions"]
    name = runtime.create(harbour.spec("true", annotations={"org.example.key": "value"}))
    jsonschema.validate(runtime.state(name), schema)
    assert runtime.state(name)["annotations"]["org.example.key"] == "value"


def test_an_id_can_be_used_once(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("true"))
    again = runtime.call("create", "--bundle", str(runtime.bundle(harbour.spec("true"))), name)
    assert again.returncode != 0
    assert "container with given ID already exists" in again.stdout


def test_a_missing_program_fails_the_creation(runtime: Any, harbour: Any) -> None:
    name = runtime.new_id()
    done = runtime.call("create", "--bundle", str(runtime.bundle(harbour.spec("nosuch"))), name)
    assert done.returncode == 1
    assert '"nosuch": executable file not found in $PATH' in done.stdout.replace("\\", "")
    assert runtime.call("state", name).returncode != 0


def test_errors_go_to_the_log_as_json(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    runtime.call("state", "nosuch", options=("--log", str(log), "--log-format", "json"))
    entry = json.loads(log.read_text().splitlines()[-1])
    assert entry["level"] == "error"
    assert "does not exist" in entry["msg"]
    assert set(entry) == {"level", "msg", "time"}


def test_exec_has_its_own_exit_code_user_and_directory(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    done = runtime.call(
        "exec",
        "--user",
        "1000:1001",
        "--cwd",
        "/etc",
        "--env",
        "X=y",
        name,
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $X; exit 8",
    )
    assert (done.returncode, done.stdout.split()) == (8, ["1000", "1001", "/etc", "y"])
    missing = runtime.call("exec", name, "nosuch")
    assert missing.returncode == 255
    assert "executable file not found in $PATH" in missing.stdout


def test_exec_takes_a_process_file(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    process = oci.Process("/tmp", args=("sh", "-c", "pwd; exit 2"), env=("PATH=/bin",))
    (tmp_path / "process.json").write_bytes(msgspec.json.encode(process))
    done = runtime.call("exec", "--process", str(tmp_path / "process.json"), name)
    assert (done.returncode, done.stdout) == (2, "/tmp\n")


def test_ps_lists_the_processes(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    assert json.loads(runtime.call("ps", "--format", "json", name).stdout) == [runtime.state(name)["pid"]]


def test_a_paused_container_is_resumed(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    assert runtime.call("pause", name).returncode == 0
    assert runtime.state(name)["status"] == "paused"
    assert runtime.call("resume", name).returncode == 0
    assert runtime.state(name)["status"] == "running"


def test_limits_can_be_changed(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("sleep", "100"))
    runtime.call("start", name)
    assert runtime.call("update", "--pids-limit", "1", name).returncode == 0
    done = runtime.call("exec", name, "sh", "-c", "true | true")
    assert done.returncode != 0


def test_hooks_run_at_their_places(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.touch()

    def hook(name: str) -> tuple[oci.Hook, ...]:
        script = f"read -r state; printf '{name} %s\\n' \"$state\" >> {trace}"
        return (oci.Hook("/bin/sh", ("sh", "-c", script), ("PATH=/bin:/usr/bin",)),)

    hooks = oci.Hooks(
        prestart=hook("prestart"),
        create_runtime=hook("createRuntime"),
        create_container=hook("createContainer"),
        poststart=hook("poststart"),
        poststop=hook("poststop"),
    )
    name = runtime.create(harbour.spec("sh", "-c", "sleep 100", hooks=hooks))
    created = [line.split()[0] for line in trace.read_text().splitlines()]
    # runc runs poststart already when the container is created.
    assert created[:3] == ["prestart", "createRuntime", "createContainer"]
    state = json.loads(trace.read_text().splitlines()[1].partition(" ")[2])
    assert (state["id"], state["pid"]) == (name, runtime.state(name)["pid"])
    runtime.call("start", name)
    runtime.call("delete", "--force", name)
    assert [line.split()[0] for line in trace.read_text().splitlines()] == [
        *created[:3],
        "poststart",
        "poststop",
    ]


def test_a_failing_hook_fails_the_creation(runtime: Any, harbour: Any) -> None:
    hooks = oci.Hooks(create_runtime=(oci.Hook("/bin/false"),))
    done = runtime.call(
        "create", "--bundle", str(runtime.bundle(harbour.spec("true", hooks=hooks))), runtime.new_id()
    )
    assert done.returncode == 1
    assert "error running" in done.stdout


def test_the_console_socket_gets_the_terminal(runtime: Any, harbour: Any, tmp_path: Path) -> None:
    path = tmp_path / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        made = harbour.spec("sh", "-c", "test -t 0 && echo terminal", process={"terminal": True})
        name = runtime.create(made, "--console-socket", str(path))
        connection, _ = listener.accept()
    with connection:
        _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    master = array.array("i", control[0][2])[0]
    try:
        assert runtime.call("start", name).returncode == 0
        assert os.read(master, 100) == b"terminal\r\n"
    finally:
        os.close(master)


def test_a_container_that_waits_can_be_killed_and_deleted(runtime: Any, harbour: Any) -> None:
    name = runtime.create(harbour.spec("true"))
    assert runtime.call("kill", name, str(int(signal.SIGKILL))).returncode == 0
    runtime.wait_for(name, "stopped")
    assert runtime.call("delete", name).returncode == 0


def test_the_written_specification_is_valid_and_not_overwritten(runtime: Any, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    if not REFERENCE.is_dir():
        pytest.skip("the runtime-spec's schemas are not at hand")
    assert runtime.call("spec", cwd=tmp_path).returncode == 0
    written = json.loads((tmp_path / "config.json").read_text())
    referencing = pytest.importorskip("referencing.jsonschema")
    registry = referencing.SchemaRegistry()
    for path in REFERENCE.glob("*.json"):
        resource = referencing.DRAFT4.create_resource(json.loads(path.read_text()))
        registry = registry.with_resource(path.name, resource)
    schema = registry.contents("config-schema.json")
    jsonschema.Draft4Validator(schema, registry=registry).validate(written)
    again = runtime.call("spec", cwd=tmp_path)
    assert again.returncode == 1
    assert "File config.json exists" in again.stdout


PROBE = """
grep -E '^(Cap|NoNewPrivs|Seccomp|SigIgn|SigBlk|Umask|Groups|Uid|Gid)' /proc/self/status
cat /proc/self/limits
ls -l /dev | sed -e 's/ [A-Z][a-z][a-z] .*:[0-9][0-9]//'
cat /proc/self/oom_score_adj
"""


def test_inside_all_is_as_under_runc(tmp_path: Path, rootfs: Path, harbour: Any, make_runtime: Any) -> None:
    """The same bundle under both: credentials, limits, devices, mounts with their options, masks, exit code."""
    data = tmp_path / "data"
    data.mkdir()
    profile = oci.Seccomp("SCMP_ACT_ALLOW", syscalls=(oci.SeccompRule(("swapon",), "SCMP_ACT_ERRNO", 1),))
    process = {
        "rlimits": (oci.Rlimit("RLIMIT_NOFILE", 1024, 1024), oci.Rlimit("RLIMIT_NPROC", 90, 80)),
        "user": oci.User(1000, 1001, additional_gids=(10, 29)),
        "oom_score_adj": 100,
    }
    mounts = (
        *harbour.spec("x").mounts,
        oci.Mount("/srv/ro", "bind", str(data), ("rbind", "ro", "nosuid", "nodev")),
        oci.Mount("/srv/rw", "bind", str(data), ("bind", "rprivate")),
        oci.Mount("/scratch", "tmpfs", "tmpfs", ("size=1m", "mode=1770", "noexec", "noatime")),
    )
    linux = {"seccomp": profile, "devices": (oci.Device("/dev/fuse", "c", 10, 229, file_mode=0o660, gid=10),)}
    results = {}
    for name in ("runc", "sampan"):
        runtime = make_runtime(name, tmp_path / name, rootfs)
        try:
            script = f"{PROBE}\necho MOUNTS; cat /proc/self/mountinfo; exit 5"
            made = harbour.spec("sh", "-c", script, process=process, mounts=mounts, linux=linux)
            done = runtime.run(made)
        finally:
            runtime.close()
        assert done.returncode == 5
        head, _, mountinfo = done.stdout.partition("MOUNTS\n")
        results[name] = (head.splitlines(), options_of(mountinfo))
    assert results["sampan"][0] == results["runc"][0]
    # runc leaves the tmpfs that holds version 1 hierarchies writable, though "ro" was asked for.
    for _, mounted in results.values():
        mounted.pop("/sys/fs/cgroup")
    assert results["sampan"][1] == results["runc"][1]


def options_of(mountinfo: str) -> dict[str, tuple[str, str, list[str]]]:
    """Mount point to its options, propagation left out, its type and its file system's own options."""
    result = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(), tail.split()
        own = sorted(set(re.sub(r"(size|nr_inodes)=\w+", r"\1", rest[2]).split(",")) - {"inode64"})
        result[fields[4]] = (fields[5], rest[0], own)
    return result
