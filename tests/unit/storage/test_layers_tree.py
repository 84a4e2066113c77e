"""A layer's tree as unpacking would give it: replacement, implied parents, whiteouts, and what is refused."""

from __future__ import annotations

import stat

import pytest

from sampan.errors import Invalid
from sampan.storage import tar_format as tf
from sampan.storage.layer_tree import LayerTree, Node
from sampan.storage.tar_format import Member

OPAQUE = {b"trusted.overlay.opaque": b"y"}


def member(name: str, kind: bytes = tf.REGULAR, link: str = "", mode: int = 0o644, **more: object) -> Member:
    values = {
        "uid": 0, "gid": 0, "size": 0, "mtime": 5, "mtime_nsec": 0, "major": 0, "minor": 0, "uname": b"",
        "gname": b"", "stored": 0, "sparse": None, "xattrs": None, "offset": 0,
    } | more  # fmt: skip
    return Member(name=name.encode(), type=kind, link=link.encode(), mode=mode, **values)  # type: ignore[arg-type]


def directory(name: str, mode: int = 0o755) -> Member:
    return member(name, tf.DIRECTORY, mode=mode)


def symlink(name: str, target: str) -> Member:
    return member(name, tf.SYMLINK, target)


def hard(name: str, target: str) -> Member:
    return member(name, tf.HARD_LINK, target)


def tree_of(*members: Member) -> LayerTree:
    tree = LayerTree()
    for one in members:
        tree.add(one)
    return tree


def at(tree: LayerTree, path: str) -> Node:
    node = tree.root
    for part in path.split("/"):
        assert node.children is not None
        node = node.children[part.encode()]
    return node


def names(node: Node) -> set[str]:
    assert node.children is not None
    return {name.decode() for name in node.children}


def test_parents_that_are_not_named_belong_to_root() -> None:
    parent = at(tree_of(member("a/b/c", uid=7)), "a/b")
    assert (parent.mode, parent.uid, parent.gid) == (stat.S_IFDIR | 0o755, 0, 0)


@pytest.mark.parametrize("name", ["/etc/x", "./etc/x", "//etc//./x", "etc/y/../x", "etc/x/"])
def test_names_are_cleaned_and_relative_to_the_root(name: str) -> None:
    assert names(at(tree_of(member(name)), "etc")) >= {"x"}


@pytest.mark.parametrize("name", ["../x", "/../x", "a/../../x", "..", "a/../..", "../../etc/passwd", "/.."])
def test_a_name_that_climbs_out_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="is outside of the layer"):
        tree_of(directory("a"), directory(name))


@pytest.mark.parametrize("target", ["..", "../..", "../../outside", "b/../../x", "/.."])
def test_an_entry_through_a_symlink_that_climbs_out_is_refused(target: str) -> None:
    with pytest.raises(Invalid, match="leaves the layer through a symbolic link"):
        tree_of(directory("b"), symlink("link", target), member("link/file"))


def test_a_symlink_that_points_outside_is_no_danger_in_itself() -> None:
    assert at(tree_of(symlink("a", "../../etc")), "a").link == b"../../etc"


def test_entries_through_a_symlink_land_where_it_points_inside_the_layer() -> None:
    tree = tree_of(
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        member("lib/x"),
        symlink("abs", "/usr"),
        member("abs/y"),
    )
    assert names(at(tree, "usr/lib")) == {"x"}
    assert names(at(tree, "usr")) == {"lib", "y"}


def test_a_relative_symlink_starts_from_its_own_directory() -> None:
    tree = tree_of(directory("a/b"), directory("a/c"), symlink("a/b/l", "../c"), member("a/b/l/x"))
    assert names(at(tree, "a/c")) == {"x"}


def test_a_loop_of_symlinks_is_refused() -> None:
    with pytest.raises(Invalid, match="too many levels of symbolic links"):
        tree_of(symlink("a", "b"), symlink("b", "a"), member("a/x"))


def test_the_last_member_of_a_name_wins() -> None:
    tree = tree_of(member("a", mode=0o600), symlink("a", "x"), member("a", mode=0o644))
    assert at(tree, "a").mode == stat.S_IFREG | 0o644


def test_a_file_replaces_a_directory_with_what_was_in_it_and_back() -> None:
    tree = tree_of(member("a/b/c"), member("a"), member("a2/x"))
    assert at(tree, "a").children is None
    tree.add(directory("a"))
    tree.add(member("a/new"))
    assert names(at(tree, "a")) == {"new"}


def test_a_directory_named_twice_keeps_its_content() -> None:
    tree = tree_of(directory("a", 0o700), member("a/b"), directory("a", 0o750))
    assert at(tree, "a").mode == stat.S_IFDIR | 0o750
    assert names(at(tree, "a")) == {"b"}


def test_a_file_can_not_be_a_parent() -> None:
    with pytest.raises(Invalid, match="a parent is not a directory"):
        tree_of(member("a"), member("a/b"))


def test_hard_links_share_the_inode_also_when_the_first_name_is_replaced() -> None:
    tree = tree_of(member("a", mode=0o755), hard("b", "a"), hard("d/c", "/b"))
    assert at(tree, "a") is at(tree, "b") is at(tree, "d/c")
    assert at(tree, "a").nlink == 3
    tree.add(member("a"))
    assert at(tree, "b").nlink == 2
    assert at(tree, "a").nlink == 1


def test_a_removed_directory_gives_back_its_hard_links() -> None:
    tree = tree_of(member("a"), hard("d/e/b", "a"), member("d"))
    assert at(tree, "a").nlink == 1


def test_a_hard_link_to_itself_changes_nothing() -> None:
    assert at(tree_of(member("a"), hard("a", "a")), "a").nlink == 1


@pytest.mark.parametrize("target", ["missing", "dir", "../etc/passwd", "file/x", "gone", "/", ""])
def test_a_hard_link_to_nothing_outside_or_a_directory_is_refused(target: str) -> None:
    with pytest.raises(Invalid):
        tree_of(directory("dir"), member("file"), member(".wh.gone"), hard("x", target))


def test_whiteouts_become_devices_and_opaque_directories_get_their_mark() -> None:
    tree = tree_of(member("d/.wh.gone"), member("o/.wh..wh..opq"), member("o/kept"), member("d/.wh..wh.plnk"))
    gone = at(tree, "d/gone")
    assert (gone.mode, gone.rdev) == (stat.S_IFCHR, 0)
    assert names(at(tree, "d")) == {"gone"}
    assert at(tree, "o").xattrs == OPAQUE
    assert names(at(tree, "o")) == {"kept"}


def test_a_whiteout_hides_only_what_is_in_the_layers_below() -> None:
    """In both orders: the directory of this layer stays and hides the one below; a file just stays."""
    for members in (
        [directory("a"), member("a/x"), member(".wh.a")],
        [member(".wh.a"), directory("a"), member("a/x")],
    ):
        tree = tree_of(*members)
        assert (at(tree, "a").xattrs, names(at(tree, "a"))) == (OPAQUE, {"x"})
    for members in ([member("a"), member(".wh.a")], [member(".wh.a"), member("a")]):
        assert stat.S_ISREG(at(tree_of(*members), "a").mode)


def test_an_implied_parent_over_a_whiteout_is_opaque() -> None:
    assert at(tree_of(member(".wh.a"), member("a/x")), "a").xattrs == OPAQUE


def test_attributes_of_a_directory_that_come_late_leave_it_opaque() -> None:
    tree = tree_of(member("a/.wh..wh..opq"), directory("a"))
    assert at(tree, "a").xattrs == OPAQUE


@pytest.mark.parametrize("name", [".wh.", "a/.wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="whiteout of nothing"):
        tree_of(member(name))


def test_overlayfs_attributes_from_an_archive_are_dropped() -> None:
    xattrs = {b"trusted.overlay.redirect": b"/etc", b"user.overlay.opaque": b"y", b"user.mine": b"1"}
    assert at(tree_of(member("a", xattrs=xattrs)), "a").xattrs == {b"user.mine": b"1"}


def test_the_root_takes_the_attributes_of_its_member() -> None:
    tree = tree_of(directory("./", 0o700))
    assert tree.root.mode == stat.S_IFDIR | 0o700
    with pytest.raises(Invalid, match="root can only be a directory"):
        tree_of(member("."))


def test_names_are_bounded() -> None:
    for name in ("n" * 256, "n" * 256 + "/x"):
        with pytest.raises(Invalid, match="file name too long"):
            tree_of(member(name))
    tree = LayerTree(max_nodes=100)
    with pytest.raises(Invalid, match="more than 100 entries"):
        tree.add(member("d/" * 200 + "x"))


def test_unknown_types_are_refused() -> None:
    with pytest.raises(Invalid, match="unhandled tar header type"):
        tree_of(member("a", b"M"))


def test_device_numbers_are_in_the_kernels_encoding() -> None:
    assert at(tree_of(member("n", tf.CHAR_DEVICE, major=1, minor=3)), "n").rdev == 0x103
    assert at(tree_of(member("n", tf.BLOCK_DEVICE, major=259, minor=70000)), "n").rdev == 0x11110370
