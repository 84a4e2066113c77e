"""Backups of volumes as people make them: to files and registries, while containers write, and back."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from sampan.testing.registry import RealRegistry
from sampan.testing.terminal import on_terminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NOBODY = 0xFFFFFFFF
FILL = (
    "mkdir -p /d/base/1 /d/pg_wal; head -c 3000000 /dev/urandom > /d/base/1/1259; ln /d/base/1/1259 /d/base/1/hard; "
    "ln -s base/1 /d/current; truncate -s 64M /d/base/1/sparse; mkfifo /d/fifo; chown -R 70:70 /d; chmod 700 /d"
)
# Two counters like a log and its table: each number is in the log before it is in the table, whose file is replaced.
WRITER = (
    "i=0; while :; do i=$((i+1)); echo $i >> /d/log; echo $i > /d/table.new; mv /d/table.new /d/table; done"
)
# user::rwx, user:1234:rwx, group::r-x, mask::rwx, other::r-x (struct posix_acl_xattr_header and entries)
ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 7, NOBODY, 2, 7, 1234, 4, 5, NOBODY, 16, 7, NOBODY, 32, 5, NOBODY)
CHECK = "echo $(cat /d/table) $(tail -n 1 /d/log)"


@pytest.fixture
def filled(sampan: Any) -> str:
    sampan.ok("volume", "create", "--label", "team=data", "pg")
    sampan.ok("run", "--rm", "-v", "pg:/d", "busybox", "sh", "-c", FILL)
    return "pg"


def in_volume(sampan: Any, volume: str, script: str) -> str:
    out: str = sampan.ok("run", "--rm", "-v", f"{volume}:/d", "busybox", "sh", "-c", script)
    return out


def data_of(sampan: Any, volume: str) -> Path:
    return Path(sampan.api.api.inspect_volume(volume)["Mountpoint"])


def wait_for_writer(sampan: Any) -> None:
    """It has done its work once more since now."""
    before = int(sampan.ok("exec", "writer", "wc", "-l", "/d/log").split()[0])
    sampan.ok("exec", "writer", "sh", "-c", f"until [ $(wc -l < /d/log) -gt {before} ]; do :; done")


def remaining(sampan: Any) -> list[str]:
    """What lies among the volumes and is none."""
    known = {volume["Name"] for volume in sampan.api.api.volumes()["Volumes"] or []}
    return sorted(set(os.listdir(sampan.engine.root / "volumes")) - known)


def test_a_volume_comes_back_from_a_file_with_all_that_it_had(
    sampan: Any, filled: str, tmp_path: Path
) -> None:
    source = data_of(sampan, filled)
    os.setxattr(source / "base", "user.note", b"kept")
    os.setxattr(source / "base", "trusted.overlay.opaque", b"y")
    os.mknod(source / "whiteout", 0o20600, 0)
    os.setxattr(source / "pg_wal", "system.posix_acl_access", ACL)
    file = tmp_path / "pg.tar.zst"
    told = json.loads(sampan.ok("volume", "backup", filled, str(file), "--format", "json"))
    assert told["Files"] == 2
    assert file.stat().st_mode & 0o777 == 0o600
    sampan.ok("volume", "restore", "copy", str(file))
    target = data_of(sampan, "copy")
    assert sampan.ok("volume", "diff", filled, "copy") == ""
    assert os.getxattr(target / "base", "user.note") == b"kept"
    assert os.getxattr(target / "base", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(target / "pg_wal", "system.posix_acl_access") == ACL
    status = (target / "base/1/1259").stat()
    assert (status.st_uid, status.st_gid, status.st_nlink) == (70, 70, 2)
    assert (target / "base/1/sparse").stat().st_blocks == 0
    assert sampan.api.api.inspect_volume("copy")["Labels"] == {"team": "data"}
    # Through pipes, both ways.
    piped = subprocess.run(
        [sys.executable, "-m", "sampan.cli.main", "volume", "backup", filled, "-"],
        env=sampan.engine.environment,
        capture_output=True,
        check=True,
    ).stdout
    sampan.ok("volume", "restore", "piped", "-", stdin=piped)
    assert sampan.ok("volume", "diff", "copy", "piped") == ""


def test_an_existing_volume_is_replaced_by_force_alone_and_never_under_a_running_container(
    sampan: Any, filled: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "pg.tar.zst")
    sampan.ok("volume", "backup", filled, file)
    in_volume(sampan, filled, "rm -r /d/base; echo later > /d/later")
    refused = sampan.run("volume", "restore", filled, file)
    assert (refused.returncode, "exists already" in refused.stderr) == (1, True)
    sampan.ok("run", "-d", "--name", "user", "-v", f"{filled}:/d", "busybox", "sleep", "600")
    refused = sampan.run("volume", "restore", "--force", filled, file)
    assert (refused.returncode, "in use by running containers: user" in refused.stderr) == (1, True)
    assert in_volume(sampan, filled, "cat /d/later") == "later"
    sampan.ok("stop", "-t", "0", "user")
    sampan.ok("volume", "restore", "--force", filled, file)
    sampan.ok("start", "user")
    assert sampan.ok("exec", "user", "ls", "/d").split() == ["base", "current", "fifo", "pg_wal"]
    assert remaining(sampan) == []


def test_a_volume_that_is_written_to_is_backed_up_at_one_moment_or_not_at_all(
    sampan: Any, filled: str, tmp_path: Path
) -> None:
    options = ("-d", "--name", "writer", "--stop-signal", "KILL", "-v", f"{filled}:/d")
    sampan.ok("run", *options, "busybox", "sh", "-c", WRITER)
    sampan.ok("exec", "writer", "sh", "-c", "until [ -s /d/table ]; do :; done")
    in_volume(sampan, filled, "head -c 200000000 /dev/urandom > /d/blob")
    for policy, code in (("fail", 1), ("warn", 0)):
        client = sampan.start("volume", "backup", "--changed", policy, filled, "-")
        assert client.stdout.read(1000)  # what is read ahead is less than the rest: it waits for the writer
        wait_for_writer(sampan)
        out, said = client.communicate(timeout=60)
        assert (client.returncode, b"'log'" in said) == (code, True), said
        assert len(out) > 190_000_000
    in_volume(sampan, filled, "rm /d/blob")
    file = tmp_path / "pg.tar.zst"
    for number in range(3):
        sampan.ok("volume", "backup", "--pause", filled, str(file))
        sampan.ok("volume", "restore", f"at{number}", str(file))
        table, log = in_volume(sampan, f"at{number}", CHECK).split()
        assert int(log) - int(table) in (0, 1)
    told = json.loads(sampan.ok("volume", "backup", "--stop", filled, str(file), "--format", "json"))
    assert told["Users"] == "stopped"
    # It goes on as before.
    assert sampan.ok("ps", "--format", "{{.Names}} {{.State}}") == "writer running"
    wait_for_writer(sampan)


def test_increments_restore_with_their_bases_and_with_nothing_less(
    sampan: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, one, two = (str(tmp_path / name) for name in ("full", "one", "two"))
    sampan.ok("volume", "backup", filled, full)
    in_volume(
        sampan, filled, "mv /d/base/1/1259 /d/base/1/moved; echo new > /d/new; chown 1:1 /d/base/1/sparse"
    )
    told = json.loads(sampan.ok("volume", "backup", filled, one, "--base", full, "--format", "json"))
    assert told["StoredSize"] == 4
    in_volume(sampan, filled, "rm /d/new; echo newer > /d/newer")
    sampan.ok("volume", "backup", filled, two, "--base", one)
    assert Path(two).stat().st_size < 5000 < 3_000_000 < Path(full).stat().st_size
    # Backups are compared by their manifests, whatever they leave out.
    differs = sampan.ok("volume", "diff", full, two).splitlines()
    assert {"D /base/1/1259", "A /base/1/moved", "A /newer"} < set(differs)
    assert "A /new" not in differs
    monkeypatch.chdir(tmp_path)
    mistaken = sampan.run("volume", "diff", filled, "full")
    assert (mistaken.returncode, "a file is written ./full" in mistaken.stderr) == (1, True)
    assert sampan.ok("volume", "diff", one, two).splitlines() == ["D /new", "A /newer"]
    refused = sampan.run("volume", "restore", "rr", two, "--base", one)
    assert (refused.returncode, "only what changed since" in refused.stderr) == (1, True)
    sampan.ok("volume", "restore", "rr", two, "--base", one, "--base", full)
    assert sampan.ok("volume", "diff", filled, "rr") == ""
    assert sampan.ok("volume", "diff", "rr", two) == ""
    assert remaining(sampan) == []


def test_snapshots_are_kept_compared_restored_and_are_bases_too(
    sampan: Any, filled: str, tmp_path: Path
) -> None:
    first = sampan.ok("volume", "snapshot", filled, "first")
    assert first == "pg@first"
    in_volume(sampan, filled, "echo x > /d/added; rm /d/fifo; chmod 600 /d/base/1/1259")
    assert sampan.ok("volume", "diff", first, filled).splitlines() == [
        "A /added",
        "C /base/1/1259 (mode)",
        "C /base/1/hard (mode)",
        "D /fifo",
    ]
    assert sampan.run("volume", "diff", "--exit-code", first, filled).returncode == 1
    increment = str(tmp_path / "increment")
    told = json.loads(sampan.ok("volume", "backup", filled, increment, "--base", first, "--format", "json"))
    assert told["StoredSize"] == 2
    sampan.ok("volume", "restore", "rr", increment, "--base", first)
    assert sampan.ok("volume", "diff", filled, "rr") == ""
    sampan.ok("volume", "restore", "--force", filled, first)
    assert sampan.ok("volume", "diff", first, filled) == ""
    sampan.ok("volume", "restore", "labelled", first)
    assert sampan.ok("volume", "inspect", "-f", "{{.Labels.team}}", "labelled") == "data"
    for _ in range(3):
        sampan.ok("volume", "snapshot", filled, "--keep", "2")
    names = sampan.ok("volume", "snapshot", "ls", "-q", filled).split()
    assert len(names) == 3 and names[0] == first
    refused = sampan.run("volume", "rm", filled)
    assert (refused.returncode, "volume has 3 snapshots" in refused.stderr) == (1, True)
    sampan.ok("volume", "prune", "-af")
    assert filled in sampan.ok("volume", "ls", "-q").split()
    sampan.ok("volume", "snapshot", "rm", *names)
    sampan.ok("volume", "rm", filled)


def test_a_clone_is_a_volume_of_its_own(sampan: Any, filled: str) -> None:
    sampan.ok("volume", "clone", filled, "clone")
    assert sampan.ok("volume", "diff", filled, "clone") == ""
    in_volume(sampan, "clone", "echo x > /d/base/1/1259")
    assert sampan.ok("volume", "diff", filled, "clone").startswith("C /base/1/1259 (content")
    refused = sampan.run("volume", "clone", filled, "clone")
    assert (refused.returncode, "exists already" in refused.stderr) == (1, True)


def test_a_rename_carries_stopped_containers_over_and_is_refused_under_running_ones(
    sampan: Any, filled: str
) -> None:
    sampan.ok("create", "--name", "one", "-v", f"{filled}:/d", "busybox", "ls", "/d")
    mount = f"type=volume,source={filled},target=/m,volume-subpath=base/1"
    sampan.ok("create", "--name", "two", "--mount", mount, "busybox", "ls", "/m")
    sampan.ok("run", "-d", "--name", "running", "-v", f"{filled}:/d", "busybox", "sleep", "600")
    refused = sampan.run("volume", "rename", filled, "other")
    assert (refused.returncode, "in use by running containers: running" in refused.stderr) == (1, True)
    sampan.ok("rm", "-f", "running")
    sampan.ok("volume", "rename", filled, "other")
    assert "base" in sampan.ok("start", "-a", "one")
    assert "1259" in sampan.ok("start", "-a", "two")
    inspected = sampan.api.api.inspect_container("one")
    assert inspected["HostConfig"]["Binds"] == ["other:/d"]
    assert inspected["Mounts"][0]["Name"] == "other"
    assert sampan.run("volume", "inspect", filled).returncode == 1
    in_use = sampan.run("volume", "rm", "other")
    assert (in_use.returncode, "volume is in use" in in_use.stderr) == (1, True)
    sampan.ok("volume", "create", filled)
    taken = sampan.run("volume", "rename", "other", filled)
    assert (taken.returncode, "exists already" in taken.stderr) == (1, True)


def test_a_registry_has_backups_as_artifacts_that_restore_by_themselves(
    sampan: Any, filled: str, session_registry: RealRegistry, tmp_path: Path
) -> None:
    name = f"{session_registry.host}/backups/{tmp_path.name.lower()}"
    sampan.ok("volume", "backup", filled, f"{name}:one")
    in_volume(sampan, filled, "echo new > /d/new")
    told = json.loads(
        sampan.ok("volume", "backup", filled, f"{name}:two", "--base", f"{name}:one", "--format", "json")
    )
    assert told["StoredSize"] == 4
    assert sampan.ok("volume", "diff", f"{name}:one", f"{name}:two").splitlines() == ["A /new"]
    sampan.ok("volume", "backup", filled, f"{name}-elsewhere:two", "--base", f"{name}:one")
    for reference in (f"{name}:two", f"{name}-elsewhere:two"):
        sampan.ok("volume", "restore", "rr", reference)
        assert sampan.ok("volume", "diff", filled, "rr") == ""
        assert sampan.ok("volume", "diff", "rr", reference) == ""
        sampan.ok("volume", "rm", "rr")
    # On a terminal the bytes that travel are bars.
    for *arguments, what in (
        ("backup", filled, f"{name}:bars", b"Pushing"),
        ("restore", "rr", f"{name}:bars", b"Downloading"),
    ):
        with on_terminal(sampan.engine.environment, "volume", *arguments, columns=200) as terminal:
            assert terminal.finish() == 0, terminal.seen
        full = rb"[0-9a-f]{12}: %s \[={50}>\] +3\.\d+MB/3\.\d+MB\r" % what
        assert re.search(full, terminal.seen), terminal.seen
    assert re.search(rb"rr: Restoring \[=+> *\] +[\d.]+.?B/[\d.]+.?B\r", terminal.seen), terminal.seen
    sampan.ok("volume", "rm", "rr")
    # An increment in a file stands on one in a registry, and on none that is something else.
    increment = str(tmp_path / "increment")
    sampan.ok("volume", "backup", filled, increment, "--base", f"{name}:one")
    sampan.ok("volume", "restore", "rr", increment, "--base", f"{name}:one")
    assert sampan.ok("volume", "diff", filled, "rr") == ""
    sampan.ok("tag", "busybox", f"{name}:image")
    sampan.ok("push", f"{name}:image")
    refused = sampan.run("volume", "restore", "none", f"{name}:image")
    assert (refused.returncode, "is no backup of a volume" in refused.stderr) == (1, True)
    missing = sampan.run("volume", "restore", "none", f"{name}:missing")
    assert missing.returncode == 1
    document = manifest_of(session_registry, name.partition("/")[2], "two")
    assert document["artifactType"] == "application/vnd.sampan.volume.backup.v1"
    assert [layer["annotations"]["sampan.volume.backup.part"] for layer in document["layers"]] == ["0", "1"]
    # One that was put together of others' parts is not taken for what it says it is.
    older = manifest_of(session_registry, name.partition("/")[2], "one")
    for other, *arguments in (
        ({**document, "layers": document["layers"][:1]}, "restore", "none", f"{name}:mixed"),
        ({**document, "config": older["config"]}, "backup", filled, f"{name}:on", "--base", f"{name}:mixed"),
    ):
        put_manifest(session_registry, name.partition("/")[2], "mixed", other)
        refused = sampan.run("volume", *arguments)
        assert (refused.returncode, "as it says" in refused.stderr) == (1, True), refused.stderr
    assert remaining(sampan) == []


def test_a_registry_with_passwords_is_asked_with_those_of_login(
    sampan: Any, filled: str, tmp_path: Path
) -> None:
    with RealRegistry(tmp_path / "registry", htpasswd={"ann": "secret"}) as registry:
        refused = sampan.run("volume", "backup", filled, f"{registry.host}/b/pg")
        assert refused.returncode == 1 and "no basic auth credentials" in refused.stderr
        sampan.ok("login", "-u", "ann", "-p", "secret", registry.host)
        try:
            sampan.ok("volume", "backup", filled, f"{registry.host}/b/pg")
            sampan.ok(
                "volume", "backup", filled, f"{registry.host}/b/pg:2", "--base", f"{registry.host}/b/pg"
            )
            sampan.ok("volume", "restore", "rr", f"{registry.host}/b/pg:2")
            assert sampan.ok("volume", "diff", "rr", f"{registry.host}/b/pg") == ""
        finally:
            sampan.ok("logout", registry.host)
    assert remaining(sampan) == []


def manifest_of(registry: RealRegistry, repository: str, tag: str) -> Any:
    request = Request(
        f"{registry.url}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urlopen(request) as answer:
        return json.load(answer)


def put_manifest(registry: RealRegistry, repository: str, tag: str, document: Any) -> None:
    request = Request(
        f"{registry.url}/v2/{repository}/manifests/{tag}",
        data=json.dumps(document).encode(),
        method="PUT",
        headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urlopen(request) as answer:
        assert answer.status == 201


def damaged(data: bytes) -> list[bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return [data[: len(data) // 2], data[:-300], bytes(flipped), b"", data[:20] * 100]


def test_a_damaged_backup_leaves_nothing(sampan: Any, filled: str, tmp_path: Path) -> None:
    file = tmp_path / "pg.tar.zst"
    sampan.ok("volume", "backup", filled, str(file))
    before = sampan.ok("volume", "ls", "-q")
    for data in damaged(file.read_bytes()):
        for name, force in (("new", False), (filled, True)):
            refused = sampan.run("volume", "restore", name, "-", *(["--force"] if force else []), stdin=data)
            assert refused.returncode == 1, refused
    assert sampan.ok("volume", "ls", "-q") == before
    assert sampan.ok("volume", "diff", filled, str(file)) == ""
    assert remaining(sampan) == []


Make = Callable[..., Any]


def test_a_client_on_another_host_has_the_file_on_its_own(make_sampan: Make, tmp_path: Path) -> None:
    """By TCP, as there: the engine never sees the file's name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    place = tmp_path / "engine"
    options = ("--host", f"unix://{place}/run/sampan.sock", "--host", address)
    sampan = make_sampan(place, options=options)
    try:
        in_volume(sampan, "pg", "head -c 20000000 /dev/urandom > /d/blob")
        environment = {**sampan.engine.environment, "DOCKER_HOST": address}
        for arguments in (
            ("backup", "pg", "full"),
            ("restore", "copy", "full"),
            ("backup", "copy", "increment", "--base", "full"),
            ("restore", "again", "increment", "--base", "full"),
        ):
            command = [sys.executable, "-m", "sampan.cli.main", "volume", *arguments]
            subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
        assert sampan.ok("volume", "diff", "pg", "again") == ""
    finally:
        sampan.close()
        sampan.engine.stop()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_where_contents_are_shared_containers_are_still_for_a_moment_alone(
    kind: str, make_sampan: Make, tmp_path: Path
) -> None:
    image, place = tmp_path / "disk", tmp_path / "mounted"
    with open(image, "wb") as disk:
        disk.truncate(800 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True).returncode:
        pytest.skip(f"this kernel has no {kind}")
    try:
        sampan = make_sampan(place / "engine")
        try:
            shared_copies(sampan, tmp_path)
        finally:
            sampan.close()
            sampan.engine.stop()
    finally:
        subprocess.run(["umount", place], check=True)


def shared_copies(sampan: Any, tmp_path: Path) -> None:
    sampan.ok("volume", "create", "big")
    in_volume(sampan, "big", "head -c 200000000 /dev/urandom > /d/blob")
    sampan.ok("run", "-d", "--name", "writer", "-v", "big:/d", "busybox", "sh", "-c", WRITER)
    sampan.ok("exec", "writer", "sh", "-c", "until [ -s /d/table ]; do :; done")
    used = os.statvfs(sampan.engine.root).f_bfree
    for _ in range(3):
        sampan.ok("volume", "snapshot", "--pause", "big")
    block = os.statvfs(sampan.engine.root).f_frsize
    assert (used - os.statvfs(sampan.engine.root).f_bfree) * block < 30_000_000  # not three times 200 MB
    # The container is paused while the copy is made and runs while it is read: its reader stands still here.
    client = sampan.start("volume", "backup", "--pause", "big", "-")
    try:
        assert client.stdout.read(1000)
        sampan.ok("exec", "writer", "true")  # refused in a paused container
        data = client.stdout.read()
        assert client.wait(60) == 0 and data
    finally:
        client.kill()
        client.communicate()
    sampan.ok("volume", "restore", "copy", sampan.ok("volume", "snapshot", "ls", "-q").split()[-1])
    table, log = in_volume(sampan, "copy", CHECK).split()
    assert int(log) - int(table) in (0, 1)
