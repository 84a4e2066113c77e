"""userns-remap: containers' root is nobody on the host, and their files keep the ids that they see."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Sampan

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

FIRST = 1_200_000


def remapping_prefix(directory: Path) -> list[str]:
    """Runs a daemon that sees subordinate ids of ours; the host's files stay as they are."""
    ranges = directory / "ranges"
    ranges.write_text(f"nobody:{FIRST}:65536\nnogroup:{FIRST}:65536\n")
    binds = " && ".join(f"mount --bind {ranges} /etc/{name}" for name in ("subuid", "subgid"))
    return ["unshare", "-m", "sh", "-c", f'{binds} && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def remapped() -> Iterator[Sampan]:
    for name in ("/etc/subuid", "/etc/subgid"):
        if not os.path.exists(name):
            pytest.skip(f"{name} is not there (package passwd)")
    directory = Path(tempfile.mkdtemp(prefix="sampan-remap-"))
    os.chmod(directory, 0o711)
    engine = EngineProcess(
        directory / "engine", options=("--userns-remap", "nobody:nogroup"), prefix=remapping_prefix(directory)
    )
    try:
        with engine:
            made = Sampan(engine)
            made.engine.cli("import", "-c", 'CMD ["sh"]', "-", "busybox:latest", stdin=busybox_tar())
            yield made
    finally:
        shutil.rmtree(directory)


def sh(remapped: Sampan, script: str, *options: str) -> str:
    return remapped.ok("run", "--rm", *options, "busybox", "sh", "-c", script)


def tree(archive: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: (member.uid, member.gid) for member in tar}


def test_root_inside_is_nobody_outside_and_the_mappings_are_those_of_the_ranges(remapped: Sampan) -> None:
    script = (
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /bin/busybox /etc/hosts /dev/shm;"
        "cat /proc/sys/net/ipv4/ping_group_range; wc -c < /proc/timer_list; ping -c1 -q 127.0.0.1 > /dev/stdout"
    )
    lines = sh(remapped, script).splitlines()
    assert [line.split() for line in lines[:2]] == [["0", str(FIRST), "65536"]] * 2
    assert lines[2:6] == ["0"] * 4
    assert lines[6].split() == ["0", "65535"]
    assert lines[7] == "0"
    assert "1 packets received" in lines[-2]
    security = remapped.ok("info", "-f", "{{json .SecurityOptions}}")
    assert '"name=userns"' in security


def test_volumes_hold_the_containers_ids_and_host_directories_the_hosts(
    remapped: Sampan, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o755)
    (tmp_path / "secret").write_text("x")
    os.chmod(tmp_path / "secret", 0o600)
    (tmp_path / "open").mkdir(mode=0o777)
    os.chmod(tmp_path / "open", 0o777)
    mounts = ("-v", "data:/data", "-v", f"{tmp_path}:/host", "--network", "none")
    script = "touch /data/f /host/open/f; chown 7:8 /data/f; stat -c %u /host/secret; cat /host/secret"
    done = remapped.run("run", "--rm", *mounts, "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["65534"]
    assert "Permission denied" in done.stderr
    status = os.stat(tmp_path / "open" / "f")
    assert (status.st_uid, status.st_gid) == (FIRST, FIRST)
    place = Path(remapped.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "data"))
    assert (os.stat(place / "f").st_uid, os.stat(place / "f").st_gid) == (7, 8)
    assert sh(remapped, "stat -c %u:%g /data/f", "-v", "data:/data", "--userns", "host") == "7:8"


def test_the_writable_layer_holds_the_containers_ids_for_commit_export_and_diff(remapped: Sampan) -> None:
    script = "echo a > /made; chown 5:6 /made; chmod u+s /made; rm /etc/group; sleep 600"
    name = remapped.ok("run", "-d", "--network", "none", "busybox", "sh", "-c", script)
    try:
        host = int(remapped.ok("inspect", "-f", "{{.State.Pid}}", name))
        assert os.stat(f"/proc/{host}").st_uid == FIRST
        out = "id -u; cat /proc/self/uid_map; echo told > /dev/stdout; while [ -e /etc/group ]; do :; done"
        answer = remapped.ok("exec", name, "sh", "-c", out).split()
        assert answer == ["0", "0", str(FIRST), "65536", "told"]
        assert remapped.ok("exec", "-u", "1000", name, "sh", "-c", "id -u; echo x > /dev/stderr") == "1000"
        upper = Path(remapped.ok("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", name))
        assert (os.stat(upper / "made").st_uid, os.stat(upper / "made").st_gid) == (5, 6)
        assert stat.S_ISCHR(os.lstat(upper / "etc/group").st_mode)
        assert remapped.ok("diff", name).split("\n") == ["C /etc", "D /etc/group", "A /made"]
        remapped.ok("commit", name, "made:1")
        script = "stat -c %u:%g:%a /made; ls /etc/group 2>/dev/null; :"
        committed = remapped.ok(
            "run", "--rm", "--network", "none", "made:1", "stat", "-c", "%u:%g:%a", "/made"
        )
        assert committed == "5:6:4644"
    finally:
        remapped.run("rm", "-f", name)


def test_files_are_copied_in_and_out_with_the_ids_that_the_container_sees(
    remapped: Sampan, tmp_path: Path
) -> None:
    name = remapped.ok("run", "-d", "--network", "none", "-v", "/vol", "busybox", "sleep", "600")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, owner in (("d", 0), ("d/f", 33)):
            entry = tarfile.TarInfo(path)
            entry.type = tarfile.DIRTYPE if path == "d" else tarfile.REGTYPE
            entry.uid = entry.gid = owner
            entry.mode = 0o755
            tar.addfile(entry)
    try:
        api = remapped.api.containers.get(name)
        for place in ("/tmp", "/vol"):
            assert api.put_archive(place, packed.getvalue())
            assert remapped.ok("exec", name, "stat", "-c", "%u:%g", f"{place}/d", f"{place}/d/f").split() == [
                "0:0",
                "33:33",
            ]
            stream, _ = api.get_archive(f"{place}/d")
            assert tree(b"".join(stream)) == {"d": (0, 0), "d/f": (33, 33)}
        unmapped = io.BytesIO()
        with tarfile.open(fileobj=unmapped, mode="w") as tar:
            entry = tarfile.TarInfo("big")
            entry.uid = 70000
            tar.addfile(entry)
        with pytest.raises(Exception, match="70000 cannot be mapped"):
            api.put_archive("/tmp", unmapped.getvalue())
    finally:
        remapped.run("rm", "-f", "-v", name)


def test_a_build_runs_in_a_user_namespace_and_its_image_has_plain_ids(
    remapped: Sampan, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY --chown=9:9 data /data\n"
        "RUN cat /proc/self/uid_map > /map && stat -c %u /data >> /map && touch /new && chown 3 /new\n"
        "USER 1000\nRUN id -u > /tmp/who\n"
    )
    (tmp_path / "data").write_text("x")
    remapped.ok("build", "-t", "built", str(tmp_path))
    script = "cat /map /tmp/who; stat -c %u:%g /data /new /tmp/who"
    output = sh_image(remapped, "built", script).split()
    assert output == ["0", str(FIRST), "65536", "9", "1000", "9:9", "3:0", "1000:0"]


def sh_image(remapped: Sampan, image: str, script: str) -> str:
    return remapped.ok("run", "--rm", "--network", "none", "--userns", "host", image, "sh", "-c", script)


def test_joined_namespaces_bring_their_user_namespace(remapped: Sampan) -> None:
    mapped = remapped.ok("run", "-d", "--network", "none", "--ipc", "shareable", "busybox", "sleep", "600")
    plain = remapped.ok("run", "-d", "--network", "none", "--userns", "host", "busybox", "sleep", "600")
    try:
        own = remapped.ok("exec", mapped, "readlink", "/proc/self/ns/user")
        joining = [f"--{kind}=container:{mapped}" for kind in ("network", "ipc", "pid")]
        script = "readlink /proc/self/ns/user; echo x > /dev/shm/f; cat /proc/1/cmdline | head -c 5"
        assert sh(remapped, script, *joining).split() == [own, "sleep"]
        assert remapped.ok("exec", mapped, "cat", "/dev/shm/f") == "x"
        wired = sh(remapped, "readlink /proc/self/ns/user; ls /sys/class/net", "--ipc", f"container:{mapped}")
        assert wired.split() == [own, "eth0", "lo"]
        done = remapped.run("run", "--rm", f"--network=container:{plain}", "busybox", "true")
        assert "in the host's user namespace" in done.stderr
    finally:
        remapped.run("rm", "-f", mapped, plain)


def test_what_a_user_namespace_can_not_have_is_refused_in_dockers_words_and_had_without(
    remapped: Sampan,
) -> None:
    for options, words in (
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ):
        done = remapped.run("run", "--rm", *options, "busybox", "true")
        assert (done.returncode, words in done.stderr) == (125, True)
    free = sh(remapped, "cat /proc/self/uid_map", "--userns", "host", "--privileged", "--network", "host")
    assert free.split() == ["0", "0", "4294967295"]


def test_devices_terminals_and_limits_are_there_in_a_user_namespace(remapped: Sampan) -> None:
    options = (
        "--device",
        "/dev/full:/dev/other",
        "--network",
        "none",
        "--ulimit",
        "nofile=99:99",
        "--oom-score-adj",
        "7",
    )
    script = (
        "stat -c %t:%T /dev/other; ulimit -n; cat /proc/self/oom_score_adj; touch /dev/x; echo w > /dev/other"
    )
    done = remapped.run("run", "--rm", "-t", *options, "busybox", "sh", "-c", script)
    assert done.stdout.split()[:3] == ["1:7", "99", "7"]
    assert "No space left" in done.stdout


def test_a_range_that_is_missing_stops_the_daemon_with_its_reason(tmp_path: Path) -> None:
    for value, words in (
        ("daemon", "No subuid ranges found for user 'daemon'"),
        ("no-such-user", "user 'no-such-user' not found"),
        ("root", "root can't be remapped to itself"),
    ):
        engine = EngineProcess(
            tmp_path / value, options=("--userns-remap", value), prefix=remapping_prefix(tmp_path)
        )
        with pytest.raises(RuntimeError, match=words):
            engine.start()


def test_a_root_on_a_file_system_without_mapped_ids_stops_the_daemon_with_its_reason(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "engine/root"):
        (tmp_path / name).mkdir(parents=True)
    layers = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    mount = f"mount -t overlay overlay -o {layers} {tmp_path}/engine/root"
    prefix = [*remapping_prefix(tmp_path), "sh", "-c", f'{mount} && exec "$@"', "sh"]
    engine = EngineProcess(tmp_path / "engine", options=("--userns-remap", "nobody:nogroup"), prefix=prefix)
    with pytest.raises(RuntimeError, match=r"--userns-remap: .* can't be shown with mapped ids"):
        engine.start()


def test_containers_survive_the_daemon_and_can_be_entered_when_it_remaps_no_more(remapped: Any) -> None:
    name = remapped.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
    engine = remapped.engine
    try:
        engine.terminate()
        options, engine.options = engine.options, ()
        engine.start()
        try:
            answer = remapped.ok(
                "exec", name, "sh", "-c", "cat /proc/self/uid_map; echo x > /dev/stdout"
            ).split()
            assert answer == ["0", str(FIRST), "65536", "x"]
        finally:
            engine.terminate()
            engine.options = options
            engine.start()
    finally:
        remapped.run("rm", "-f", name)


def test_volumes_that_are_mounts_hold_the_ids_that_containers_see(remapped: Sampan, tmp_path: Path) -> None:
    remapped.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory")
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3):
        assert sh(remapped, "touch /m/f; stat -c %u:%g /m /m/f", "-v", "memory:/m") == "0:0\n0:0"
    else:  # mapped tmpfs came with Linux 6.3
        refused = remapped.run("run", "--rm", "-v", "memory:/m", "busybox", "true")
        assert refused.returncode == 125 and "tmpfs since 6.3" in refused.stderr
    image = "type=image,source=busybox,target=/img"
    refused = remapped.run("run", "--mount", image, "busybox")
    assert refused.returncode == 125 and "image mounts are not there" in refused.stderr
    assert sh(remapped, "stat -c %u:%g /img/bin/busybox", "--mount", image, "--userns", "host") == "0:0"
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    assert sh(remapped, "stat -c %u /h/file", "-v", f"{tmp_path}:/h") == "65534"
    assert sh(remapped, "stat -c %u /h/file; touch /h/made", "-v", f"{tmp_path}:/h:idmap") == "0"
    assert (tmp_path / "made").stat().st_uid == 0
    remapped.ok("volume", "rm", "memory")
