"""Properties of layers, with trees and changes that hypothesis thinks of.

Expected is what the generated members and changes say, or what the kernel showed before a layer was made of it.
`SAMPAN_PROPERTY_EXAMPLES=N` tries N examples of each instead of the few that every test run has time for.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.linux import libc, mount
from sampan.oci.digest import Digest
from sampan.oci.media import OCI_LAYER
from sampan.oci.rootfs import LayerMount, RootAssembly
from sampan.runtime.overlay import LayerMounts
from sampan.storage.layers import LayerStore
from sampan.storage.snapshots import SnapshotStore
from sampan.storage.tar_writer import write_tree
from sampan.testing.trees import Inode, LayeredTree, Tree, differences, tree_of_directory

pytestmark = pytest.mark.root

EXAMPLES = os.environ.get("SAMPAN_PROPERTY_EXAMPLES")
SECOND = 1_000_000_000

# Few, so that members and changes meet; among them what tools stumble over.
NAMES = ("a", "b", "c", "d e", "ü", "new\nline", "\udcff\udcfe", "n" * 255, ".wh", "-r", ".hidden", "\\", "*")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
SIZES = st.sampled_from([0, 0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 70_000, 1_100_000])
IDS = st.sampled_from([0, 0, 1, 1000, 65535, 65536, 0o7777777, 0o7777777 + 1, (1 << 32) - 2])
MODES = st.integers(0, 0o7777)
TIMES = st.one_of(
    st.just(0),
    st.integers((2 - (1 << 31)) * SECOND, (1 << 33) * SECOND),  # about what ext4 can keep
    st.integers(0, 1 << 31).map(lambda seconds: seconds * SECOND),
)
DEVICES = st.sampled_from(["1:3", "0:1", "1:0", "255:255", "259:70000", "4095:1048575"])
TARGETS = st.sampled_from(["a", "../..", "/", "/a/b", "nowhere", "ü\n", "\udcff", "t" * 1023, "t" * 4095])
FILE_XATTRS = st.dictionaries(
    st.sampled_from(
        ["user.a", "user.long" + "x" * 200, "user.ü", "trusted.t", "user.empty", "user.overlayed"]
    ),
    st.sampled_from([b"", b"v", b"\0", b"\xff\xfe\n=", b"x" * 900]),
    max_size=3,
)


def how_many(usual: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or usual),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@contextmanager
def place(parent: Path) -> Iterator[Path]:
    """A directory of one example."""
    directory = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Mounts:
    """Mounts layers as the launcher does."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._layers = LayerMounts(str(directory))
        self._images: list[str] = []

    @contextmanager
    def open(self, assembly: RootAssembly) -> Iterator[Path]:
        self._images += [layer.path for layer in assembly.layers if layer.kind == "erofs"]
        root = Path(f"{self._layers.directory}-root")
        root.mkdir(exist_ok=True)
        target = os.open(root, os.O_PATH | os.O_DIRECTORY)
        descriptor = self._layers.open_root(assembly)
        try:
            mount.attach(descriptor, target)
        finally:
            os.close(descriptor)
            os.close(target)
        try:
            yield root
        finally:
            libc.umount(str(root))

    @contextmanager
    def erofs(self, layer: LayerMount) -> Iterator[Path]:
        """The image alone, without an overlay."""
        assert layer.kind == "erofs"
        self._images.append(layer.path)
        yield Path(self._layers.place_of(layer))

    def close(self) -> None:
        self._layers.release(self._images)


@contextmanager
def mounting(directory: Path) -> Iterator[Mounts]:
    mounts = Mounts(directory)
    try:
        yield mounts
    finally:
        mounts.close()


# --- any tar is a layer that keeps every entry ---


@dataclass(frozen=True)
class Entry:
    """One member of the archive: what it says of itself, and for a hard link which of the names before it is meant."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: str
    device: str
    xattrs: dict[str, bytes]
    linked: int


ENTRIES = st.lists(
    st.builds(
        Entry,
        PATHS,
        st.sampled_from(["file", "file", "dir", "dir", "link", "hard", "char", "block", "fifo"]),
        MODES,
        IDS,
        IDS,
        TIMES,
        SIZES,
        TARGETS,
        DEVICES,
        FILE_XATTRS,
        st.integers(0, 50),
    ),
    max_size=20,
)


class Expected:
    """The tree that unpacking members one by one gives; refuses what no archiver writes.

    Those are members below something that is no directory, and hard links to nothing.
    """

    def __init__(self) -> None:
        self.paths: dict[str, int] = {".": 0}
        self.inodes: dict[int, Inode] = {0: Inode("dir", 0o755, 0, 0)}

    def add(self, path: str, inode: Inode | None, target: str = "") -> bool:
        """`inode` None: a hard link to `target`. False when it was refused."""
        parents = [parent for parent in reversed(Path(path).parents) if str(parent) != "."]
        if any(self._kind(str(parent)) not in ("dir", "") for parent in parents):
            return False
        if inode is None and (
            self._kind(target) in ("", "dir") or target == path or target.startswith(f"{path}/")
        ):
            return False
        for parent in parents:
            if str(parent) not in self.paths:
                self._new(str(parent), Inode("dir", 0o755, 0, 0))
        if inode is None:
            number = self.paths[target]
            self._remove(path)
            self.paths[path] = number
        elif inode.kind == self._kind(path) == "dir":
            self.inodes[self.paths[path]] = inode
        else:
            self._remove(path)
            self._new(path, inode)
        return True

    @property
    def tree(self) -> Tree:
        there = set(self.paths.values())
        return Tree(self.paths, {number: each for number, each in self.inodes.items() if number in there})

    def _kind(self, path: str) -> str:
        return self.inodes[self.paths[path]].kind if path in self.paths else ""

    def _new(self, path: str, inode: Inode) -> None:
        number = len(self.inodes)
        self.inodes[number] = inode
        self.paths[path] = number

    def _remove(self, path: str) -> None:
        for each in [each for each in self.paths if each == path or each.startswith(f"{path}/")]:
            del self.paths[each]


def expected_inode(entry: Entry) -> Inode:
    contents = {
        "file": hashlib.sha256(content(entry.size)).hexdigest(),
        "link": entry.target,
        "char": entry.device,
        "block": entry.device,
    }
    xattrs = entry.xattrs if entry.kind in ("file", "dir") else {}
    return Inode(
        entry.kind,
        0o777 if entry.kind == "link" else entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime,
        contents.get(entry.kind, ""),
        tuple(sorted(xattrs.items())),
    )


TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def pax_time(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{abs(nanoseconds) // SECOND}.{abs(nanoseconds) % SECOND:09d}"


def member_of(entry: Entry, target: str, prefix: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(prefix + entry.path)
    member.type, member.mode, member.uid, member.gid = TYPES[entry.kind], entry.mode, entry.uid, entry.gid
    member.linkname = target if entry.kind == "hard" else entry.target if entry.kind == "link" else ""
    member.devmajor, member.devminor = map(int, entry.device.split(":"))
    member.size = entry.size if entry.kind == "file" else 0
    member.mtime = entry.mtime // SECOND
    member.pax_headers = {"mtime": pax_time(entry.mtime)}
    if entry.kind in ("file", "dir"):
        member.pax_headers |= {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in entry.xattrs.items()
        }
    return member


def archive_of(entries: list[Entry], form: int, prefix: str) -> tuple[bytes, Tree]:
    """The tar, and the tree that it holds. GNU's form knows neither attributes nor parts of seconds."""
    expected, out = Expected(), io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        names: list[str] = []
        for entry in entries:
            if form == tarfile.GNU_FORMAT:
                entry = replace(entry, mtime=entry.mtime // SECOND * SECOND, xattrs={})
            target = names[entry.linked % len(names)] if names else ""
            inode = None if entry.kind == "hard" else expected_inode(entry)
            if entry.kind == "hard" and not names:
                continue
            if not expected.add(entry.path, inode, target):
                continue
            names.append(entry.path)
            member = member_of(entry, prefix + target, prefix)
            archive.addfile(member, io.BytesIO(content(entry.size)) if entry.kind == "file" else None)
    return out.getvalue(), expected.tree


def ingest(store: LayerStore, data: bytes) -> Digest:
    with store.ingest(OCI_LAYER) as work:
        for at in range(0, len(data), 300_000):
            work.write(data[at : at + 300_000])
        return work.commit().diff_id


def tar_of(top: Path) -> bytes:
    out = io.BytesIO()
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_tree(descriptor, out)
    finally:
        os.close(descriptor)
    return out.getvalue()


def tree_of_tar(data: bytes, top: Inode) -> Tree:
    """As Python's own tar module reads it; the top itself is not in a layer's tar."""
    made = LayeredTree(Tree({".": 0}, {0: top}))
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        made.apply(archive)
    return made.tree


@how_many(60)
@given(
    entries=ENTRIES,
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    prefix=st.sampled_from(["", "./", "/"]),
)
def test_a_layer_of_any_tar_mounted_and_written_as_a_tar_again_keeps_every_entry(
    tmp_path: Path, entries: list[Entry], form: int, prefix: str
) -> None:
    data, expected = archive_of(entries, form, prefix)
    with place(tmp_path) as directory, mounting(directory / "mounts") as mounts:
        store = LayerStore(directory / "layers")
        with mounts.erofs(store.mount_of(ingest(store, data))) as top:
            assert differences(expected, tree_of_directory(top)) == []
            again = tar_of(top)
        assert differences(expected.in_seconds(), tree_of_tar(again, expected["."])) == []
        if any(entry.kind == "dir" and entry.mode & stat.S_ISGID for entry in entries):
            return  # the kernel lets directories that the archive does not name inherit that bit, and the group
        unpacked = LayerStore(directory / "directories", prefer="dir")
        tree = Path(unpacked.mount_of(ingest(unpacked, data)).path)
        found = tree_of_directory(tree)
        # A directory's time changes with what is put into it; EROFS has it from the archive.
        assert differences(without_implied_times(expected), without_implied_times(found)) == []


def without_implied_times(tree: Tree) -> Tree:
    """Without the times of directories, which the archive may not name."""
    return Tree(
        tree.paths,
        {
            number: replace(each, mtime=0) if each.kind == "dir" else each
            for number, each in tree.inodes.items()
        },
    )


# --- what a layer holds of changes, applied to what it was made over, gives the changed tree ---


@dataclass(frozen=True)
class Change:
    """`do` says what; `path`, `other` and the rest are used as it needs them."""

    do: str
    path: str
    other: str
    mode: int
    size: int
    owner: int
    mtime: int
    name: str
    value: bytes


SMALL_PATHS = st.lists(st.sampled_from(["a", "b", "c", "ü\n"]), min_size=1, max_size=3).map("/".join)
DEEDS = (
    *(
        "write",
        "write",
        "append",
        "mkdir",
        "mkdir",
        "remove",
        "remove",
        "rename",
        "rename",
        "exchange",
        "hard link",
    ),
    *(
        "symlink",
        "device",
        "fifo",
        "chmod",
        "chown",
        "set",
        "unset",
        "utime",
        "empty",
        "opaque",
        "other kind",
    ),
)
CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(DEEDS),
        SMALL_PATHS,
        SMALL_PATHS,
        MODES,
        SIZES,
        IDS,
        st.integers(0, 1 << 33).map(lambda seconds: seconds * SECOND),
        st.sampled_from(["user.a", "user.b", "trusted.t", "security.x"]),
        st.sampled_from([b"", b"v", b"\0\xff", b"x" * 900]),
    ),
    min_size=1,
    max_size=16,
)

# What a change can meet that is not there, is of another kind, or crosses layers (a directory's rename: EXDEV).
REFUSED = {
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EXDEV, errno.EINVAL, errno.EPERM,
    errno.ENODATA, errno.ELOOP, errno.EBUSY, errno.ENOTSUP, errno.EMLINK,
}  # fmt: skip


def perform(top: Path, changes: list[Change]) -> None:
    """As programs in a container do; what they are refused they do without."""
    for change in changes:
        try:
            one(change, top / change.path, top / change.other)
        except shutil.Error:
            continue
        except OSError as error:
            if error.errno not in REFUSED:
                raise


def one(change: Change, path: Path, other: Path) -> None:
    match change.do:
        case "write":
            write(path, content(change.size))
        case "append":
            write(path, b"more", os.O_APPEND)
        case "mkdir":
            path.mkdir(parents=True, exist_ok=True)
        case "remove":
            remove(path)
        case "rename":
            os.rename(path, other)
        case "exchange":
            aside = path.with_name("aside")
            os.rename(path, aside)
            os.rename(other, path)
            os.rename(aside, other)
        case "hard link":
            os.link(path, other, follow_symlinks=False)
        case "symlink":
            os.symlink(change.other, path)
        case "device":
            os.mknod(path, stat.S_IFCHR | change.mode, os.makedev(1, 3 if change.size else 5))
        case "fifo":
            os.mkfifo(path, change.mode)
        case _:
            attribute(change, path)


def write(path: Path, data: bytes, flags: int = os.O_TRUNC) -> None:
    """Not into devices, and not into a pipe that nobody reads."""
    if path.exists() and not path.is_file():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    with open(descriptor, "wb") as file:
        file.write(data)


def attribute(change: Change, path: Path) -> None:
    match change.do:
        case "chmod":
            if not path.is_symlink():
                os.chmod(path, change.mode)
        case "chown":
            os.chown(path, change.owner, change.owner, follow_symlinks=False)
        case "set":
            os.setxattr(path, change.name, change.value, follow_symlinks=False)
        case "unset":
            os.removexattr(path, change.name, follow_symlinks=False)
        case "utime":
            os.utime(path, ns=(change.mtime, change.mtime), follow_symlinks=False)
        case "empty":
            for child in path.iterdir():
                remove(child)
        case "opaque":
            remove(path)
            path.mkdir()
            (path / "new").write_bytes(b"new")
        case "other kind":
            was = stat.S_IFMT(path.lstat().st_mode)
            remove(path)
            if was == stat.S_IFREG:
                path.mkdir()
            elif was == stat.S_IFDIR:
                path.symlink_to(change.other)
            else:
                write(path, content(change.size))
        case _:
            raise AssertionError(change.do)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def portable(tree: Tree) -> Tree:
    """What travels in a layer: seconds, and no attributes of security modules but `security.capability`."""

    def without(inode: Inode) -> Inode:
        kept = tuple((name, value) for name, value in inode.xattrs if not name.startswith("security."))
        return replace(inode, xattrs=kept if inode.kind in ("file", "dir") else ())

    cut = tree.in_seconds()
    return Tree(cut.paths, {number: without(each) for number, each in cut.inodes.items()})


def without_top(tree: Tree) -> Tree:
    """The top directory's own mode and owner are the base's affair; a layer's tar does not name it."""
    return Tree({path: number for path, number in tree.paths.items() if path != "."}, tree.inodes)


@how_many(40)
@given(before=CHANGES, changes=CHANGES, later=CHANGES, form=st.sampled_from(["dir", "erofs"]))
def test_the_layer_of_any_changes_applied_to_the_parent_gives_the_child(
    tmp_path: Path, before: list[Change], changes: list[Change], later: list[Change], form: str
) -> None:
    with place(tmp_path) as directory, mounting(directory / "mounts") as mounts:
        store = LayerStore(directory / "layers")
        snapshots = SnapshotStore(directory / "snapshots", store)
        elsewhere = LayerStore(directory / "elsewhere")
        layers: list[Digest] = []
        archives: list[bytes] = []
        made = LayeredTree(Tree({".": 0}, {0: Inode("dir", 0o755, 0, 0)}))
        for number, each in enumerate((before, changes, later)):
            assembly = snapshots.create(f"step{number}", layers)
            with mounts.open(assembly) as root:
                perform(root, each)
                child = tree_of_directory(root)
            layers.append(snapshots.adopt(f"step{number}").diff_id)
            out = io.BytesIO()
            store.tar(layers[-1], out)
            archives.append(out.getvalue())

            with mounts.open(RootAssembly(tuple(map(store.mount_of, layers)))) as root:
                adopted = tree_of_directory(root)
            assert differences(without_top(child.in_seconds()), without_top(adopted.in_seconds())) == []
            with tarfile.open(
                fileobj=io.BytesIO(archives[-1]), encoding="utf-8", errors="surrogateescape"
            ) as archive:
                made.apply(archive)
            assert differences(without_top(portable(child)), without_top(made.tree)) == []
            if form == "erofs":
                ingest(elsewhere, archives[-1])
                with mounts.open(RootAssembly(tuple(map(elsewhere.mount_of, layers)))) as root:
                    pulled = tree_of_directory(root)
                assert differences(without_top(portable(child)), without_top(portable(pulled))) == []
