"""Files of a context that lies in place: what is copied is what was hashed, and what is remembered is still true."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.build.errors import SourceChanged
from sampan.build.files import checksums as kept
from sampan.build.files.checksum import checksum
from sampan.build.files.checksums import Checksums
from sampan.build.files.copy import Ownership, RootWriter
from sampan.build.files.private import private_copy
from sampan.build.files.scan import Entry
from sampan.build.files.tree import Opener, Selection, Tree
from sampan.errors import NotFound
from sampan.oci.ignore import IgnoreRules

NEVER = threading.Event()
LARGE = 100_000

MakeTree = Callable[[Checksums], Tree]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "small").write_bytes(b"one")
    (path / "large").write_bytes(b"1" * LARGE)
    return path


@pytest.fixture
def make_tree(context: Path) -> Iterator[MakeTree]:
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY)
    yield lambda checksums: Tree(fd, IgnoreRules(), True, checksums)
    os.close(fd)


@pytest.fixture
def all_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been written long ago."""
    monkeypatch.setattr(kept, "SETTLED", -(10**18))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened."""
    paths: list[str] = []
    original = Opener.open

    def open_entry(self: Opener, entry: Entry) -> int:
        paths.append(entry.path)
        return original(self, entry)

    monkeypatch.setattr(Opener, "open", open_entry)
    return paths


def sum_of(tree: Tree) -> str:
    return checksum(tree, tree.select("."), NEVER)


def rewrite_unnoticed(path: Path, data: bytes) -> None:
    """Other content with the same size and modification time, as anybody can make it; ctime tells."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("all_settled")
def test_what_was_hashed_in_an_earlier_build_is_not_read_again(
    make_tree: MakeTree, tmp_path: Path, context: Path, opened: list[str]
) -> None:
    first = Checksums(tmp_path / "kept/one")
    expected = sum_of(make_tree(first))
    first.save()
    assert sorted(opened) == ["large", "small"]
    opened.clear()
    assert sum_of(make_tree(Checksums(tmp_path / "kept/one"))) == expected
    assert opened == []
    (context / "small").write_bytes(b"two")
    assert sum_of(make_tree(Checksums(tmp_path / "kept/one"))) != expected
    assert opened == ["small"]


@pytest.mark.usefixtures("all_settled")
@pytest.mark.parametrize("name", ["small", "large"])
def test_other_content_under_equal_metadata_gives_another_checksum(
    make_tree: MakeTree, tmp_path: Path, context: Path, name: str
) -> None:
    first = Checksums(tmp_path / "kept/one")
    before = sum_of(make_tree(first))
    first.save()
    rewrite_unnoticed(context / name, bytes((context / name).stat().st_size))
    assert sum_of(make_tree(Checksums(tmp_path / "kept/one"))) != before


def test_a_file_written_a_moment_before_it_was_hashed_is_hashed_again_by_the_next_build(
    make_tree: MakeTree, tmp_path: Path, opened: list[str]
) -> None:
    first = Checksums(tmp_path / "kept/one")
    expected = sum_of(make_tree(first))
    first.save()
    opened.clear()
    assert sum_of(make_tree(Checksums(tmp_path / "kept/one"))) == expected
    assert sorted(opened) == ["large", "small"]


@pytest.mark.usefixtures("all_settled")
@pytest.mark.parametrize("suffix", [".files", ".trees"])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda _: b""])
def test_damaged_records_are_not_believed(
    make_tree: MakeTree, tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    first = Checksums(tmp_path / "kept/one")
    expected = sum_of(make_tree(first))
    first.save()
    path = tmp_path / f"kept/one{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    assert sum_of(make_tree(Checksums(tmp_path / "kept/one"))) == expected


@pytest.mark.usefixtures("all_settled")
def test_nothing_is_written_when_nothing_is_new(make_tree: MakeTree, tmp_path: Path) -> None:
    first = Checksums(tmp_path / "kept/one")
    sum_of(make_tree(first))
    first.save()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "kept").iterdir()}
    again = Checksums(tmp_path / "kept/one")
    sum_of(make_tree(again))
    again.save()
    assert {path.name: path.stat().st_ino for path in (tmp_path / "kept").iterdir()} == before


@pytest.mark.usefixtures("all_settled")
def test_the_records_of_all_directories_are_bounded(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MAX_BYTES", 700)
    for number in range(5):
        one = Checksums(tmp_path / f"kept/{number}")
        sum_of(make_tree(one))
        one.save()
        os.utime(tmp_path / f"kept/{number}.files", (number, number))
        os.utime(tmp_path / f"kept/{number}.trees", (number, number))
    left = {path.stem for path in (tmp_path / "kept").iterdir()}
    assert "4" in left
    assert "0" not in left


def _copy(tree: Tree, selection: Selection, target: Path) -> None:
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        owner = Ownership((os.getuid(), os.getgid()))
        RootWriter(fd, NEVER).copy(tree, selection, "/", owner)
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("change", ["rewritten", "removed", "longer", "a link"])
def test_a_file_that_changes_between_hashing_and_copying_ends_the_build_with_its_path(
    make_tree: MakeTree, tmp_path: Path, context: Path, name: str, change: str
) -> None:
    tree = make_tree(Checksums(tmp_path / "kept/one"))
    (selection,) = tree.select(".")
    checksum(tree, [selection], NEVER)
    path = context / name
    if change == "rewritten":
        rewrite_unnoticed(path, bytes(path.stat().st_size))
    elif change == "longer":
        path.write_bytes(path.read_bytes() + b"more")
    else:
        path.unlink()
    if change == "a link":
        path.symlink_to("/etc/hostname")
    with pytest.raises(SourceChanged) as raised:
        _copy(tree, selection, tmp_path / "target")
    assert raised.value.message == f"changed while the build read it: {name}"


@pytest.mark.parametrize("name", ["small", "large"])
def test_another_name_of_a_file_is_no_change_of_its_content(
    make_tree: MakeTree, tmp_path: Path, context: Path, name: str
) -> None:
    tree = make_tree(Checksums(tmp_path / "kept/one"))
    (selection,) = tree.select(".")
    checksum(tree, [selection], NEVER)
    os.link(context / name, tmp_path / "another name")
    _copy(tree, selection, tmp_path / "target")
    assert (tmp_path / "target" / name).read_bytes() == (context / name).read_bytes()


def test_a_young_file_is_hashed_once_more_in_the_copy(make_tree: MakeTree, tmp_path: Path) -> None:
    """Two writes within one tick of the clock leave equal metadata."""
    tree = make_tree(Checksums(tmp_path / "kept/one"))
    (selection,) = tree.select(".")
    checksum(tree, [selection], NEVER)
    entry = next(entry for entry in selection.entries if entry.path == "large")
    tree.checksums.add(entry, hashlib.sha256(b"what was there at hashing").digest(), entry.ctime_ns)
    with pytest.raises(SourceChanged, match="large"):
        _copy(tree, selection, tmp_path / "target")


def test_a_hard_link_to_a_file_outside_of_the_selection_does_not_count(
    make_tree: MakeTree, tmp_path: Path, context: Path
) -> None:
    before = sum_of(make_tree(Checksums()))
    os.link(context / "small", tmp_path / "elsewhere")
    assert sum_of(make_tree(Checksums())) == before


def test_what_the_ignore_file_names_is_not_mounted_from_an_unpacked_context_either(
    context: Path, tmp_path: Path
) -> None:
    """It counts nothing in the step's key, so that the step must not see it."""
    (context / "d").mkdir()
    (context / "d/hidden").write_bytes(b"1")
    (context / "d/shown").write_bytes(b"2")
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = Tree(fd, IgnoreRules("**/hidden"), True, scratch=str(tmp_path))
        for source in ("d", "."):
            with private_copy(tree, source, NEVER) as (copy, path):
                assert copy != fd
                seen = os.path.join(f"/proc/self/fd/{copy}", path, "" if source == "d" else "d")
                assert os.listdir(seen) == ["shown"]
        with private_copy(tree, "small", NEVER) as (copy, path):
            assert (copy, path) == (fd, "small")  # nothing is hidden there: nothing is copied
        assert [path.name for path in tmp_path.iterdir()] == ["context"]
    finally:
        os.close(fd)


def test_an_attribute_with_a_name_in_another_encoding_counts_as_any_other(context: Path) -> None:
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY)

    def found() -> str:
        tree = Tree(fd, IgnoreRules(), is_context=False)
        return checksum(tree, tree.select("small"), NEVER)

    try:
        os.setxattr(context / "small", b"user.\xe4", b"1")
        before = found()
        os.setxattr(context / "small", b"user.\xe4", b"2")
        assert found() != before
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("the file system of temporary files has no extended attributes")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("smal", "Did you mean small?"),
        ("LARGE", "Did you mean large?"),
        ("sorce/main.py", "Did you mean source/main.py?"),
        ("source/mian.py", "Did you mean source/main.py?"),
        (
            "source/secret.key",
            "the ignore file leaves it out by '**/*.key'; build --list-context shows what there is",
        ),
        ("out/x", "the ignore file leaves it out by 'out'; build --list-context shows what there is"),
        # What is left out is not proposed either.
        ("source/secrets.kez", ""),
        ("nothing/like/it", ""),
        ("small/below", ""),
    ],
)
def test_a_source_that_is_missing_is_told_with_what_may_be_meant_or_what_leaves_it_out(
    context: Path, make_tree: MakeTree, path: str, hint: str
) -> None:
    (context / "source").mkdir()
    (context / "source" / "main.py").write_text("")
    (context / "source" / "secret.key").write_text("")
    (context / "out").mkdir()
    (context / "out" / "x").write_text("")
    tree = replace(make_tree(Checksums()), rules=IgnoreRules("**/*.key\nout\n"))
    with pytest.raises(NotFound, match="file not found in build context") as caught:
        tree.select(path)
    assert caught.value.hint == hint
