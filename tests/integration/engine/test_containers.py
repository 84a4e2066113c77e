"""Containers end to end: the real docker client against an engine on the real pieces."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.config import CreateBody, HostConfig, RestartPolicy
from sampan.engine.model import ContainerRecord
from sampan.linux.cgroups import detect

pytestmark = pytest.mark.root


async def until(check: Callable[[], bool], timeout: float = 10) -> None:
    """Poll with a deadline, for what the kernel or the engine announces to nobody."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def record(engine: Any, name: str) -> ContainerRecord:
    found: ContainerRecord = engine.containers.record(name)
    return found


def log_of(engine: Any, name: str) -> bytes:
    container_id = record(engine, name).id
    path = engine.settings.containers_dir / container_id / f"{container_id}-json.log"
    return bytes(path.read_bytes()) if path.exists() else b""


def test_run_shows_output_and_passes_the_exit_code_on(place: Any) -> None:
    async def test(engine: Any) -> None:
        code, out, err = await engine.docker(
            "run", "--rm", "box:1", "sh", "-c", "echo out; echo err >&2; exit 7"
        )
        assert (code, out, err) == (7, "out\n", "err\n")
        assert engine.containers.records() == []
        assert os.listdir(engine.settings.containers_dir) == []

    place.run(test)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nonesuch", 127, 'exec: "nonesuch": executable file not found in $PATH'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_program_that_cannot_be_executed_has_dockers_code_and_words(
    place: Any, command: str, code: int, words: str
) -> None:
    async def test(engine: Any) -> None:
        got, _, err = await engine.docker("run", "--name", "failed", "box:1", command)
        assert got == code
        assert words in err
        failed = record(engine, "failed")
        assert failed.state.status == "created"
        assert words in failed.state.error
        assert all(endpoint.spec is None for endpoint in failed.endpoints.values())

    place.run(test)


def test_an_exec_that_cannot_be_executed_tells_the_attached_client_why(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "busy", "box:1", "sleep", "100")
        code, out, err = await engine.docker("exec", "busy", "nonesuch")
        assert code in (126, 127)
        assert 'exec: "nonesuch": executable file not found in $PATH' in out + err

    place.run(test)


def test_standard_input_reaches_the_container_and_ends_it(place: Any) -> None:
    async def test(engine: Any) -> None:
        code, out, _ = await engine.docker("run", "-i", "--rm", "box:1", "cat", stdin=b"through\n")
        assert (code, out) == (0, "through\n")

    place.run(test)


def test_a_new_volume_gets_the_images_files_with_owner_and_mode(place: Any) -> None:
    async def test(engine: Any) -> None:
        script = "stat -c '%u %a' /data /data/file; cat /data/file"
        _, out, _ = await engine.docker("run", "--rm", "-v", "named:/data", "box:1", "sh", "-c", script)
        assert out == "1000 750\n1000 644\nfrom the image\n"
        await engine.docker("run", "--rm", "-v", "named:/data", "box:1", "sh", "-c", "echo new > /data/file")
        _, out, _ = await engine.docker("run", "--rm", "-v", "named:/data", "box:1", "cat", "/data/file")
        assert out == "new\n"
        _, out, _ = await engine.docker(
            "run", "--rm", "-v", "other:/data:nocopy", "box:1", "ls", "-A", "/data"
        )
        assert out == ""
        code, _, err = await engine.docker("volume", "rm", "nonesuch")
        assert code == 1 and "get nonesuch: no such volume" in err

    place.run(test)


def test_a_missing_bind_source_is_made_with_v_and_refused_with_mount(place: Any) -> None:
    async def test(engine: Any) -> None:
        missing = engine.base / "missing"
        code, _, err = await engine.docker(
            "run", "--rm", "--mount", f"type=bind,src={missing},dst=/x", "box:1", "true"
        )
        assert code == 125
        assert f'invalid mount config for type "bind": bind source path does not exist: {missing}' in err
        assert not missing.exists()
        code, _, _ = await engine.docker("run", "--rm", "-v", f"{missing}:/x", "box:1", "true")
        assert code == 0 and missing.is_dir()

    place.run(test)


def test_names_conflict_in_dockers_words(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("create", "--name", "taken", "box:1")
        code, _, err = await engine.docker("create", "--name", "taken", "box:1")
        assert code == 1
        assert 'Conflict. The container name "/taken" is already in use by container' in err
        await engine.docker("create", "--name", "other", "box:1")
        code, _, err = await engine.docker("rename", "other", "taken")
        assert code == 1 and "Error when allocating new name: Conflict." in err
        await engine.docker("rename", "taken", "free")
        assert (await engine.docker("create", "--name", "taken", "box:1"))[0] == 0

    place.run(test)


def test_a_running_container_is_not_removed_without_force(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "runs", "box:1", "sleep", "1000")
        code, _, err = await engine.docker("rm", "runs")
        assert code == 1
        assert "You cannot remove a running container" in err
        assert (await engine.docker("rm", "-f", "runs"))[0] == 0
        assert engine.containers.records() == []

    place.run(test)


def test_stop_signals_first_and_kills_after_the_timeout(place: Any) -> None:
    async def test(engine: Any) -> None:
        polite = "trap 'exit 9' TERM; while :; do sleep 0.05; done"
        await engine.docker("run", "-d", "--name", "polite", "box:1", "sh", "-c", polite)
        await engine.docker("run", "-d", "--name", "deaf", "box:1", "sleep", "1000")
        await engine.containers.stop("polite", 10)
        await engine.containers.stop("deaf", 0)
        assert record(engine, "polite").state.exit_code == 9
        assert record(engine, "deaf").state.exit_code == 137

    place.run(test)


def test_pause_freezes_and_unpause_goes_on(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "frozen", "box:1", "sleep", "1000")
        await engine.docker("pause", "frozen")
        code, _, err = await engine.docker("pause", "frozen")
        assert code == 1 and "is already paused" in err
        code, _, err = await engine.docker("exec", "frozen", "true")
        assert code == 1 and "is paused" in err
        await engine.docker("unpause", "frozen")
        assert (await engine.docker("exec", "frozen", "true"))[0] == 0

    place.run(test)


def test_on_failure_restarts_as_often_as_it_was_told(place: Any) -> None:
    async def test(engine: Any) -> None:
        body = CreateBody(
            image="box:1", cmd=("sh", "-c", "exit 3"),
            host_config=HostConfig(restart_policy=RestartPolicy("on-failure", 2)),
        )  # fmt: skip
        await engine.containers.create("again", body)
        await engine.containers.start("again")
        await until(lambda: record(engine, "again").state.status == "exited")
        assert record(engine, "again").restart_count == 2
        assert record(engine, "again").state.exit_code == 3

    place.run(test)


def test_a_stopped_container_is_not_restarted_by_its_policy(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "always", "--restart", "always", "box:1", "sleep", "1000")
        first = record(engine, "always").state.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: record(engine, "always").state.pid not in (0, first))
        await engine.containers.stop("always", 0)
        assert record(engine, "always").state.status == "exited"

    place.run(test)


def test_exec_has_its_own_exit_code_user_and_environment(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "host", "box:1", "sleep", "1000")
        script = "id -u; pwd; echo $A; exit 5"
        code, out, _ = await engine.docker(
            "exec", "-u", "user", "-w", "/tmp", "-e", "A=b", "host", "sh", "-c", script
        )
        assert (code, out) == (5, "1000\n/tmp\nb\n")
        assert (await engine.docker("exec", "host", "nonesuch"))[0] == 127
        assert (await engine.docker("exec", "host", "/etc/passwd"))[0] == 126

    place.run(test)


def test_logs_can_be_read_followed_and_cut(place: Any) -> None:
    async def test(engine: Any) -> None:
        script = "echo one; echo two >&2; sleep 0.3; echo three"
        await engine.docker("run", "-d", "--name", "talks", "box:1", "sh", "-c", script)
        code, out, err = await engine.docker("logs", "-f", "talks")
        assert (code, out, err) == (0, "one\nthree\n", "two\n")
        _, out, _ = await engine.docker("logs", "--tail", "1", "talks")
        assert out == "three\n"

    place.run(test)


def test_files_are_copied_out_of_and_into_containers(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "files", "box:1", "sleep", "1000")
        given = engine.base / "given"
        given.write_text("given\n")
        assert (await engine.docker("cp", str(given), "files:/tmp/got"))[0] == 0
        assert (await engine.docker("exec", "files", "cat", "/tmp/got"))[1] == "given\n"
        assert (await engine.docker("cp", "files:/data", str(engine.base / "back")))[0] == 0
        assert (engine.base / "back" / "file").read_text() == "from the image\n"
        code, _, err = await engine.docker("cp", "files:/nonesuch", str(engine.base / "x"))
        assert code == 1 and "Could not find the file /nonesuch in container files" in err

    place.run(test)


def test_a_link_in_the_container_does_not_lead_cp_to_the_hosts_files(place: Any) -> None:
    async def test(engine: Any) -> None:
        secret = engine.base / "secret"
        secret.write_text("of the host\n")
        script = f"ln -s {engine.base} /leak; sleep 1000"
        await engine.docker("run", "-d", "--name", "evil", "box:1", "sh", "-c", script)
        await until(lambda: Path(f"/proc/{record(engine, 'evil').state.pid}/root/leak").is_symlink())
        code, _, _ = await engine.docker("cp", "evil:/leak/secret", str(engine.base / "copied"))
        assert code == 1
        assert not (engine.base / "copied").exists()

    place.run(test)


def test_diff_tells_what_was_added_changed_and_deleted(place: Any) -> None:
    async def test(engine: Any) -> None:
        script = "echo x > /tmp/new; rm /etc/group; echo y >> /etc/passwd"
        await engine.docker("run", "--name", "changed", "box:1", "sh", "-c", script)
        _, out, _ = await engine.docker("diff", "changed")
        assert set(out.splitlines()) == {"C /etc", "D /etc/group", "C /etc/passwd", "C /tmp", "A /tmp/new"}
        await engine.docker("run", "--name", "same", "box:1", "true")
        assert (await engine.docker("diff", "same"))[1] == ""

    place.run(test)


def test_commit_makes_an_image_with_the_changes(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "--name", "source", "box:1", "sh", "-c", "echo kept > /tmp/kept")
        code, out, _ = await engine.docker("commit", "-c", "CMD cat /tmp/kept", "source", "made:1")
        assert code == 0 and out.startswith("sha256:")
        assert (await engine.docker("run", "--rm", "made:1"))[1] == "kept\n"

    place.run(test)


def test_limits_reach_the_kernel_and_can_be_changed(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker(
            "run", "-d", "--name", "small", "-m", "32m", "--pids-limit", "50", "box:1", "sleep", "1000"
        )
        group = f"{engine.settings.cgroup_parent}/{record(engine, 'small').id}"
        stats = detect().group(group).stats()
        assert stats.memory.limit == 32 * 1024 * 1024
        assert stats.pids.limit == 50
        await engine.docker("update", "--memory", "64m", "--memory-swap", "128m", "small")
        assert detect().group(group).stats().memory.limit == 64 * 1024 * 1024

    place.run(test)


def test_health_checks_run_and_tell_the_status(place: Any) -> None:
    async def test(engine: Any) -> None:
        args = ("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms", "--health-retries", "2")
        script = "touch /tmp/well; sleep 1000"
        await engine.docker("run", "-d", "--name", "checked", *args, "box:1", "sh", "-c", script)

        def status() -> str:
            health = record(engine, "checked").state.health
            return health.status if health else ""

        await until(lambda: status() == "healthy")
        await engine.docker("exec", "checked", "rm", "/tmp/well")
        await until(lambda: status() == "unhealthy")
        _, out, _ = await engine.docker("ps", "--format", "{{.Status}}")
        assert "(unhealthy)" in out

    place.run(test)


def test_list_and_inspect_answer_with_dockers_members(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "seen", "-l", "a=b", "box:1", "sleep", "1000")
        _, out, _ = await engine.docker("ps", "--filter", "label=a=b", "--format", "{{.Names}} {{.Command}}")
        assert out == 'seen "sleep 1000"\n'
        _, out, _ = await engine.docker("inspect", "seen")
        body = json.loads(out)[0]
        assert body["Path"] == "sleep" and body["Args"] == ["1000"]
        assert body["State"]["Status"] == "running" and body["State"]["Pid"] > 0
        assert body["Config"]["Labels"] == {"from": "image", "a": "b"}
        assert body["NetworkSettings"]["Ports"] == {"80/tcp": None}
        code, _, err = await engine.docker("ps", "--filter", "foo=bar")
        assert code == 1 and "invalid filter 'foo'" in err

    place.run(test)


def test_events_of_a_run_come_in_dockers_order(place: Any) -> None:
    async def test(engine: Any) -> None:
        since = time.time_ns()
        await engine.docker("run", "--rm", "box:1", "sh", "-c", "exit 3")
        seen = []
        async for event in engine.events.subscribe({"type": ["container"]}, since, time.time_ns() + 10**8):
            seen.append(event)
        assert [event.action for event in seen] == ["create", "attach", "start", "die", "destroy"]
        assert seen[3].attributes["exitCode"] == "3"

    place.run(test)


def test_forty_containers_start_at_once(place: Any) -> None:
    async def test(engine: Any) -> None:
        async def one(number: int) -> None:
            body = CreateBody(image="box:1", cmd=("sleep", "1000"))
            container_id, _ = await engine.containers.create(f"many{number}", body)
            await engine.containers.start(container_id)

        await asyncio.gather(*(one(number) for number in range(40)))
        records = engine.containers.records()
        assert len([one for one in records if one.state.status == "running"]) == 40
        addresses = {one.endpoints["bridge"].spec.address for one in records if one.endpoints["bridge"].spec}
        assert len(addresses) == 40

    place.run(test)


def test_a_terminal_is_raw_and_an_exec_has_one_too(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-dt", "--name", "screen", "box:1", "sh", "-c", "tty; sleep 1000")
        await until(lambda: b"/dev/" in log_of(engine, "screen"))
        code, out, _ = await engine.docker("exec", "-t", "screen", "tty")
        assert (code, out) == (0, "/dev/pts/1\r\n")
        assert (await engine.docker("logs", "screen"))[1] == "/dev/pts/0\r\n"

    place.run(test)


def test_start_attached_passes_output_and_exit_code_on(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("create", "--name", "later", "box:1", "sh", "-c", "echo said; exit 8")
        for _ in range(2):
            code, out, _ = await engine.docker("start", "-a", "later")
            assert (code, out) == (8, "said\n")

    place.run(test)


def test_a_client_attached_to_a_running_container_gets_what_comes(place: Any) -> None:
    async def test(engine: Any) -> None:
        script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo came; exit 2"
        await engine.docker("run", "-d", "--name", "talks", "box:1", "sh", "-c", script)
        attached = asyncio.ensure_future(engine.docker("attach", "talks"))
        seen = engine.events.subscribe({"event": ["attach"]}, 0, None)
        await anext(seen)
        await engine.docker("exec", "talks", "touch", "/tmp/go")
        assert await attached == (2, "came\n", "")

    place.run(test)


def test_tmpfs_read_only_and_volumes_from_are_what_they_say(place: Any) -> None:
    async def test(engine: Any) -> None:
        code, _, err = await engine.docker("run", "--rm", "--read-only", "box:1", "touch", "/x")
        assert code == 1 and "Read-only file system" in err
        tmpfs = ("--tmpfs", "/scratch:size=1m", "--read-only")
        _, out, _ = await engine.docker(
            "run", "--rm", *tmpfs, "box:1", "sh", "-c", "echo x >/scratch/x; df /scratch"
        )
        assert " 1024 " in out
        await engine.docker("create", "--name", "owner", "-v", "shared:/shared", "box:1")
        await engine.docker("run", "--rm", "--volumes-from", "owner", "box:1", "touch", "/shared/made")
        assert (engine.volumes.path("shared") / "made").exists()
        code, _, err = await engine.docker(
            "run", "--rm", "--volumes-from", "owner:ro", "box:1", "touch", "/shared/more"
        )
        assert code == 1 and "Read-only file system" in err

    place.run(test)


def test_anonymous_volumes_go_with_a_container_that_removes_itself(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "--rm", "-v", "named:/named", "box:1", "true")
        assert (await engine.docker("volume", "ls", "-q"))[1] == "named\n"
        await engine.docker("run", "--name", "stays", "box:1", "true")
        assert len((await engine.docker("volume", "ls", "-q"))[1].split()) == 2
        await engine.docker("rm", "-v", "stays")
        assert (await engine.docker("volume", "ls", "-q"))[1] == "named\n"
        await engine.docker("volume", "prune", "-f")
        assert (await engine.docker("volume", "ls", "-q"))[1] == "named\n"

    place.run(test)


def test_namespaces_of_the_host_can_be_shared(place: Any) -> None:
    async def test(engine: Any) -> None:
        modes = ("--ipc", "host", "--uts", "host", "--pid", "host")
        script = "for kind in ipc uts pid mnt; do readlink /proc/self/ns/$kind; done"
        _, out, _ = await engine.docker("run", "--rm", *modes, "box:1", "sh", "-c", script)
        own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("ipc", "uts", "pid", "mnt")]
        assert out.split()[:3] == own[:3]
        assert out.split()[3] != own[3]

    place.run(test)


def test_options_of_security_and_limits_reach_the_process(place: Any) -> None:
    async def test(engine: Any) -> None:
        options = (
            *("--ulimit", "nofile=100:200", "--sysctl", "net.core.somaxconn=77", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--hostname", "named", "--add-host", "foo:1.1.1.1"),
        )
        script = "ulimit -n; cat /proc/sys/net/core/somaxconn; hostname; grep foo /etc/hosts; cat /proc/self/status"
        _, out, _ = await engine.docker("run", "--rm", *options, "box:1", "sh", "-c", script)
        assert out.splitlines()[:4] == ["100", "77", "named", "1.1.1.1\tfoo"]
        status = dict(line.split(":\t") for line in out.splitlines() if ":\t" in line)
        assert (int(status["CapEff"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")

    place.run(test)
