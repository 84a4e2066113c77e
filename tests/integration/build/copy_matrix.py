"""The context of the COPY matrix, and how its expected results are recorded from a real dockerd.

`python tests/integration/build/copy_matrix.py unix:///path/to/docker.sock` records `copy_matrix.json` anew
(it was made with dockerd 20.10.24 and its classic builder). A case is what stands after `FROM scratch`; its
result is a table of files (kind, mode, owner, link target, whether the source's time was kept, size) or the
text of an error ("" where dockerd's text has paths of its own).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("copy_matrix.json")
OLD = 1_000_000_000
TIMES = (OLD, 1000, 2000)
"""Times of the context's files and of the archives' members, in seconds."""

Listing = dict[str, list[Any]]


def make_context(top: Path) -> None:
    top.mkdir()
    for name in (
        *("a", "b", "d/x", "d/sub/y", "d2/x", "d2/z", "usr/usr/lib/q", "root/lib/y", "sp ace", "ignored"),
        *("ign/keep", "ign/drop", "deepign/a/b/c.log", "deepign/a/k", "links/r", "hard/one"),
    ):
        _file(top, name, name)
    for name, target in {
        "link": "a",
        "link2": "b",
        "dlink": "d",
        "dang": "nowhere",
        "out": "../../../etc/hostname",
        "usr/lib": "usr/lib",
        "usr/dang": "/to/nowhere",
        "usr/esc": "../../..",
        "links/l": "r",
        "links/up": "..",
        "links/abs": "/etc/passwd",
    }.items():
        (top / name).symlink_to(target)
    os.link(top / "hard/one", top / "hard/two")
    _file(top, "perm/set", "s", 0o4755)
    _file(top, "perm/ro", "s", 0o400)
    _file(top, "perm/p700/in", "perm/p700/in")
    (top / "perm/p700").chmod(0o700)
    (top / "perm/sticky").mkdir()
    (top / "perm/sticky").chmod(0o1777)
    (top / "empty").mkdir(mode=0o711)
    _file(top, "fake.tar", "not a tar")
    _file(top, ".dockerignore", "Dockerfile\n.dockerignore\nignored\nign\n!ign/keep\n**/*.log\n")
    archive = _archive()
    (top / "x.tar").write_bytes(archive)
    (top / "x.tar.gz").write_bytes(gzip.compress(archive, mtime=0))
    for path in (*sorted(top.rglob("*"), reverse=True), top):
        if not path.is_symlink():
            os.utime(path, (OLD, OLD))


def list_tree(top: Path) -> Listing:
    found: Listing = {}
    first: dict[int, str] = {}
    for path in sorted(top.rglob("*")):
        name, info = str(path.relative_to(top)), path.lstat()
        if stat.S_ISREG(info.st_mode) and info.st_nlink > 1 and first.setdefault(info.st_ino, name) != name:
            found[name] = ["hard", first[info.st_ino]]
            continue
        kind = "dir" if path.is_dir() and not path.is_symlink() else "link" if path.is_symlink() else "file"
        target = os.readlink(path) if kind == "link" else ""
        found[name] = _row(kind, info.st_mode, info.st_uid, info.st_gid, target, info.st_mtime, info.st_size)
    return found


def _row(kind: str, mode: int, uid: int, gid: int, target: str, mtime: float, size: int) -> list[Any]:
    row = [
        kind,
        "" if kind == "link" else f"{mode & 0o7777:o}",
        f"{uid}:{gid}",
        target,
        "kept" if int(mtime) in TIMES else "new",
    ]
    return [*row, size] if kind == "file" else row


def _file(top: Path, name: str, text: str, mode: int = 0o644) -> None:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        directory = tarfile.TarInfo("td/")
        directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o755, 1000
        directory.uid = directory.gid = 9
        archive.addfile(directory)
        member = tarfile.TarInfo("td/tf")
        member.size, member.mode, member.mtime = 3, 0o600, 2000
        member.uid = member.gid = 10
        archive.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


def _record(docker: list[str], case: str, context: Path) -> Listing | str:
    (context / "Dockerfile").write_text(f'FROM scratch\n{case}\nCMD ["x"]\n')
    command = [*docker, "build", "-q", "--no-cache", str(context)]
    built = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "DOCKER_BUILDKIT": "0"}
    )
    if built.returncode:
        message = built.stderr.strip().split("\n")[-1]
        return "" if "overlay" in message else message
    image = built.stdout.strip()
    container = subprocess.check_output([*docker, "create", image], text=True).strip()
    exported = subprocess.check_output([*docker, "export", container])
    subprocess.run([*docker, "rm", container], capture_output=True)
    subprocess.run([*docker, "rmi", image], capture_output=True)
    return _list_export(exported)


def _list_export(exported: bytes) -> Listing:
    """What the engine itself puts into a container is left out."""
    own = {"dev", "dev/console", "dev/pts", "dev/shm", "etc", "etc/hostname", "etc/hosts", "etc/mtab"}
    own |= {"etc/resolv.conf", "proc", "sys", ".dockerenv", ""}
    kinds = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link"}
    found: Listing = {}
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        for member in archive:
            name = member.name.strip("/")
            if name in own:
                continue
            if member.type == tarfile.LNKTYPE:
                found[name] = ["hard", member.linkname]
                continue
            kind = kinds.get(member.type, "file")
            target = member.linkname if kind == "link" else ""
            found[name] = _row(kind, member.mode, member.uid, member.gid, target, member.mtime, member.size)
    return found


def main() -> None:
    docker = ["docker", "-H", sys.argv[1]]
    cases = json.loads(RESULTS.read_text())
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / "context"
        make_context(context)
        rows = [f"{json.dumps(case)}: {json.dumps(_record(docker, case, context))}" for case in cases]
    RESULTS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
