"""What outlives the engine: its end in good order, kill -9 at any moment, the death of a shim, a reboot."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.config import CreateBody, HostConfig, RestartPolicy
from sampan.engine.containers import lifecycle, recovery, runner
from sampan.errors import NotFound, Unavailable
from sampan.linux.cgroups import detect
from sampan.oci.image import Healthcheck
from sampan.runtime.messages import EXIT_FILE, SHIM_SOCKET
from sampan.runtime.shim_client import kill_shim
from sampan.storage.metadata import Metadata, Table

pytestmark = pytest.mark.root

_ENGINE = """
import asyncio, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("engine_conftest", sys.argv[1])
conftest = module_from_spec(spec)
sys.modules["engine_conftest"] = conftest
spec.loader.exec_module(conftest)

async def main():
    await conftest.make_engine(Path(sys.argv[2]), sys.argv[3])
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Process:
    """An engine in a process of its own, to be killed."""

    def __init__(self, place: Any) -> None:
        conftest = Path(__file__).with_name("conftest.py")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENGINE, str(conftest), str(place.base), place.instance],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._env = {**os.environ, "DOCKER_HOST": f"unix://{place.base}/api.sock"}

    def docker(self, *args: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *args], env=self._env, capture_output=True, text=True, timeout=30, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *args: str) -> subprocess.Popen[str]:
        """A client that is not waited for."""
        return subprocess.Popen(
            ["docker", *args], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


async def until(check: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def test_a_container_survives_kill_9_with_its_port_logs_names_and_exit_code(place: Any) -> None:
    first = Process(place)
    try:
        first.docker("network", "create", "net")
        script = "echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after; exit 4"
        first.docker(
            "run",
            "-d",
            "--name",
            "kept",
            "--network",
            "net",
            "-p",
            "127.0.0.1::80",
            "box:1",
            "sh",
            "-c",
            script,
        )
        before = json.loads(first.docker("inspect", "kept"))[0]
    finally:
        first.kill()

    async def test(engine: Any) -> None:
        after = await engine.containers.inspect("kept")
        assert after["State"] == before["State"]
        assert after["NetworkSettings"]["Ports"] == before["NetworkSettings"]["Ports"]
        _, out, _ = await engine.docker("run", "--rm", "--network", "net", "box:1", "nslookup", "kept")
        assert before["NetworkSettings"]["Networks"]["net"]["IPAddress"] in out
        waiting = engine.containers.wait("kept")
        await engine.docker("exec", "kept", "touch", "/tmp/go")
        assert (await waiting).exit_code == 4
        assert (await engine.docker("logs", "kept"))[1] == "before\nafter\n"

    place.run(test)


def test_an_end_while_no_engine_was_there_is_recorded_with_its_time_and_code(place: Any) -> None:
    first = Process(place)
    try:
        container_id = first.docker(
            "run", "-d", "--name", "ends", "box:1", "sh", "-c", "sleep 0.3; exit 6"
        ).strip()
    finally:
        first.kill()
    record = place.base / "run" / "containers" / container_id / EXIT_FILE

    async def wait() -> None:
        await until(record.exists)

    asyncio.run(wait())
    finished = json.loads(record.read_text())["finished_at"]

    async def test(engine: Any) -> None:
        state = engine.containers.record("ends").state
        assert (state.status, state.exit_code, state.finished_at) == ("exited", 6, finished)
        assert all(one.spec is None for one in engine.containers.record("ends").endpoints.values())
        assert await engine.containers.start("ends")

    place.run(test)


def test_a_reboot_leaves_exited_containers_and_starts_those_that_always_run(place: Any) -> None:
    first = Process(place)
    try:
        first.docker("run", "-d", "--name", "plain", "box:1", "sleep", "1000")
        first.docker("run", "-d", "--name", "always", "--restart", "always", "box:1", "sleep", "1000")
        pids = [int(first.docker("inspect", "-f", "{{.State.Pid}}", name)) for name in ("plain", "always")]
    finally:
        first.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # What a reboot does to a tmpfs.
    _wait_for_end(pids)
    shutil.rmtree(place.base / "run")

    async def test(engine: Any) -> None:
        plain = engine.containers.record("plain").state
        assert (plain.status, plain.exit_code) == ("exited", 255)
        await until(lambda: engine.containers.record("always").state.status == "running")

    place.run(test)


def _wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_9_in_the_middle_of_many_starts_leaves_a_consistent_state(place: Any) -> None:
    first = Process(place)
    clients = []
    try:
        clients = [first.start("run", "-d", "--name", f"part{n}", "box:1", "sleep", "1000") for n in range(8)]
        # As soon as the first one is there, the others are in the middle of something.
        clients[0].wait(30)
    finally:
        first.kill()
        for client in clients:
            client.communicate()

    async def test(engine: Any) -> None:
        known = {record.id for record in engine.containers.records()}
        for directory in (engine.settings.containers_dir, engine.settings.root / "snapshots"):
            assert set(os.listdir(directory)) <= known
        for record in engine.containers.records():
            if record.state.status == "running":
                assert Path(f"/proc/{record.state.pid}").exists()
                assert await engine.docker("exec", record.name, "true") == (0, "", "")
            else:
                assert record.state.status == "created"
                assert await engine.containers.start(record.id)

    place.run(test)


def test_the_death_of_a_shim_ends_its_container(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "orphan", "box:1", "sleep", "1000")
        state = engine.containers.record("orphan").state
        stat = Path(f"/proc/{state.pid}/stat").read_text()
        shim = int(stat.rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        await until(lambda: engine.containers.record("orphan").state.status == "exited")
        assert engine.containers.record("orphan").state.exit_code == 137
        await until(lambda: not Path(f"/proc/{state.pid}").exists())

    place.run(test)


def test_nothing_is_left_of_a_start_whose_shim_can_not_be_found(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(run_dir: Path, **_: object) -> None:
        (run_dir / SHIM_SOCKET).unlink(missing_ok=True)
        raise NotFound(f"no shim listens in {run_dir}")

    async def test(engine: Any) -> None:
        await engine.containers.create("lost", CreateBody(image="box:1", cmd=("sleep", "1000")))
        identity = engine.containers.record("lost").id
        with monkeypatch.context() as patched:
            patched.setattr(runner.ShimClient, "connect", lost)
            with pytest.raises(NotFound, match="no shim listens"):
                await engine.containers.start("lost")
        group = detect().group(f"{engine.settings.cgroup_parent}/{identity}")
        assert not group.exists()
        assert engine.containers.record("lost").state.status == "created"
        await engine.containers.start("lost")
        assert engine.containers.record("lost").state.status == "running"

    place.run(test)


def test_a_container_with_a_stopped_shim_delays_no_start_and_is_found_when_it_goes_on(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "SHIM_SECONDS", 0.1)
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.1)

    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "still", "box:1", "sleep", "1000")
        state = engine.containers.record("still").state
        stat = Path(f"/proc/{state.pid}/stat").read_text()
        shim = int(stat.rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGSTOP)
        try:
            await engine.close()
            again = await place.engine()
            assert again.containers.record("still").state == state
            assert Path(f"/proc/{state.pid}").exists()
            with pytest.raises(Unavailable, match="does not answer"):
                await again.containers.kill("still", "USR1")
        finally:
            os.kill(shim, signal.SIGCONT)
        stopped = False
        deadline = time.monotonic() + 10
        while not stopped:
            assert time.monotonic() < deadline
            try:
                stopped = await again.containers.stop("still", 0)
            except Unavailable:
                await asyncio.sleep(0.02)
        assert again.containers.record("still").state.exit_code == 137

    place.run(test)


@pytest.mark.parametrize("engine_restarts", [False, True])
def test_a_container_whose_shim_does_not_answer_can_be_killed_all_the_same(
    place: Any, monkeypatch: pytest.MonkeyPatch, engine_restarts: bool
) -> None:
    monkeypatch.setattr(recovery, "SHIM_SECONDS", 0.1)
    monkeypatch.setattr(lifecycle, "KILL_SECONDS", 0.1)

    async def test(engine: Any) -> None:
        for name in ("stopped", "removed"):
            await engine.docker("run", "-d", "--restart", "always", "--name", name, "box:1", "sleep", "1000")
        states = {name: engine.containers.record(name).state for name in ("stopped", "removed")}
        shims = [parent_of(state.pid) for state in states.values()]
        for shim in shims:
            os.kill(shim, signal.SIGSTOP)
        if engine_restarts:
            await engine.close()
            engine = await place.engine()
        await engine.containers.stop("stopped", 100)
        end = engine.containers.record("stopped").state
        assert (end.status, end.exit_code) == ("exited", 137)
        assert "shim did not answer" in end.error
        await engine.containers.remove("removed", force=True)
        assert [record.name for record in engine.containers.records()] == ["stopped"]
        for pid in (*shims, *(state.pid for state in states.values())):
            assert gone(pid)
        assert await engine.containers.start("stopped")

    place.run(test)


def test_health_goes_on_where_it_was_and_what_became_unhealthy_meanwhile_is_restarted(place: Any) -> None:
    async def test(engine: Any) -> None:
        body = CreateBody(
            image="box:1",
            cmd=("sh", "-c", "touch /tmp/well; exec sleep 1000"),
            healthcheck=Healthcheck(("CMD-SHELL", "test -e /tmp/well"), interval=100_000_000, retries=2),
            stop_timeout=0,
            host_config=HostConfig(restart_policy=RestartPolicy("always"), restart_unhealthy=True),
        )
        await engine.containers.create("checked", body)
        await engine.containers.start("checked")
        await until(lambda: status_of(engine, "checked") == "healthy")
        first = engine.containers.record("checked").state
        await engine.close()
        Path(f"/proc/{first.pid}/root/tmp/well").unlink()
        again = await place.engine()
        found = again.containers.record("checked").state
        assert found.pid == first.pid and found.health is not None and found.health.log
        await until(lambda: again.containers.record("checked").restart_count == 1)
        await until(lambda: status_of(again, "checked") == "healthy")
        assert again.containers.record("checked").state.pid != first.pid

    place.run(test)


def test_an_end_for_bad_health_that_no_engine_saw_is_a_failure_to_the_policy(place: Any) -> None:
    async def test(engine: Any) -> None:
        body = CreateBody(
            image="box:1",
            cmd=(
                "sh",
                "-c",
                "trap ': >/tmp/asked; test -e /tmp/end && exit 0' TERM; while :; do sleep 0.05; done",
            ),
            healthcheck=Healthcheck(("CMD", "false"), interval=50_000_000, retries=1),
            stop_timeout=-1,
            host_config=HostConfig(restart_policy=RestartPolicy("on-failure"), restart_unhealthy=True),
        )
        await engine.containers.create("checked", body)
        await engine.containers.start("checked")
        await until(lambda: status_of(engine, "checked") == "unhealthy")
        first = engine.containers.record("checked").state
        # It is asked to end when its bad health is on disk.
        await until(lambda: Path(f"/proc/{first.pid}/root/tmp/asked").exists())
        await engine.close()
        Path(f"/proc/{first.pid}/root/tmp/end").touch()
        os.kill(first.pid, signal.SIGTERM)
        await until(lambda: gone(first.pid))
        again = await place.engine()
        await until(lambda: again.containers.record("checked").restart_count == 1)

    place.run(test)


def status_of(engine: Any, name: str) -> str:
    health = engine.containers.record(name).state.health
    return health.status if health is not None else ""


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """No process any more, or one that only waits for being reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_container_stopped_by_a_person_stays_stopped_unless_it_always_runs(place: Any) -> None:
    async def first(engine: Any) -> None:
        for name, policy in (("unless", "unless-stopped"), ("always", "always")):
            body = CreateBody(
                image="box:1",
                cmd=("sleep", "1000"),
                host_config=HostConfig(restart_policy=RestartPolicy(policy)),
            )
            await engine.containers.create(name, body)
            await engine.containers.start(name)
            await engine.containers.stop(name, 0)
        await engine.close()
        again = await place.engine()
        await until(lambda: again.containers.record("always").state.status == "running")
        assert again.containers.record("unless").state.status == "exited"

    place.run(first)


def test_records_that_can_not_be_read_are_told_of_and_what_they_stand_for_is_kept(
    place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Half-written, empty, no text at all: of containers, a volume, a network and the default one."""
    first = Process(place)
    try:
        lost = first.docker("create", "--name", "lost", "-v", "data:/data", "box:1", "true").strip()
        newer = first.docker(
            "create", "--name", "newer", "-v", "needed:/n", "-v", "/a", "box:1", "true"
        ).strip()
        first.docker("volume", "create", "unneeded")
        first.docker("run", "--rm", "-v", "data:/data", "box:1", "touch", "/data/kept")
        networks = [first.docker("network", "create", "net").strip()]
        networks.append(first.docker("network", "inspect", "-f", "{{.Id}}", "bridge").strip())
        first.docker("create", "--name", "whole", "-v", "data:/data", "box:1", "ls", "/data")
    finally:
        first.kill()
    root = place.base / "root"
    metadata = Metadata(root)
    try:
        for table, key, damage in (
            (Table.CONTAINERS, lost, lambda body: body[: len(body) // 2]),
            (Table.CONTAINERS, newer, lambda body: body[:-1] + b',"name":"\xff"}'),
            (Table.VOLUMES, "data", lambda _: b""),
            (Table.NETWORKS, networks[0], lambda _: b"\xff\xfe"),
            (Table.NETWORKS, networks[1], lambda body: b"[" + body + b"]"),
        ):
            metadata.put(table, key, damage(metadata.get(table, key)))
    finally:
        metadata.close()

    async def test(engine: Any) -> None:
        told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert {message.partition(" can't be read")[0] for message in told} == {
            f"the record of container {lost}",
            f"the record of container {newer}",
            "the record of volume data",
            *(f"the record of network {network}" for network in networks),
        }
        assert [record.name for record in engine.containers.records()] == ["whole"]
        assert (root / "snapshots" / lost).is_dir()
        assert (root / "containers" / lost).is_dir()
        assert (await engine.docker("start", "-a", "whole"))[:2] == (0, "file\nkept\n")  # on the bridge
        await engine.docker("network", "create", "net")
        known = {one["Name"] for one in engine.volumes.list({})["Volumes"]}
        gone = await engine.volumes.prune({"all": ("true",)})
        assert gone["VolumesDeleted"] == []  # "lost" may have named any: half of it is missing
        assert len(known) == 4, "needed, unneeded and two without a name"

    place.run(test)


def test_an_exit_record_that_can_not_be_read_keeps_no_engine_from_starting(place: Any) -> None:
    first = Process(place)
    try:
        ids = [first.docker("run", "-d", "box:1", "sleep", "1000").strip() for _ in range(2)]
    finally:
        first.kill()
    for container_id, content in zip(ids, (b"", b'{"exit_code": 1, '), strict=True):
        run_dir = place.base / "run" / "containers" / container_id
        kill_shim(run_dir)
        (run_dir / EXIT_FILE).write_bytes(content)

    async def test(engine: Any) -> None:
        for container_id in ids:
            shown = (await engine.containers.inspect(container_id))["State"]
            assert (shown["Status"], shown["ExitCode"]) == ("exited", 255)

    place.run(test)
