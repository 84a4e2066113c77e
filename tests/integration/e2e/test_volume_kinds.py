"""Kinds of volumes: mounts made by options, parts of volumes, and what pruning would take.

Expected values: what dockerd 28.5 does with the same commands, and the kernel's own mount table.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.mountinfo import mounted_below

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def option(**options: str) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def place(sampan: Any, volume: str) -> str:
    """Where its data is on the host."""
    found: str = sampan.ok("volume", "inspect", "-f", "{{.Mountpoint}}", volume)
    return found


@pytest.fixture
def disk(request: Any, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Path]:
    """A file with a file system of the kind that is the fixture's parameter."""
    # Where the kernel does not load it by itself.
    subprocess.run(["modprobe", "-q", "-a", "loop", request.param], check=False)
    if f"\t{request.param}\n" not in Path("/proc/filesystems").read_text():
        pytest.skip(f"this kernel has no {request.param}")
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    subprocess.run([f"mkfs.{request.param}", "-q", image], check=True)
    yield image

    def devices() -> str:
        return subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout

    # The kernel lets go of the last container's mounts in its own time.
    wait_until(lambda: devices() == "", "the end of the loop device")


def test_a_tmpfs_volume_is_there_while_somebody_uses_it(sampan: Any) -> None:
    sampan.ok("volume", "create", *option(type="tmpfs", device="tmpfs", o="size=1m,uid=7,mode=750"), "quick")
    path = place(sampan, "quick")
    assert mounted_below(path) == []
    sampan.ok("run", "-d", "--name", "first", "-v", "quick:/q", BUSYBOX, "sleep", "600")
    assert mounted_below(path) == [path]
    shown = sampan.ok("exec", "first", "sh", "-c", "echo in >/q/f; stat -c '%u %a' /q; df -k /q | tail -1")
    assert shown.splitlines()[0] == "7 750"
    assert shown.splitlines()[1].split()[1] == "1024"
    sampan.ok("run", "--name", "second", "-v", "quick:/q", BUSYBOX, "cat", "/q/f")
    assert mounted_below(path) == [path]
    assert sampan.ok("logs", "second") == "in"
    refused = sampan.run("volume", "rm", "quick")
    assert refused.returncode == 1 and "volume is in use" in refused.stderr
    sampan.ok("rm", "-f", "first")
    assert mounted_below(path) == []
    again = sampan.run("start", "-a", "second")
    assert again.returncode == 1 and "No such file" in again.stderr
    assert mounted_below(path) == []
    sampan.ok("rm", "second")
    sampan.ok("volume", "rm", "quick")


def test_a_bind_volume_keeps_its_directory_whatever_happens_to_the_volume(
    sampan: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    sampan.ok("volume", "create", *option(type="none", device=str(data), o="bind"), "bound")
    path = place(sampan, "bound")
    # As with any new volume, an empty directory gets what the image has.
    sampan.ok("run", "--rm", "-v", "bound:/etc", BUSYBOX, "sh", "-c", "echo more > /etc/more")
    assert (data / "passwd").exists() and (data / "more").read_text() == "more\n"
    ran = sampan.ok(
        "run", "--rm", "--mount", "type=volume,source=bound,target=/b,volume-nocopy,readonly", BUSYBOX,
        "sh", "-c", "cat /b/more; touch /b/x 2>&1; grep ' /b ' /proc/self/mountinfo",
    )  # fmt: skip
    assert ran.splitlines()[0] == "more" and "Read-only file system" in ran
    # With something still mounted there, as a crash leaves it: the data is not the volume's.
    subprocess.run(["mount", "--bind", data, path], check=True)
    sampan.ok("volume", "rm", "bound")
    assert mounted_below(path) == []
    assert (data / "more").read_text() == "more\n"


@pytest.mark.parametrize(("disk", "kind"), [("ext4", "ext4"), ("btrfs", "btrfs")], indirect=["disk"])
def test_a_device_volume_and_a_part_of_it(sampan: Any, disk: Path, kind: str) -> None:
    sampan.ok("volume", "create", *option(type=kind, device=str(disk)), "disk")
    script = "mkdir -p /d/deep/er /d/up; echo here >/d/deep/er/f; ln -s /deep /d/link; ln -s / /d/up/root"
    sampan.ok("run", "--rm", "-v", "disk:/d", BUSYBOX, "sh", "-c", script)
    assert mounted_below(place(sampan, "disk")) == []
    for sub in ("deep/er", "link/er", "up/root/deep/er"):
        mount = f"type=volume,source=disk,target=/part,volume-subpath={sub}"
        assert sampan.ok("run", "--rm", "--mount", mount, BUSYBOX, "cat", "/part/f") == "here"
    mount = "type=volume,source=disk,target=/part,volume-subpath=missing"
    refused = sampan.run("run", "--rm", "--mount", mount, BUSYBOX, "true")
    assert refused.returncode == 127  # by the words, as in docker
    missing = f"{place(sampan, 'disk')}/missing"
    assert f"cannot access path {missing}: no such file or directory" in refused.stderr
    assert mounted_below(place(sampan, "disk")) == []
    # Into a container that does not run.
    sampan.ok("create", "--name", "stopped", "-v", "disk:/d", BUSYBOX)
    sampan.ok("cp", "-", "stopped:/d", stdin=tar_with("name", "through cp"))
    assert sampan.ok("run", "--rm", "-v", "disk:/d", BUSYBOX, "cat", "/d/name") == "through cp"
    # Of what is not mounted: mounted for that. "here\n" and "through cp", and one container.
    usage = sampan.ok("volume", "inspect", "-s", "-f", "{{.UsageData.Size}} {{.UsageData.RefCount}}", "disk")
    assert usage == "15 1"
    assert mounted_below(place(sampan, "disk")) == []


def tar_with(name: str, text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def test_an_images_files_are_mounted_and_keep_their_image(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /dir/file\nCOPY file /dir/deep/other\n")
    (tmp_path / "file").write_text("content\n")
    sampan.ok("build", "-t", "files:1", str(tmp_path))
    script = "cat /img/dir/file; touch /img/x; cat /part/other"
    whole, part = (
        "type=image,source=files:1,target=/img",
        "type=image,src=files:1,dst=/part,image-subpath=dir/deep",
    )
    ran = sampan.run(
        "run", "--name", "reader", "--mount", whole, "--mount", part, BUSYBOX, "sh", "-c", script
    )
    assert ran.stdout == "content\ncontent\n"
    assert "Read-only file system" in ran.stderr
    shown = sampan.ok(
        "inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}} {{.Propagation}};{{end}}", "reader"
    )
    assert shown == "image files:1 false rprivate;" * 2
    refused = sampan.run("rmi", "files:1")
    assert refused.returncode == 1 and "is using its referenced image" in refused.stderr
    assert sampan.ok("run", "--rm", "--volumes-from", "reader", BUSYBOX, "cat", "/img/dir/file") == "content"
    # Its name goes elsewhere: the container has what it was made with.
    (tmp_path / "file").write_text("another\n")
    sampan.ok("build", "-t", "files:1", str(tmp_path))
    assert sampan.ok("start", "-a", "reader").splitlines()[0] == "content"
    missing = sampan.run("create", "--mount", "type=image,source=nosuch,target=/x", BUSYBOX)
    assert missing.returncode == 1 and "No such image: nosuch" in missing.stderr
    sampan.ok("rm", "reader")
    sampan.ok("rmi", "files:1")


def test_ids_of_a_mount_are_mapped(sampan: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("text")
    os.chown(data, 4321, 8765)
    os.chown(data / "file", 4321, 8765)
    script = "stat -c %u:%g /m /m/file; touch /m/new"
    plain = sampan.run("run", "--rm", "-u", "1000:1000", "-v", f"{data}:/m", BUSYBOX, "sh", "-c", script)
    assert "Permission denied" in plain.stderr
    assert (
        f"WARNING: The container's user 1000:1000 can't write to /m: on the host {data} is 4321:8765's with mode 0755."
        in plain.stderr
    )
    for options in (
        ["-v", f"{data}:/m:idmap"],
        ["--mount", f"type=bind,source={data},target=/m,idmap"],
        ["-v", f"{data}:/m:idmap=uids=4321-1000-1;gids=8765-1000-1"],
    ):
        ran = sampan.run("run", "--rm", "-u", "1000:1000", *options, BUSYBOX, "sh", "-c", script)
        assert (ran.stdout, ran.stderr) == ("1000:1000\n1000:1000\n", "")
        made = os.stat(data / "new")
        assert (made.st_uid, made.st_gid) == (4321, 8765)
        os.unlink(data / "new")
    sampan.ok("run", "--rm", "-v", "own:/v", BUSYBOX, "chown", "4321:8765", "/v")
    mount = "type=volume,source=own,target=/v,idmap"
    assert sampan.ok("run", "--rm", "--mount", mount, BUSYBOX, "stat", "-c", "%u:%g", "/v") == "0:0"
    refused = sampan.run("create", "-v", f"{data}:/m:idmap=uids=1", BUSYBOX)
    assert refused.returncode == 1 and "invalid idmap" in refused.stderr


def test_read_only_binds_are_so_with_all_below_unless_told_otherwise(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "top/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "below", tmp_path / "top/sub"], check=True)
    try:
        for options, writable in ((), False), ((",bind-recursive=writable",), True):
            mount = f"type=bind,source={tmp_path}/top,target=/m,readonly{''.join(options)}"
            script = "touch /m/x; touch /m/sub/x && echo written"
            ran = sampan.run("run", "--rm", "--mount", mount, BUSYBOX, "sh", "-c", script)
            assert ("written" in ran.stdout) == writable
            assert "/m/x: Read-only file system" in ran.stderr
        ran = sampan.run("run", "--rm", "-v", f"{tmp_path}/top:/m:ro", BUSYBOX, "touch", "/m/sub/y")
        assert "Read-only file system" in ran.stderr
        mount = f"type=bind,source={tmp_path}/top,target=/m,bind-recursive=disabled"
        assert sampan.ok("run", "--rm", "--mount", mount, BUSYBOX, "ls", "/m/sub") == ""
        refused = sampan.run("run", "--mount", f"{mount},bind-recursive=readonly", BUSYBOX)
        assert refused.returncode == 125 and "requires 'readonly' to be specified" in refused.stderr
    finally:
        subprocess.run(["umount", tmp_path / "top/sub"], check=True)


def test_a_volume_that_can_not_be_mounted_starts_nothing_and_leaves_nothing(sampan: Any) -> None:
    sampan.ok("volume", "create", *option(type="none", device="/nowhere", o="bind"), "broken")
    path = place(sampan, "broken")
    failed = sampan.run("run", "--name", "tried", "-v", "broken:/b", BUSYBOX, "true")
    assert failed.returncode == 127
    assert (
        f"error while mounting volume '{path}': failed to mount local volume: mount /nowhere:{path}, "
        "flags: 0x1000: no such file or directory" in failed.stderr
    )
    assert mounted_below(path) == []
    sampan.ok("rm", "tried")
    sampan.ok("volume", "rm", "broken")


def test_mounted_volumes_outlive_a_killed_engine_and_go_with_their_last_container(
    fresh_sampan: Any,
) -> None:
    sampan = fresh_sampan
    for name in ("kept", "left"):
        sampan.ok("volume", "create", *option(type="tmpfs", device="tmpfs", o="size=1m"), name)
    for name, volume in (("stays", "kept"), ("ends", "left")):
        sampan.ok("run", "-d", "--name", name, "-v", f"{volume}:/v", BUSYBOX, "sleep", "600")
    sampan.ok("exec", "stays", "sh", "-c", "echo data > /v/f")
    kept, left = place(sampan, "kept"), place(sampan, "left")
    pid = sampan.ok("inspect", "-f", "{{.State.Pid}}", "ends")
    sampan.engine.kill()
    subprocess.run(["kill", "-9", pid], check=True)
    sampan.engine.start()
    assert mounted_below(kept) == [kept]
    sampan.ok("wait", "ends")
    assert mounted_below(left) == []
    assert Path(kept, "f").read_text() == "data\n"
    sampan.ok("rm", "-f", "stays")
    assert mounted_below(kept) == []


def test_volumes_are_mounted_again_after_a_reboot(
    fresh_sampan: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sampan, data = fresh_sampan, tmp_path / "data"
    data.mkdir()
    sampan.ok("volume", "create", *option(type="none", device=str(data), o="bind"), "bound")
    script = "echo more >> /v/f; exec sleep 600"
    sampan.ok(
        "run", "-d", "--name", "always", "--restart", "always", "-v", "bound:/v", BUSYBOX, "sh", "-c", script
    )
    path = place(sampan, "bound")
    wait_until(lambda: (data / "f").exists() and (data / "f").read_text() == "more\n", "the first line")
    pid = int(sampan.ok("inspect", "-f", "{{.State.Pid}}", "always"))
    # Processes, mounts, and what is below /run.
    sampan.engine.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the container")
    subprocess.run(["umount", path], check=True)
    shutil.rmtree(sampan.engine.run_dir)
    sampan.engine.start()
    wait_until(lambda: (data / "f").read_text() == "more\nmore\n", "the second line")
    assert mounted_below(path) == [path]
    sampan.ok("rm", "-f", "always")
    assert mounted_below(path) == []
    assert (data / "f").exists()


def test_a_dry_run_says_what_a_prune_then_takes(fresh_sampan: Any) -> None:
    sampan = fresh_sampan
    sampan.ok("create", "--name", "stopped", "-v", "used:/u", "-v", "/anonymous", BUSYBOX)
    sampan.ok("run", "-d", "--name", "running", "-v", "busy:/b", BUSYBOX, "sleep", "600")
    sampan.ok("volume", "create", "spare")
    Path(place(sampan, "spare"), "f").write_bytes(b"x" * 12345)
    sampan.ok("network", "create", "lonely")
    removal = sampan.run("volume", "rm", "--dry-run", "spare", "busy", "used")
    assert (removal.returncode, removal.stderr.count("volume is in use")) == (1, 2)
    assert removal.stdout == (
        "Would delete Volumes:\nspare\n\nTotal space that would be reclaimed: 12.35kB\n"
    )
    sampan.ok("volume", "snapshot", "spare", "kept")
    removal = sampan.run("volume", "rm", "--dry-run", "--force", "spare")
    assert "would be reclaimed: 24." in removal.stdout  # twice that, and the snapshot's description
    sampan.ok("volume", "snapshot", "rm", "spare@kept")
    told = sampan.ok("volume", "prune", "--dry-run", "--all")
    assert told.splitlines() == [
        "Would delete Volumes:",
        "spare",
        "",
        "Total space that would be reclaimed: 12.35kB",
    ]
    assert sampan.ok("volume", "prune", "-f", "--all").splitlines() == [
        "Deleted Volumes:", "spare", "", "Total reclaimed space: 12.35kB",
    ]  # fmt: skip
    unclear = sampan.run("volume", "prune", "--force", "--filter", "all=maybe")
    assert (unclear.returncode, unclear.stdout) == (1, "") and "invalid filter 'all=maybe'" in unclear.stderr
    unknown = sampan.run("system", "prune", "--force", "--all", "--volumes", "--filter", "nosuch=1")
    assert (unknown.returncode, unknown.stdout) == (1, "") and "invalid filter 'nosuch'" in unknown.stderr
    told = sampan.ok("system", "prune", "--dry-run", "--all", "--volumes")
    done = sampan.ok("system", "prune", "--force", "--all", "--volumes")
    assert (
        told.replace("Would delete", "Deleted").replace(
            "Total space that would be reclaimed", "Total reclaimed space"
        )
        == done
    )
    assert "lonely" in done and "Containers:" in done
    assert sampan.ok("volume", "ls", "-q").split() == ["busy", "used"]
