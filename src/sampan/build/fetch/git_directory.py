"""The `.git` directory that ADD --keep-git-dir leaves: made anew, with nothing in it that the repository chose."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sampan.build.fetch.git_pack import ObjectReader

if TYPE_CHECKING:
    from dulwich.object_store import DiskObjectStore

    from sampan.build.fetch.git_checkout import Written
    from sampan.build.fetch.git_url import GitSource

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_git_directory(
    store: DiskObjectStore, source: GitSource, ref: str, commit: str, files: list[Written], directory: int
) -> None:
    """HEAD at the commit, its objects, an index that matches the files, and where it came from without passwords."""
    os.mkdir(".git", 0o755, dir_fd=directory)
    top = os.open(".git", _DIRECTORY, dir_fd=directory)
    try:
        objects = _made(top, "objects")
        try:
            for name in ("info", "pack"):
                os.close(_made(objects, name))
            _packs(store, objects)
        finally:
            os.close(objects)
        _references(top, ref, commit)
        _put(top, "HEAD", f"{commit}\n".encode())
        if any(not ObjectReader(store).has(parent) for parent in ObjectReader(store).parents(commit)):
            _put(top, "shallow", f"{commit}\n".encode())
        _put(top, "config", _config(source).encode())
        _put(top, "index", _index(files, directory))
    finally:
        os.close(top)


def _packs(store: DiskObjectStore, objects: int) -> None:
    pack_fd = os.open("pack", _DIRECTORY, dir_fd=objects)
    try:
        for pack in store.packs:
            for suffix in (".pack", ".idx"):
                path = pack._basename + suffix
                with open(path, "rb") as file:
                    fd = os.open(os.path.basename(path), _NEW, 0o444, dir_fd=pack_fd)
                    with os.fdopen(fd, "wb") as out:
                        while data := file.read(1 << 20):
                            out.write(data)
    finally:
        os.close(pack_fd)


def _references(top: int, ref: str, commit: str) -> None:
    refs = _made(top, "refs")
    try:
        for name in ("heads", "tags"):
            os.close(_made(refs, name))
    finally:
        os.close(refs)
    if ref.startswith(("refs/tags/", "refs/heads/")):
        name = ref.replace("refs/heads/", "refs/remotes/origin/", 1)
        _put(top, "packed-refs", f"# pack-refs with: peeled fully-peeled sorted\n{commit} {name}\n".encode())


def _config(source: GitSource) -> str:
    remote = source.url.remote.replace("\\", "\\\\").replace('"', '\\"')
    return (
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
        f'[remote "origin"]\n\turl = "{remote}"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    )


def _index(files: list[Written], directory: int) -> bytes:
    """Version 2 of gitformat-index(5), without what only speeds Git up."""
    import hashlib

    entries = sorted((os.fsencode(item.path), item) for item in files)
    out = [b"DIRC" + (2).to_bytes(4) + len(entries).to_bytes(4)]
    for path, item in entries:
        info = os.stat(item.path, dir_fd=directory, follow_symlinks=False)
        size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
        fields = (0, 0, int(info.st_mtime), 0, 0, 0, item.mode, 0, 0, size)
        head = b"".join((value & 0xFFFFFFFF).to_bytes(4) for value in fields)
        entry = head + bytes.fromhex(item.object_id) + min(len(path), 0xFFF).to_bytes(2) + path
        out.append(entry + b"\0" * (8 - len(entry) % 8))
    body = b"".join(out)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _made(parent: int, name: str) -> int:
    os.mkdir(name, 0o755, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _put(parent: int, name: str, data: bytes) -> None:
    fd = os.open(name, _NEW, 0o644, dir_fd=parent)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
