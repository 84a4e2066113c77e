"""Layers as the kernel sees them, against GNU tar's unpacking and overlayfs."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.oci.digest import Digest, digest_of
from sampan.oci.media import OCI_LAYER
from sampan.oci.rootfs import RootAssembly
from sampan.storage.layers import LayerStore
from sampan.storage.snapshots import SnapshotStore

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed"),
]

Facts = dict[str, tuple[object, ...]]


@contextmanager
def mounted(target: Path, *arguments: object) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", *map(str, arguments), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def erofs(store: LayerStore, diff_id: Digest, target: Path) -> AbstractContextManager[Path]:
    mount = store.mount_of(diff_id)
    assert mount.kind == "erofs"
    return mounted(target, "-t", "erofs", "-o", "ro", mount.path)


def overlay_options(assembly: RootAssembly) -> str:
    lower = ":".join(mount.path for mount in reversed(assembly.layers))
    return f"lowerdir={lower},upperdir={assembly.upper},workdir={assembly.work}"


def facts(top: Path, *, times: bool = True) -> Facts:
    """Everything that a file system says of a tree; hard links by the names that share an inode."""
    found: Facts = {}
    inodes: dict[int, set[str]] = {}
    for directory, _, files in [(str(top), [], []), *os.walk(top)]:
        names = [directory] if not files else [directory, *(os.path.join(directory, name) for name in files)]
        for path in names + [e.path for e in os.scandir(directory)]:
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            name = os.path.relpath(path, top)
            xattrs = os.listxattr(path, follow_symlinks=False)
            content = ""
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
                inodes.setdefault(status.st_ino, set()).add(name)
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            found[name] = (
                oct(status.st_mode), status.st_uid, status.st_gid, content,
                status.st_mtime_ns if times else 0,
                status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                () if kind == stat.S_IFDIR else (status.st_size, status.st_nlink),
                tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(xattrs)),
            )  # fmt: skip
    found["hard links"] = tuple(sorted(tuple(sorted(names)) for names in inodes.values() if len(names) > 1))
    return found


def gnu_tar(source: Path, *options: str) -> bytes:
    command = ["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name"]
    return subprocess.run(
        [*command, *options, "-C", str(source), "-cf", "-", "."], check=True, capture_output=True
    ).stdout


def gnu_untar(data: bytes, target: Path) -> Path:
    target.mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", str(target)],
        input=data, check=True,
    )  # fmt: skip
    return target


def ingest(store: LayerStore, data: bytes) -> Digest:
    with store.ingest(OCI_LAYER, digest_of(data)) as work:
        for at in range(0, len(data), 300_000):
            work.write(data[at : at + 300_000])
        return work.commit().diff_id


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A tree with one of each thing that a file system can hold."""
    top = tmp_path / "everything"
    top.mkdir(mode=0o751)
    for number in range(600):
        (top / "many").mkdir(exist_ok=True)
        (top / "many" / f"{number}-{'x' * (number % 200)}").write_bytes(b"%d" % number * number)
    (top / "files").mkdir()
    for size in (0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 100_000, 3_000_000):
        (top / "files" / str(size)).write_bytes(os.urandom(size))
    for name in ("ü", "new\nline", os.fsdecode(b"\xff\xfe"), "n" * 255, "tab\t", "-dash", ".hidden"):
        (top / "files" / name).write_text(name.encode("utf-8", "backslashreplace").decode())
    os.link(top / "files" / "4097", top / "hard")
    os.link(top / "files" / "4097", top / "many" / "hard")
    for length in (1, 59, 1000, 4000, 4095):
        (top / f"link-{length}").symlink_to("t" * length)
    with open(top / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"middle")
        file.truncate(9_999_999)
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    (top / "suid").write_bytes(b"s")
    os.chown(top / "suid", 100_000, 4_000_000_000)
    os.chmod(top / "suid", 0o6755)
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o3777)
    (top / "x").write_bytes(b"with attributes")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(top / "x", "security.capability", capability)
    for number in range(8):
        os.setxattr(top / "x", f"user.{'k' * number}{number}", os.urandom(300))
    os.setxattr(top / "sticky", "user.empty", b"")
    os.setxattr(top / "files" / "1024", "user.big", os.urandom(3500))
    deep = top.joinpath(*(["deep"] * 100))
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("here")
    for number, name in enumerate(sorted(os.listdir(top))):
        moment = number * 100_000_000_123_456_789 % (1 << 61)
        os.utime(top / name, ns=(moment, moment), follow_symlinks=False)
    return top


@pytest.mark.parametrize("options", [[], ["--sparse"], ["--sparse", "--sparse-version=0.1"]])
def test_the_kernel_shows_the_tree_that_gnu_tar_unpacks(
    everything: Path, tmp_path: Path, options: list[str]
) -> None:
    data = gnu_tar(everything, *options)
    expected = facts(gnu_untar(data, tmp_path / "gnu"))
    assert len(expected) > 700
    store = LayerStore(tmp_path / "layers")
    with erofs(store, ingest(store, data), tmp_path / "mnt") as top:
        assert facts(top) == expected


def test_a_directory_layer_is_the_tree_that_gnu_tar_unpacks(everything: Path, tmp_path: Path) -> None:
    data = gnu_tar(everything, "--sparse")
    store = LayerStore(tmp_path / "layers", prefer="dir")
    mount = store.mount_of(ingest(store, data))
    assert mount.kind == "dir"
    assert facts(Path(mount.path)) == facts(gnu_untar(data, tmp_path / "gnu"))


def test_a_written_tree_is_unpacked_the_same_by_gnu_tar(everything: Path, tmp_path: Path) -> None:
    expected = facts(everything, times=False)
    store = LayerStore(tmp_path / "layers")
    layer = store.adopt_tree(everything)
    out = io.BytesIO()
    store.tar(layer.diff_id, out)
    assert digest_of(out.getvalue()) == layer.diff_id
    unpacked = facts(gnu_untar(out.getvalue(), tmp_path / "gnu"), times=False)
    del expected["."], unpacked["."]
    assert unpacked == expected
    again = LayerStore(tmp_path / "again")
    with erofs(again, ingest(again, out.getvalue()), tmp_path / "mnt") as top:
        mounted_facts = facts(top, times=False)
    del mounted_facts["."]
    assert mounted_facts == expected


def test_a_real_tree_is_the_same_mounted_and_unpacked(tmp_path: Path) -> None:
    source = Path("/usr/share/doc") if Path("/usr/share/doc").is_dir() else Path("/usr/share")
    data = gnu_tar(source, "--exclude=*.pdf")
    store = LayerStore(tmp_path / "layers")
    diff_id = ingest(store, data)
    if shutil.which("fsck.erofs"):
        subprocess.run(["fsck.erofs", store.mount_of(diff_id).path], check=True)
    expected = facts(gnu_untar(data, tmp_path / "gnu"))
    with erofs(store, diff_id, tmp_path / "mnt") as top:
        assert facts(top) == expected


NAMES = st.lists(st.sampled_from(["a", "b", "c" * 200]), min_size=1, max_size=3).map("/".join)
ENTRIES = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]),
        st.sampled_from([0, 1, 1024, 1025, 4096, 9000]),
        st.integers(0, 0o7777),
        st.integers(0, 1 << 33),
        st.dictionaries(st.sampled_from(["user.a", "user.bb"]), st.text("xy", max_size=9), max_size=2),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES)
def test_any_small_archive_is_the_same_mounted_and_unpacked(
    tmp_path: Path, entries: list[tuple[str, bytes, int, int, int, dict[str, str]]]
) -> None:
    """Sorted, each name once, no entry below what is no directory: where GNU tar has no ways of its own."""
    entries = sorted(entries, key=lambda entry: entry[0].split("/"))
    kinds = {
        name: kind for name, kind, *_ in reversed(entries)
    }  # the first of a name is the one that is made
    out = io.BytesIO()
    done: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, size, mode, mtime, xattrs in entries:
            parents = [str(parent) for parent in Path(name).parents][:-1]
            if name in done or any(
                kinds.get(parent, tarfile.DIRTYPE) != tarfile.DIRTYPE for parent in parents
            ):
                continue
            for missing in reversed(parents):
                if missing not in done:
                    info = tarfile.TarInfo(missing)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1
                    tar.addfile(info)
                    done.add(missing)
            if name in done:
                continue
            done.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.linkname = (
                kind,
                mode,
                mtime,
                "to" if kind == tarfile.SYMTYPE else "",
            )
            if kind in (tarfile.REGTYPE, tarfile.DIRTYPE):
                info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()}
            if kind == tarfile.REGTYPE:
                info.size = size
            tar.addfile(info, io.BytesIO(b"z" * size))
    work = tmp_path / hashlib.sha256(out.getvalue()).hexdigest()
    if work.exists():
        return
    work.mkdir()
    expected = facts(gnu_untar(out.getvalue(), work / "gnu"))
    del expected["."]
    store = LayerStore(work / "layers")
    with erofs(store, ingest(store, out.getvalue()), work / "mnt") as top:
        found = facts(top)
    del found["."]
    assert found == expected


def layer_of(store: LayerStore, entries: list[tuple[str, bytes, str]]) -> Digest:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, what in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            info.size = len(what)
            tar.addfile(info, io.BytesIO(what.encode()))
    return ingest(store, out.getvalue())


@pytest.mark.parametrize("prefer", ["erofs", "dir"])
def test_whiteouts_and_opaque_directories_hide_what_is_below(tmp_path: Path, prefer: str) -> None:
    store = LayerStore(tmp_path / "layers", prefer="dir" if prefer == "dir" else "erofs")
    snapshots = SnapshotStore(tmp_path / "snapshots", store)
    file, directory = tarfile.REGTYPE, tarfile.DIRTYPE
    names = ("gone", "kept", "opaque/old", "replaced/old", "dir/gone", "dir/kept", "late/old")
    base = layer_of(store, [(name, file, "base") for name in names])
    top = layer_of(
        store,
        [
            (".wh.gone", file, ""),
            ("opaque", directory, ""),
            ("opaque/.wh..wh..opq", file, ""),
            ("opaque/new", file, "top"),
            (".wh.replaced", file, ""),
            ("replaced", directory, ""),
            ("replaced/new", file, "top"),
            ("dir/.wh.gone", file, ""),
            ("late/new", file, "top"),
            (".wh.late", file, ""),
        ],
    )
    assembly = snapshots.create("s", [base, top])
    lowers = []
    with ExitStack() as cleanup:
        for number, mount in enumerate(assembly.layers):
            if mount.kind == "erofs":
                place = tmp_path / f"m{number}"
                cleanup.enter_context(mounted(place, "-t", "erofs", "-o", "ro", mount.path))
                lowers.append(str(place))
            else:
                lowers.append(mount.path)
        options = f"lowerdir={':'.join(reversed(lowers))},upperdir={assembly.upper},workdir={assembly.work}"
        root = cleanup.enter_context(mounted(tmp_path / "root", "-t", "overlay", "-o", options, "overlay"))
        seen = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert seen == {"kept", "opaque/new", "replaced/new", "dir/kept", "late/new"}


def test_an_upper_directory_becomes_a_layer_that_gives_the_same_root(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    snapshots = SnapshotStore(tmp_path / "snapshots", store)
    snapshots.create("base", [])
    base_upper = snapshots.upper("base")
    for name in ("old", "changed", "dir/a", "dir/b", "whole/x"):
        (base_upper / name).parent.mkdir(exist_ok=True)
        (base_upper / name).write_text(name)
    base = snapshots.adopt("base").diff_id
    assembly = snapshots.create("step", [base])
    with mounted(tmp_path / "root", "-t", "overlay", "-o", overlay_options(assembly), "overlay") as root:
        (root / "old").unlink()
        (root / "changed").write_text("now")
        os.chown(root / "changed", 5, 6)
        (root / "dir/a").unlink()
        os.link(root / "dir/b", root / "dir/c")
        shutil.rmtree(root / "whole")
        (root / "whole").mkdir()
        (root / "whole/y").write_text("y")
        expected = facts(root, times=False)
    step = snapshots.adopt("step").diff_id
    tree = Path(store.mount_of(step).path)
    marks = {
        name
        for path in [tree, *tree.rglob("*")]
        if not path.is_symlink()
        for name in os.listxattr(path)
        if name.startswith("trusted.overlay.") and not stat.S_ISCHR(path.lstat().st_mode)
    }
    assert marks == {"trusted.overlay.opaque"}
    out = io.BytesIO()
    store.tar(step, out)
    assert digest_of(out.getvalue()) == step
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        names = tar.getnames()
    assert {".wh.old", "dir/.wh.a", "whole/.wh..wh..opq"} <= set(names)
    elsewhere = LayerStore(tmp_path / "elsewhere")
    ingest(elsewhere, out.getvalue())
    again = snapshots.create("again", [base])
    with erofs(elsewhere, step, tmp_path / "upper") as upper:
        options = f"lowerdir={upper}:{again.layers[0].path},upperdir={again.upper},workdir={again.work}"
        with mounted(tmp_path / "root", "-t", "overlay", "-o", options, "overlay") as root:
            found = facts(root, times=False)
    del found["."], expected["."]
    assert found == expected
