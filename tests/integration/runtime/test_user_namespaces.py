"""Containers in user namespaces, with mapped ids; and mounts taken from another container."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict
from sampan.oci import spec as oci

pytestmark = pytest.mark.root

FIRST = 100000
IDS = (oci.IdMapping(0, FIRST, 65536),)
KINDS = ("pid", "mount", "uts", "ipc", "network", "user")


def mapped_spec(harbour: Any, script: str, *mounts: oci.Mount, **process: Any) -> oci.Spec:
    linux = {
        "namespaces": tuple(oci.Namespace(kind) for kind in KINDS),
        "uid_mappings": IDS,
        "gid_mappings": IDS,
        "sysctl": {"net.ipv4.ip_forward": "1"},
    }
    made: oci.Spec = harbour.spec(
        "sh", "-c", script, linux=linux, process=process, mounts=(*harbour.spec("x").mounts, *mounts)
    )
    return made


@pytest.fixture
def namespaces(harbour: Any) -> Iterator[dict[str, int]]:
    user, network = harbour.client.user_namespace(IDS, IDS)
    try:
        yield {"user_namespace": user, "network": network}
    finally:
        os.close(user)
        os.close(network)


def test_files_keep_the_containers_ids_on_disk_and_its_processes_are_nobody_on_the_host(
    harbour: Any, namespaces: dict[str, int], tmp_path: Path
) -> None:
    volume, host = tmp_path / "volume", tmp_path / "host"
    for directory in (volume, host):
        directory.mkdir()
        (directory / "file").write_text("x")
    os.chmod(tmp_path, 0o700)
    mounts = (
        oci.Mount("/volume", "bind", str(volume), ("rbind", "ridmap")),
        oci.Mount("/host", "bind", str(host), ("rbind",)),
    )
    script = (
        "stat -c %u:%g /etc/passwd /volume/file /host/file; rm /etc/passwd; echo y >> /etc/group; echo n > /new;"
        "chown 7:8 /new; touch /volume/new; touch /host/new; cat /proc/sys/net/ipv4/ip_forward /proc/self/uid_map;"
        "cat /proc/self/oom_score_adj; echo a > /dev/stdout; ls -ln /dev/null; exec sleep 100"
    )
    root = harbour.assembly("idmapped")
    box = harbour.create(
        mapped_spec(harbour, script, *mounts, oom_score_adj=5), root=root, idmapped=True, **namespaces
    )
    with box.attach(framed=False) as output:
        box.shim.start()
        text = harbour.read_until(output, b"null").decode()
    assert text.split()[:3] == ["0:0", "0:0", "65534:65534"]
    assert "/host/new: Permission denied" in text
    assert text.split("denied")[1].split()[:6] == ["1", "0", str(FIRST), "65536", "5", "a"]
    upper = Path(root.upper)
    assert [os.stat(upper / name).st_uid for name in (".", "new", "etc/group")] == [0, 7, 0]
    assert stat.S_ISCHR(os.lstat(upper / "etc/passwd").st_mode), "a whiteout"
    assert os.stat(volume / "new").st_uid == 0
    assert os.stat(f"/proc/{box.created.init_pid}").st_uid == FIRST
    found = box.exec("sh", "-c", "id -u; echo b > /dev/stdout; cat /volume/file")
    with harbour.attach(found, framed=False) as output:
        found.start()
        assert harbour.read_all(output).decode().split() == ["0", "b", "x"]


def test_a_mount_of_another_container_is_shared(harbour: Any) -> None:
    one = harbour.create(harbour.spec("sleep", "100"))
    one.shim.start()
    shared = oci.Mount(
        "/dev/shm",
        "bind",
        f"/proc/{one.created.init_pid}/root/dev/shm",
        ("bind", "nosuid", "nodev", "noexec"),
    )
    mounts = tuple(mount for mount in harbour.spec("x").mounts if mount.destination != "/dev/shm")
    spec = harbour.spec("sh", "-c", "echo told > /dev/shm/word", mounts=(*mounts, shared))
    assert harbour.run(spec).record.exit_code == 0
    assert (Path(f"/proc/{one.created.init_pid}/root/dev/shm/word")).read_text() == "told\n"


def test_a_mount_of_a_process_that_ended_is_a_conflict(harbour: Any) -> None:
    one = harbour.create(harbour.spec("true"))
    one.shim.start()
    one.shim.wait()
    gone = oci.Mount("/dev/shm", "bind", f"/proc/{one.created.init_pid}/root/dev/shm", ("bind",))
    with pytest.raises(Conflict, match="has ended"):
        harbour.create(harbour.spec("true", mounts=(*harbour.spec("x").mounts, gone)))


def test_a_mount_can_have_ids_of_its_own_without_a_user_namespace(harbour: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 3, 4)
    ids = (oci.IdMapping(0, 5000, 10),)
    mount = oci.Mount("/data", "bind", str(tmp_path), ("bind",), ids, ids)
    spec = harbour.spec("stat", "-c", "%u:%g", "/data/file", mounts=(*harbour.spec("x").mounts, mount))
    assert harbour.run(spec).output.split() == ["5003:5004"]
