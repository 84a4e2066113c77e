from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux import paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with links that try to leave it, and a secret beside it."""
    root = tmp_path / "root"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (root / "absolute").symlink_to("/dir/file")
    (root / "climb").symlink_to("../../secret")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "dir/up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("/new/place")
    return root


@pytest.fixture(params=["openat2", "component by component"])
def root_fd(request: pytest.FixtureRequest, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    if request.param != "openat2":

        def absent(*_: object) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(paths, "openat2", absent)
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def read(root_fd: int, path: str) -> bytes:
    descriptor = paths.open_in_root(root_fd, path, os.O_RDONLY)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["dir/file", "/dir/file", "absolute", "dir/up/dir/file", "../../dir/file", "dir/./sub/../file"]
)
def test_paths_are_resolved_inside(root_fd: int, path: str) -> None:
    assert read(root_fd, path) == b"inside"


@pytest.mark.parametrize("path", ["climb", "outside", "../secret", "dir/up/../../secret"])
def test_nothing_leads_out(root_fd: int, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        read(root_fd, path)


def test_a_loop_of_links_is_an_error(root_fd: int) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        read(root_fd, "loop")


def test_links_can_be_refused(root_fd: int) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        paths.open_in_root(root_fd, "dir/up/dir", os.O_PATH, resolve=paths.RESOLVE_NO_SYMLINKS)


def test_directories_are_made_inside_also_behind_links(root_fd: int, tree: Path) -> None:
    os.close(paths.mkdirs_in_root(root_fd, "/a/b/c", 0o700))
    os.close(paths.mkdirs_in_root(root_fd, "/dangling/more"))
    assert (tree / "a/b/c").stat().st_mode & 0o777 == 0o700
    assert (tree / "new/place/more").is_dir()


def test_a_file_in_the_way_of_a_directory_is_an_error(root_fd: int) -> None:
    with pytest.raises(NotADirectoryError):
        paths.mkdirs_in_root(root_fd, "/dir/file/x")


def test_a_file_is_made_with_its_parents_and_an_existing_one_is_left(root_fd: int, tree: Path) -> None:
    os.close(paths.create_file_in_root(root_fd, "/etc/deep/hosts"))
    os.close(paths.create_file_in_root(root_fd, "/dir/file"))
    assert (tree / "etc/deep/hosts").read_bytes() == b""
    assert (tree / "dir/file").read_text() == "inside"


def test_a_file_behind_a_dangling_link_is_made_inside(root_fd: int, tree: Path, tmp_path: Path) -> None:
    (tree / "hosts").symlink_to("../../../made")
    os.close(paths.create_file_in_root(root_fd, "/hosts"))
    assert (tree / "made").exists()
    assert not (tmp_path / "made").exists()
