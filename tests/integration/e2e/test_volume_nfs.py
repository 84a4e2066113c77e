"""Volumes on an NFS server: the kernel's own, on this machine (nfsd(7)); skipped where the kernel has none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.mountinfo import mounted_below

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
NFSD = Path("/proc/fs/nfsd")


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=check)


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Path]:
    """A directory that is the root of what an NFSv4 server at 127.0.0.1 exports."""
    programs = [shutil.which(name) for name in ("exportfs", "rpc.mountd", "rpc.nfsd")]
    if not all(programs):
        pytest.skip("no NFS server is installed: nfs-kernel-server")
    run("modprobe", "-q", "-a", "nfsd", "nfs", "nfsv4", check=False)
    kinds = Path("/proc/filesystems").read_text().split()
    if "nfsd" not in kinds or "nfs4" not in kinds:
        pytest.skip("this kernel has no NFS")
    if not NFSD.is_mount():
        run("mount", "-t", "nfsd", "nfsd", NFSD)
    if (NFSD / "threads").read_text().strip() != "0":
        pytest.skip("an NFS server runs here already")
    os.makedirs("/var/lib/nfs/v4recovery", exist_ok=True)
    for path in ("/etc/exports", "/var/lib/nfs/etab", "/var/lib/nfs/rmtab"):
        Path(path).touch()
    directory = tmp_path / "export"
    directory.mkdir()
    run("ip", "link", "set", "lo", "up")
    run("exportfs", "-o", "rw,no_root_squash,insecure,no_subtree_check,fsid=0", f"127.0.0.1:{directory}")
    # Both versions off for which a port mapper would be needed.
    with subprocess.Popen(["rpc.mountd", "-F", "-N", "2", "-N", "3"]) as mountd:
        try:
            # The shortest time that it waits for clients of before its start.
            run("rpc.nfsd", "-N", "3", "-G", "10", "-L", "10", "2")
            yield directory
        finally:
            run("rpc.nfsd", "0", check=False)
            mountd.terminate()
            run("exportfs", "-u", f"127.0.0.1:{directory}", check=False)


@pytest.mark.parametrize(
    "options",
    [
        {"device": ":/", "o": "addr=127.0.0.1,nfsvers=4"},
        {"device": "localhost:/", "o": "nfsvers=4"},
    ],
)
def test_data_is_on_the_server(sampan: Any, export: Path, options: dict[str, str]) -> None:
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    sampan.ok("volume", "create", "-o", "type=nfs", *words, "far")
    path = sampan.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "far")
    assert mounted_below(path) == []
    sampan.ok("run", "--rm", "-v", "far:/v", BUSYBOX, "sh", "-c", "mkdir -p /v/sub; echo text > /v/sub/file")
    assert (export / "sub/file").read_text() == "text\n"
    assert mounted_below(path) == []
    part = "type=volume,source=far,target=/part,volume-subpath=sub,readonly"
    script = "cat /part/file; grep -c ' nfs4 ' /proc/self/mountinfo; touch /part/x"
    ran = sampan.run("run", "--rm", "--mount", part, BUSYBOX, "sh", "-c", script)
    assert ran.stdout == "text\n1\n" and "Read-only file system" in ran.stderr
    sampan.ok("volume", "rm", "far")
    assert (export / "sub/file").exists()
