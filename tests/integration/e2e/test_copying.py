"""cp to and from running, paused and stopped containers; mounts, read-only places and the kernel's own file systems."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
STATES = ("running", "paused", "stopped")


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o640, 7, 8
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def copied_out(sampan: Any, place: str, to: Path) -> tarfile.TarFile:
    with open(to, "wb") as file:
        process = sampan.start("cp", place, "-", stdout=file)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return tarfile.open(to)


def test_the_three_states_answer_alike(sampan: Any, tmp_path: Path) -> None:
    script = "mkdir -p /d/e; echo one > /d/a; ln -s /d /ld; sleep 1000"
    for name in STATES:
        sampan.ok("create", "--name", name, "-v", f"{name}-vol:/vol", BUSYBOX, "sh", "-c", script)
        sampan.ok("start", name)
        sampan.ok("exec", name, "sh", "-c", "until test -L /ld; do sleep 0.05; done")
    sampan.ok("pause", "paused")
    sampan.ok("kill", "stopped")
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "f").write_text("f")
    os.chown(source / "f", 1234, 2345)
    os.chmod(source / "f", 0o4755)
    (source / "link").symlink_to("f")
    for name in STATES:
        sampan.ok("cp", str(source), f"{name}:/new")
        sampan.ok("cp", f"{source}/.", f"{name}:/new/sub")
        sampan.ok("cp", "-a", str(source / "f"), f"{name}:/d/")
        sampan.ok("cp", str(source / "link"), f"{name}:/vol/link")
        sampan.ok("cp", "-L", str(source / "link"), f"{name}:/vol/file")
        sampan.ok("cp", "-", f"{name}:/d/e", stdin=tar_of(streamed=b"from a pipe"))
        with copied_out(sampan, f"{name}:/new", tmp_path / "out.tar") as archive:
            assert sorted(archive.getnames()) == [
                "new", "new/f", "new/link", "new/sub", "new/sub/f", "new/sub/link", "new/sub/sub",
            ]  # fmt: skip
            member = archive.getmember("new/f")
            assert (member.uid, member.gid, member.mode) == (1234, 2345, 0o4755)
        with copied_out(sampan, f"{name}:/d", tmp_path / "out.tar") as archive:
            member = archive.getmember("d/f")
            assert (member.uid, member.gid) == (1234, 2345)
            streamed = archive.extractfile("d/e/streamed")
            assert streamed is not None and streamed.read() == b"from a pipe"
        out = tmp_path / name
        sampan.ok("cp", "-L", f"{name}:/ld", str(out))
        assert (out / "a").read_text() == "one\n"
        sampan.ok("cp", f"{name}:/ld", f"{out}-link")
        assert os.readlink(f"{out}-link") == "/d"
        sampan.ok("cp", f"{name}:/vol/file", str(out))
        assert (out / "file").read_text() == "f"
        for refused, words in (
            (("cp", str(source), f"{name}:/d/a"), "cannot copy directory"),
            (("cp", str(source / "f"), f"{name}:/none/"), "no such directory"),
            (("cp", f"{name}:/d", str(source / "f")), "cannot copy directory"),
            (("cp", f"{name}:/none", "-"), f"Error: No such container:path: {name}:/none"),
        ):
            done = sampan.run(*refused)
            assert done.returncode == 1 and words in done.stderr
    assert sampan.ok("inspect", "-f", "{{.State.Status}}", "paused") == "paused"


def test_read_only_places_are_written_by_nobody_and_volumes_in_a_read_only_root_are(sampan: Any) -> None:
    options = ("--read-only", "-v", "rovol:/ro:ro", "-v", "rwvol:/rw", "--tmpfs", "/scratch")
    for name in ("running", "stopped"):
        sampan.ok("create", "--name", name, *options, BUSYBOX, "sleep", "1000")
    sampan.ok("start", "running")
    for name in ("running", "stopped"):
        for place, words in (
            ("/", "container rootfs is marked read-only"),
            ("/ro", "mounted volume is marked read-only"),
        ):
            done = sampan.run("cp", "-", f"{name}:{place}", stdin=tar_of(x=b"x"))
            assert done.returncode == 1 and words in done.stderr
        sampan.ok("cp", "-", f"{name}:/rw", stdin=tar_of(x=b"written"))
        assert "ro/" in sampan.ok("cp", f"{name}:/ro", "-")
    sampan.ok("cp", "-", "running:/scratch", stdin=tar_of(x=b"x"))
    assert sampan.ok("exec", "running", "cat", "/rw/x") == "written"


def test_a_whole_root_is_copied_without_what_the_kernel_makes_up(sampan: Any, tmp_path: Path) -> None:
    sampan.ok("run", "-d", "--name", "whole", "--privileged", BUSYBOX, "sleep", "1000")
    with copied_out(sampan, "whole:/", tmp_path / "root.tar") as archive:
        names = {os.path.normpath(name) for name in archive.getnames()}
    assert {"bin/busybox", "proc", "sys", ".dockerenv"} <= names
    assert not [name for name in names if name.startswith(("proc/", "sys/"))]


def test_an_export_is_a_file_of_its_own_for_its_owner_alone(sampan: Any, tmp_path: Path) -> None:
    sampan.ok("create", "--name", "whole", BUSYBOX)
    out = tmp_path / "out.tar"
    sampan.ok("export", "-o", str(out), "whole")
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as archive:
        assert {"bin/busybox", ".dockerenv"} <= set(archive.getnames())
    device = tmp_path / "null"
    os.mknod(device, 0o020666, os.makedev(1, 3))
    refused = sampan.run("export", "-o", str(device), "whole")
    # docker 20.10's words; a device in the archive's place would be replaced otherwise.
    assert refused.returncode == 1
    assert (
        f'invalid output path: "{device}" must be a directory or a regular file: got a device'
        in refused.stderr
    )
    assert sorted(os.listdir(tmp_path)) == ["null", "out.tar"]


def test_reading_a_containers_files_disturbs_no_container(sampan: Any, tmp_path: Path) -> None:
    """A second overlay with the same work directory breaks the first: nothing could be copied up any more."""
    sampan.ok("run", "-d", "--name", "read", BUSYBOX, "sleep", "1000")
    with tarfile.open(fileobj=io.BytesIO(b"".join(sampan.api.api.export("read")))) as archive:
        assert "bin/busybox" in archive.getnames()
    sampan.ok("exec", "read", "sh", "-c", "echo one >> /etc/passwd && mv /bin/zcat /bin/zdog && rm /bin/vi")
    with tarfile.open(fileobj=io.BytesIO(b"".join(sampan.api.api.export("read")))) as archive:
        names = archive.getnames()
        passwd = archive.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().endswith(b"one\n")
    assert "bin/zdog" in names
    assert not {"bin/zcat", "bin/vi"} & set(names)
    sampan.ok("stop", "-t", "0", "read")
    # A copy out of the stopped container is still under way when it starts and writes.
    stream, _ = sampan.api.api.get_archive("read", "/bin", chunk_size=1)
    next(stream)
    sampan.ok("start", "read")
    sampan.ok("exec", "read", "sh", "-c", "rm /bin/tac && echo two >> /etc/group")
    stream.close()


def test_copies_into_a_container_and_its_starts_go_on_at_once(sampan: Any) -> None:
    sampan.ok("create", "--name", "both", BUSYBOX, "true")
    api, failed = sampan.api.api, []

    def put() -> None:
        for number in range(20):
            if not api.put_archive("both", "/etc", tar_of(**{f"n{number}": b"x"})):
                failed.append(number)

    thread = threading.Thread(target=put)
    thread.start()
    while thread.is_alive():
        sampan.api.api.start("both")
        assert sampan.api.api.wait("both")["StatusCode"] == 0
    assert not failed
    found, _ = api.get_archive("both", "/etc")
    with tarfile.open(fileobj=io.BytesIO(b"".join(found))) as archive:
        assert {f"etc/n{number}" for number in range(20)} <= set(archive.getnames())
