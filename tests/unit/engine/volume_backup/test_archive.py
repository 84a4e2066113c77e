"""A backup written from a tree, read by GNU tar and by ourselves."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from sampan.engine.volume_backup.format import FOOTER_SIZE, FORMAT, Entry, Head, Summary
from sampan.engine.volume_backup.manifests import describe, read_entries, read_manifest
from sampan.engine.volume_backup.reading import Restored, unpack
from sampan.engine.volume_backup.reuse import Bases
from sampan.engine.volume_backup.writing import write_backup
from sampan.errors import Conflict, Invalid


class Memory:
    """The archive; `layer`: entries after which it goes on in another one, `most`: bytes after which a file does."""

    def __init__(self, layer: int = 0, most: int = 0) -> None:
        self.layers: list[bytes] = []
        self._pieces: list[bytes] = []
        self._layer = layer
        self._most = most
        self._entries = 0

    def write(self, data: bytes, /) -> None:
        self._pieces.append(bytes(data))

    @property
    def full(self) -> bool:
        self._entries += 1
        return bool(self._layer) and self._entries % self._layer == 0

    @property
    def overfull(self) -> bool:
        return bool(self._most) and sum(map(len, self._pieces)) >= self._most

    def cut(self) -> None:
        self.layers.append(b"".join(self._pieces))
        self._pieces.clear()


def backup(
    tree: Path, work: Path, base: bytes = b"", layer: int = 0, most: int = 0
) -> tuple[list[bytes], Summary]:
    """`base`: of another backup, its archive."""
    target = Memory(layer, most)
    known = read_manifest([manifest_of(base)]) if base else None
    head = Head(FORMAT, "v", "2026-11-25T15:00:00Z", {"a": "b"}, known.id if known else "")
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return target.layers, write_backup(root, target, head, base=known, directory=work)
    finally:
        os.close(root)


def manifest_of(archive: bytes) -> bytes:
    """Compressed; found by the archive's last bytes alone."""
    footer = json.loads(archive[-FOOTER_SIZE + 8 :])
    return archive[footer["at"] : footer["at"] + footer["len"]]


def restore(chain: list[list[bytes]], place: Path, work: Path) -> Restored:
    """The last of the backups, each in its layers, the oldest first."""
    bases: Bases | None = None
    restored = None
    roots: list[int] = []
    try:
        for number, layers in enumerate(chain):
            tree = place if number == len(chain) - 1 else work / f"base{number}"
            tree.mkdir()
            roots.append(os.open(tree, os.O_RDONLY | os.O_DIRECTORY))
            files: dict[bytes, Entry] = {}
            restored = unpack([[layer] for layer in layers], roots[-1], work, bases=bases, digests=files)
            bases = Bases(restored.summary.id, roots[-1], files, ours=True)
    finally:
        for root in roots:
            os.close(root)
    assert restored is not None
    return restored


def entries(tree: Path) -> list[Entry]:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return list(describe(root))
    finally:
        os.close(root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "dir/inner").mkdir(parents=True)
    (top / "dir/file").write_bytes(os.urandom(300_000))
    os.link(top / "dir/file", top / "second-name")
    (top / "empty").touch()
    (top / "text").write_text("text\n")
    (top / "link").symlink_to("../../outside")
    (top / ("n" * 200)).write_text("a long name")
    os.mkfifo(top / "fifo", 0o640)
    with open(os.fsencode(top) + b"/no-utf8-\xff-\\", "w") as file:
        file.write("x")
    with open(top / "holes", "wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)
    with open(top / "only-a-hole", "wb") as file:
        file.truncate(1 << 20)
    os.setxattr(top / "text", "user.kind", b"any\0bytes=\n")
    os.chmod(top / "text", 0o4751)
    os.chmod(top / "dir", 0o1777)
    os.utime(top / "text", ns=(5, 1_600_000_000_123_456_789))
    os.utime(top / "empty", ns=(5, -1_500_000_000))
    return top


def test_a_restored_tree_is_what_was_backed_up(tree: Path, tmp_path: Path) -> None:
    layers, summary = backup(tree, tmp_path)
    restored = restore([layers], tmp_path / "new", tmp_path)
    assert entries(tmp_path / "new") == entries(tree)
    assert restored.summary == summary
    assert restored.head.labels == {"a": "b"}
    new = tmp_path / "new"
    assert (new / "dir/file").stat().st_ino == (new / "second-name").stat().st_ino
    assert (new / "dir/file").read_bytes() == (tree / "dir/file").read_bytes()
    assert (new / "text").stat().st_mode & 0o7777 == 0o4751
    assert (new / "text").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (new / "empty").stat().st_mtime_ns == -1_500_000_000
    assert os.getxattr(new / "text", "user.kind") == b"any\0bytes=\n"
    assert (new / "holes").read_bytes() == (tree / "holes").read_bytes()
    assert (new / "holes").stat().st_blocks <= (tree / "holes").stat().st_blocks
    assert (new / "only-a-hole").stat().st_blocks == 0


def test_gnu_tar_unpacks_a_backup_and_an_increment_on_it(tree: Path, tmp_path: Path) -> None:
    full, _ = backup(tree, tmp_path)
    shutil.copytree(tree / "dir", tree / "copy")
    (tree / "dir/file").rename(tree / "moved")
    increment, summary = backup(tree, tmp_path, full[0])
    assert summary.stored == 0  # neither the copy nor the moved file is new
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, layers in (("full", full), ("increment", increment)):
        (tmp_path / name).write_bytes(layers[0])
        subprocess.run(
            ["tar", "--zstd", "-xpf", tmp_path / name, "-C", plain], check=True, capture_output=True
        )
        if name == "full":
            (plain / "data").rename(plain / "base")
    assert (plain / "data/moved").read_bytes() == (tree / "moved").read_bytes()
    assert (plain / "data/holes").read_bytes() == (tree / "holes").read_bytes()
    assert sorted(os.listdir(os.fsencode(plain / "data"))) == sorted(os.listdir(os.fsencode(tree)))


def test_an_increment_has_new_contents_alone_and_restores_the_whole(tree: Path, tmp_path: Path) -> None:
    full, _ = backup(tree, tmp_path)
    (tree / "dir/file").rename(tree / "moved")
    shutil.copyfile(tree / "moved", tree / "copied")
    os.chmod(tree / "holes", 0o600)
    (tree / "text").unlink()
    (tree / "new").write_bytes(b"new" * 1000)
    increment, summary = backup(tree, tmp_path, full[0])
    assert summary.stored == 3000
    again, summary = backup(tree, tmp_path, increment[0])
    assert summary.stored == 0
    restore([full, increment, again], tmp_path / "restored", tmp_path)
    assert entries(tmp_path / "restored") == entries(tree)
    # What was one content in the base is two files here.
    copied, moved = (tmp_path / "restored" / name for name in ("copied", "moved"))
    assert copied.stat().st_ino != moved.stat().st_ino


def test_an_increment_needs_its_own_base(tree: Path, tmp_path: Path) -> None:
    full, _ = backup(tree, tmp_path)
    (tree / "new").write_text("new")
    increment, _ = backup(tree, tmp_path, full[0])
    other, _ = backup(tree, tmp_path)
    with pytest.raises(Conflict, match="only what changed since"):
        restore([increment], tmp_path / "alone", tmp_path)
    with pytest.raises(Conflict, match="as its base, not"):
        restore([other, increment], tmp_path / "wrong", tmp_path)


def test_an_archive_in_layers_restores_the_same_and_each_layer_is_a_tar(tree: Path, tmp_path: Path) -> None:
    layers, summary = backup(tree, tmp_path, layer=4)
    assert len(layers) == summary.entries // 4 + 1
    restore([layers], tmp_path / "new", tmp_path)
    assert entries(tmp_path / "new") == entries(tree)
    for layer in layers:
        subprocess.run(["tar", "--zstd", "-t"], input=layer, check=True, capture_output=True)


def test_a_file_larger_than_a_layer_goes_on_in_the_next(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As little as can be is on its way to the compressor when a layer is found to be full.
    monkeypatch.setattr("sampan.engine.volume_backup.frames._processors", lambda: 0)
    monkeypatch.setattr("sampan.engine.volume_backup.frames._WAITING", 1)
    (tree / "dir/huge").write_bytes(os.urandom(30 << 20))
    with open(tree / "dir/sparse-huge", "wb") as file:
        for offset in (1 << 30, 2 << 30):
            file.seek(offset)
            file.write(os.urandom(10 << 20))
    layers, summary = backup(tree, tmp_path, most=4 << 20)
    assert len(layers) >= 4 and max(map(len, layers)) <= 16 << 20
    restored = restore([layers], tmp_path / "new", tmp_path)
    assert entries(tmp_path / "new") == entries(tree)
    assert backup(tree, tmp_path)[1].id == summary.id == restored.summary.id
    subprocess.run(["tar", "--zstd", "-t"], input=b"".join(layers), check=True, capture_output=True)
    for missing in range(1, len(layers)):
        with pytest.raises(Invalid):
            restore([layers[:missing] + layers[missing + 1 :]], tmp_path / f"without{missing}", tmp_path)


def test_equal_trees_have_equal_ids_whenever_they_are_backed_up(tree: Path, tmp_path: Path) -> None:
    layers, first = backup(tree, tmp_path)
    restore([layers], tmp_path / "new", tmp_path)
    _, second = backup(tmp_path / "new", tmp_path)
    assert first.id == second.id
    os.chmod(tmp_path / "new/text", 0o600)
    _, third = backup(tmp_path / "new", tmp_path)
    assert third.id != first.id


def test_the_manifest_alone_tells_of_every_entry(tree: Path, tmp_path: Path) -> None:
    layers, summary = backup(tree, tmp_path)
    listed = list(read_entries([manifest_of(layers[0])]))
    assert listed == entries(tree)
    assert len(listed) == summary.entries
    # By the tools of others: sha256sum, and zstd over the whole file.
    text = subprocess.run(["sha256sum", tree / "text"], capture_output=True, check=True, text=True).stdout
    (line,) = [one for one in listed if one.path == "text"]
    assert line.sha256 == text.split()[0]
    subprocess.run(["zstd", "-t", "-"], input=layers[0], check=True, capture_output=True)


def test_a_backup_that_is_cut_off_anywhere_is_refused(tree: Path, tmp_path: Path) -> None:
    layers, _ = backup(tree, tmp_path)
    archive = layers[0]
    positions = {*range(0, len(archive) - FOOTER_SIZE, len(archive) // 40), len(archive) - FOOTER_SIZE - 1}
    for number, position in enumerate(sorted(positions)):
        with pytest.raises(Invalid):
            restore([[archive[:position]]], tmp_path / f"cut{number}", tmp_path)


def test_a_backup_with_a_changed_byte_is_refused_or_the_same(tree: Path, tmp_path: Path) -> None:
    """The footer is not needed for a restore: nothing of a volume is in it."""
    layers, _ = backup(tree, tmp_path)
    archive = bytearray(layers[0][:-FOOTER_SIZE])
    step = len(archive) // 150
    for number, position in enumerate(range(0, len(archive), step)):
        damaged = bytearray(archive)
        damaged[position] ^= 0x10
        place = tmp_path / f"damaged{number}"
        try:
            restore([[bytes(damaged)]], place, tmp_path)
        except Invalid:
            continue
        assert entries(place) == entries(tree)


def test_a_changed_byte_of_the_plain_archive_is_found_without_zstds_own_checksum(
    tree: Path, tmp_path: Path
) -> None:
    layers, _ = backup(tree, tmp_path)
    reader = zstandard.ZstdDecompressor().stream_reader(layers[0], read_across_frames=True)
    plain = bytearray(reader.read())
    at = plain.index((tree / "dir/file").read_bytes()[:64])
    plain[at + 5] ^= 1
    with pytest.raises(Invalid, match=r"manifest does not fit its content, from the entry 'dir/file'"):
        restore([[zstandard.compress(bytes(plain))]], tmp_path / "new", tmp_path)


def mutated(plain: bytes, chance: random.Random) -> bytes:
    """A few bytes or blocks changed, removed, doubled or exchanged; headers keep a checksum that is right."""
    data = bytearray(plain)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(data))
        block = at // 512 * 512
        kind = chance.randrange(5)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.choice((1, 512))]
        elif kind == 2:
            data[block:block] = data[block : block + 512 * chance.randint(1, 4)]
        elif kind == 3:
            other = chance.randrange(len(data)) // 512 * 512
            data[block : block + 512], data[other : other + 512] = (
                data[other : other + 512],
                data[block : block + 512],
            )
        else:
            header = bytearray(data[block : block + 512].ljust(512, b"\0"))
            header[chance.randrange(512)] = chance.choice(b"0123456789/.\0-+ \xff\x80")
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            data[block : block + 512] = header
    return bytes(data)


def test_a_mutated_archive_is_refused_or_restores_the_same(tree: Path, tmp_path: Path) -> None:
    (tree / "dir/file").write_bytes(b"not much")
    layers, _ = backup(tree, tmp_path)
    plain = zstandard.ZstdDecompressor().stream_reader(layers[0], read_across_frames=True).read()
    chance = random.Random(5)
    expected, refused = entries(tree), 0
    place = tmp_path / "mutated"
    for _ in range(400):
        shutil.rmtree(place, ignore_errors=True)
        try:
            restore([[zstandard.compress(mutated(plain, chance), 1)]], place, tmp_path)
        except Invalid:
            refused += 1
        else:
            assert entries(place) == expected
    assert refused > 200


@pytest.fixture
def roomy() -> Iterator[Path]:
    """A directory on tmpfs, which takes longer files, other times and more attributes than ext4."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("there is no /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as name:
        yield Path(name)


def test_what_a_backup_has_taken_a_restore_takes(roomy: Path, tmp_path: Path) -> None:
    tree = roomy / "tree"
    tree.mkdir()
    os.truncate(_touched(tree / "long"), 1 << 45)
    os.utime(_touched(tree / "far"), ns=(0, 10**9 << 61))
    deepest = os.open(tree, os.O_RDONLY)
    for _ in range(100):  # a path of 20,000 bytes
        os.mkdir("n" * 200, dir_fd=deepest)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = below
    os.close(os.open("first", os.O_CREAT, dir_fd=deepest))
    os.link("first", "second", src_dir_fd=deepest, dst_dir_fd=deepest)
    os.close(deepest)
    layers, summary = backup(tree, tmp_path)
    restored = restore([layers], roomy / "new", tmp_path)
    assert restored.summary.entries == summary.entries
    assert entries(roomy / "new") == entries(tree)
    assert entries(tree)[-2].type == "file"
    assert entries(tree)[-1].type == "hardlink"


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("limit", "value", "named"),
    [("ENTRIES_MAX", 3, "entries"), ("SIZE_MAX", 1000, "larger"), ("HEAD_MAX", 20, "labels")],
)
def test_a_backup_that_no_restore_would_take_is_not_made(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, named: str
) -> None:
    monkeypatch.setattr(f"sampan.engine.volume_backup.writing.{limit}", value)
    with pytest.raises(Invalid, match=named):
        backup(tree, tmp_path)


def test_names_of_changed_files_do_not_make_a_summary_too_large(tree: Path, tmp_path: Path) -> None:
    target = Memory()
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    names = [b"/".join([b"\xff" * 250] * 60 + [b"%d" % number]) for number in range(20)]
    try:
        write_backup(root, target, Head(FORMAT, "v", ""), directory=tmp_path, changed=lambda: names)
    finally:
        os.close(root)
    restored = restore([target.layers], tmp_path / "new", tmp_path)
    assert restored.summary.changed >= 20
