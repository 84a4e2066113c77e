from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, Invalid, NotFound
from sampan.oci.digest import Digest, digest_of
from sampan.oci.rootfs import LayerMount
from sampan.storage.layers import LayerStore
from sampan.storage.removal import remove_tree
from sampan.storage.snapshots import SnapshotStore


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "layers")


@pytest.fixture
def snapshots(tmp_path: Path, layers: LayerStore) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", layers)


@pytest.fixture
def base(tmp_path: Path, layers: LayerStore) -> Digest:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("base")
    return layers.adopt_tree(tmp_path / "tree").diff_id


def test_what_a_container_made_set_user_id_is_out_of_other_users_reach(
    tmp_path: Path, snapshots: SnapshotStore, base: Digest
) -> None:
    snapshots.create("c1", [base])
    assert (tmp_path / "snapshots").stat().st_mode & 0o077 == 0
    assert (tmp_path / "layers").stat().st_mode & 0o077 == 0


def test_a_snapshot_is_an_assembly_of_its_layers_and_a_writable_one(
    snapshots: SnapshotStore, layers: LayerStore, base: Digest
) -> None:
    assembly = snapshots.create("c1", [base])
    assert assembly.layers == (LayerMount("dir", layers.mount_of(base).path),)
    assert assembly.upper is not None and assembly.work is not None
    assert os.listdir(assembly.upper) == os.listdir(assembly.work) == []
    assert Path(assembly.upper).stat().st_mode & 0o7777 == 0o755
    assert snapshots.assembly("c1") == assembly
    assert snapshots.layers("c1") == (base,)
    assert snapshots.ids() == ["c1"]


def test_an_id_is_used_once_and_layers_must_exist(snapshots: SnapshotStore, base: Digest) -> None:
    snapshots.create("c1", [base])
    (snapshots.upper("c1") / "mine").write_text("")
    with pytest.raises(Conflict, match="c1 already exists"):
        snapshots.create("c1", [base])
    assert (snapshots.upper("c1") / "mine").exists()
    with pytest.raises(NotFound, match="No such layer"):
        snapshots.create("c2", [digest_of(b"unknown")])
    assert snapshots.ids() == ["c1"]


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x", ".remove-1", "a" * 200])
def test_ids_are_no_paths(snapshots: SnapshotStore, bad: str) -> None:
    with pytest.raises(Invalid):
        snapshots.create(bad, [])
    with pytest.raises(Invalid):
        snapshots.remove(bad)


def test_usage_counts_content_once(snapshots: SnapshotStore) -> None:
    snapshots.create("c", [])
    upper = snapshots.upper("c")
    (upper / "d").mkdir()
    (upper / "d" / "f").write_bytes(b"x" * 100)
    os.link(upper / "d" / "f", upper / "g")
    (upper / "link").symlink_to("/etc")
    assert snapshots.usage("c") == 100


def test_removing_does_not_follow_links_and_is_idempotent(snapshots: SnapshotStore, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    snapshots.create("c", [])
    (snapshots.upper("c") / "link").symlink_to(tmp_path / "precious")
    snapshots.remove("c")
    snapshots.remove("c")
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert os.listdir(tmp_path / "snapshots") == []
    with pytest.raises(NotFound, match="No such snapshot: c"):
        snapshots.assembly("c")


def test_adopting_makes_the_upper_directory_a_layer_and_ends_the_snapshot(
    snapshots: SnapshotStore, layers: LayerStore, base: Digest
) -> None:
    snapshots.create("c", [base])
    (snapshots.upper("c") / "new").write_text("content")
    layer = snapshots.adopt("c")
    assert (layers.size(layer.diff_id), snapshots.ids()) == (7, [])


def test_sweeping_removes_what_nobody_knows(snapshots: SnapshotStore, tmp_path: Path) -> None:
    for name in ("a", "b"):
        snapshots.create(name, [])
    (tmp_path / "snapshots" / ".create-half").mkdir()
    assert snapshots.sweep({"b"}) == ["a"]
    assert os.listdir(tmp_path / "snapshots") == ["b"]


def open_below(top: Path) -> Iterator[str]:
    """Descriptors of this process that lead there; threads of other tests may open and close some meanwhile."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith(str(top)):
                yield number
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                yield number
            elif error.errno != errno.ENOENT:
                raise


def test_a_tree_deeper_than_any_path_is_removed_with_few_descriptors(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for number in range(3000):
        os.mkdir("d" * 20, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        if number == 2999:
            os.close(fd)
    remove_tree(top)
    assert not top.exists()
    assert list(open_below(top)) == []
    remove_tree(top)


def test_layers_that_the_caller_knows_do_not_depend_on_a_record_that_a_power_failure_emptied(
    tmp_path: Path, snapshots: SnapshotStore, base: Digest
) -> None:
    assembly = snapshots.create("c", [base])
    (tmp_path / "snapshots" / "c" / "layers.json").write_bytes(b"")
    assert snapshots.assembly("c", [base]) == assembly
    with pytest.raises(NotFound, match="No such snapshot: d"):
        snapshots.assembly("d", [base])
