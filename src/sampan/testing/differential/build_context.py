"""The context that the differential builds share: one of each thing that a context can hold.

Every time in it is `OLD`, so that what a builder keeps is told from what it makes anew.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

OLD = 1_000_000_000

_FILES = (
    "a", "b", "d/x", "d/sub/y", "d2/x", "d2/z", "sp ace", "we[i]rd", "star*", "deep/1/2/3/bottom", "logs/one.log",
    "logs/two.txt", "src/main.c", "src/main.h", "src/lib/util.c", "vendor/lib/q", "node_modules/m/index.js",
    ".hidden", ".git/HEAD", "docs/README.md", "docs/guide.md", "README.md", "hard/one", "links/r", "etc/hosts.extra",
)  # fmt: skip
_LINKS = {
    "link": "a",
    "dlink": "d",
    "dangling": "nowhere",
    "climbing": "../../../etc/hostname",
    "links/relative": "r",
    "links/up": "..",
    "links/absolute": "/etc/passwd",
}
_MODES = {"perm/suid": 0o4755, "perm/sgid": 0o2755, "perm/read": 0o400, "perm/run": 0o711, "perm/all": 0o777}


def make_context(top: Path) -> None:
    """At `top`, which must not exist. Needs root, for an owner and an extended attribute."""
    top.mkdir(parents=True)
    for name in _FILES:
        _file(top / name, f"{name}\n")
    for name, mode in _MODES.items():
        _file(top / name, name, mode)
    for name, target in _LINKS.items():
        (top / name).symlink_to(target)
    os.link(top / "hard/one", top / "hard/two")
    os.link(top / "hard/one", top / "hard-three")
    _file(top / "owned", "of somebody")
    os.chown(top / "owned", 1234, 5678)
    _file(top / "attributed", "with an attribute")
    os.setxattr(top / "attributed", "user.note", b"kept?")
    (top / "dangling-dir").mkdir()
    for name in ("here", "there"):
        (top / "dangling-dir" / name).symlink_to("/to/nothing")
    (top / "empty").mkdir(mode=0o711)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    (top / "empty-file").touch()
    _file(top / "large", "0123456789abcdef" * 40_000)
    _file(top / "not-a.tar", "not an archive")
    archive = _archive()
    for name, data in {
        "x.tar": archive,
        "x.tar.gz": gzip.compress(archive, mtime=0),
        "x.tar.bz2": bz2.compress(archive),
        "x.tar.xz": lzma.compress(archive),
    }.items():
        (top / name).write_bytes(data)
    _file(top / "run.sh", "#!/bin/sh\necho ran > /ran\n", 0o755)
    make_old(top)


def make_old(top: Path) -> None:
    """All times below `top`, and its own, become `OLD`; also those of links, which are not followed."""
    for path in (*sorted(top.rglob("*"), reverse=True), top):
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def _file(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _archive() -> bytes:
    """A directory, files of somebody, a link of each kind, a fifo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in (
            ("td", tarfile.DIRTYPE, ""),
            ("td/tf", tarfile.REGTYPE, ""),
            ("td/hard", tarfile.LNKTYPE, "td/tf"),
            ("td/soft", tarfile.SYMTYPE, "tf"),
            ("td/pipe", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime = kind, target, OLD
            member.mode = 0o751 if kind == tarfile.DIRTYPE else 0o640
            member.uid, member.gid = 9, 10
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


def base_root(busybox: Path) -> bytes:
    """The tar of the feature cases' base: busybox, accounts, and all that engines make in a container's root."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, mode in {
            **dict.fromkeys(
                ("bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "var"), 0o755
            ),
            "root": 0o700,
            "tmp": 0o1777,
        }.items():
            _add(archive, name, tarfile.DIRTYPE, mode)
        _add(archive, "bin/busybox", tarfile.REGTYPE, 0o755, busybox.read_bytes())
        for applet in sorted(set(applets) - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, "busybox", OLD
            archive.addfile(entry)
        for name, text in {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/home:/bin/sh\n"
            "nobody:x:65534:65534::/:/bin/sh\n",
            "etc/group": "root:x:0:\nweb:x:44:\nops:x:55:web\nnogroup:x:65534:\n",
            "etc/hosts": "",
            "etc/hostname": "",
            "etc/resolv.conf": "",
            "etc/mtab": "",
        }.items():
            _add(archive, name, tarfile.REGTYPE, 0o644, text.encode())
    return out.getvalue()


def _add(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.mtime = kind, mode, len(content), OLD
    archive.addfile(entry, io.BytesIO(content))
