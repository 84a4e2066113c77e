from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

from sampan.testing.trees import Inode, LayeredTree, Tree, differences, tree_of_directory


def applied(*layers: list[tuple[str, bytes, str]]) -> Tree:
    """Each layer is a list of (name, type, content or link target)."""
    made = LayeredTree()
    for layer in layers:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, kind, what in layer:
                member = tarfile.TarInfo(name)
                member.type, member.mode = kind, 0o755
                if kind == tarfile.REGTYPE:
                    member.size = len(what)
                else:
                    member.linkname = what
                archive.addfile(member, io.BytesIO(what.encode()))
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
            made.apply(archive)
    return made.tree


FILE, DIRECTORY, SOFT, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def test_whiteouts_hide_what_earlier_layers_had_wherever_they_stand_in_the_archive() -> None:
    below = [
        ("d", DIRECTORY, ""),
        ("d/a", FILE, "1"),
        ("d/b", FILE, "2"),
        ("e/x", FILE, "3"),
        ("f", FILE, "4"),
    ]
    above = [("d", DIRECTORY, ""), ("d/new", FILE, "5"), ("d/.wh..wh..opq", FILE, ""), (".wh.e", FILE, "")]
    assert set(applied(below, above).paths) == {"d", "d/new", "f"}


def test_a_file_in_place_of_a_directory_takes_away_all_that_was_in_it() -> None:
    tree = applied([("d/a/b", FILE, "x"), ("e", FILE, "y")], [("d", SOFT, "e"), ("e", DIRECTORY, "")])
    assert {path: tree[path].kind for path in tree.paths} == {"d": "link", "e": "dir"}


def test_a_directory_that_comes_again_keeps_its_contents_and_has_the_new_attributes() -> None:
    tree = applied([("d/a", FILE, "x")], [("d", DIRECTORY, "")])
    assert set(tree.paths) == {"d", "d/a"}
    assert tree["d"] == Inode("dir", 0o755, 0, 0)


def test_a_later_layer_changes_one_name_of_a_hard_linked_file() -> None:
    tree = applied([("a", FILE, "x"), ("b", HARD, "a"), ("c", HARD, "a")], [("b", FILE, "y")])
    assert tree.hard_links == {frozenset({"a", "c"})}
    assert tree["b"].content == hashlib.sha256(b"y").hexdigest()


def test_a_tree_on_disk_is_read_as_it_is_and_differences_name_the_paths(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/a").write_text("x")
    os.link(tmp_path / "d/a", tmp_path / "b")
    (tmp_path / "l").symlink_to("d/a")
    first = tree_of_directory(tmp_path)
    assert first["d"].mode == 0o750 and first["l"].content == "d/a"
    assert first.hard_links == {frozenset({"d/a", "b"})}
    assert differences(first, first) == []
    (tmp_path / "b").unlink()
    (tmp_path / "l").unlink()
    (tmp_path / "new").touch()
    said = "\n".join(differences(first, tree_of_directory(tmp_path)))
    assert "'b' is missing" in said and "'new' is additional" in said and "hard links only expected" in said
