"""What builders made, read from the archives that they save, and compared: file systems and configurations."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from sampan.testing.trees import Inode, LayeredTree, Tree, differences

NEW = 1_600_000_000
"""Seconds: what has a later time got it from the build."""

_BUILDAHS = "io.buildah.version"
"""A label with which buildah signs every image."""

# Of the configuration, and what an absent one means.
FIELDS: Mapping[str, Any] = {
    "Env": [], "Cmd": None, "Entrypoint": None, "WorkingDir": "", "User": "", "Labels": {}, "Volumes": {},
    "ExposedPorts": {}, "Healthcheck": None, "Shell": None, "StopSignal": "", "OnBuild": [],
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """`history`: the texts of all its steps."""

    config: Mapping[str, Any]
    tree: Tree
    history: tuple[str, ...]


class Images:
    """The images of one archive as `docker save` writes it. Trees of layers in common are made once."""

    def __init__(self, path: Path, trees: dict[tuple[str, ...], Tree]) -> None:
        """`trees`: what layers give that were read before, by their diff-ids; more is added."""
        self._file = tarfile.open(path)  # noqa: SIM115
        self._trees = trees
        entries = json.loads(self._read("manifest.json"))
        self._entries = {tag: entry for entry in entries for tag in entry["RepoTags"] or ()}

    def close(self) -> None:
        self._file.close()

    def image(self, tag: str) -> Image:
        """Raises KeyError."""
        entry = self._entries[tag]
        document = json.loads(self._read(entry["Config"]))
        diff_ids = tuple(document["rootfs"]["diff_ids"] or ())
        config = document.get("config") or {}
        (config.get("Labels") or {}).pop(_BUILDAHS, None)
        history = tuple(step.get("created_by", "") for step in document.get("history") or ())
        return Image(
            {name: config.get(name) or default for name, default in FIELDS.items()},
            _without_chance(self._tree(diff_ids, entry["Layers"])),
            history,
        )

    def _tree(self, diff_ids: tuple[str, ...], layers: Sequence[str]) -> Tree:
        if not diff_ids:
            return Tree({}, {})
        if diff_ids not in self._trees:
            made = LayeredTree(self._tree(diff_ids[:-1], layers[:-1]))
            with tarfile.open(fileobj=self._open(layers[-1])) as archive:
                made.apply(archive)
            self._trees[diff_ids] = made.tree
        return self._trees[diff_ids]

    def _open(self, name: str) -> IO[bytes]:
        file = self._file.extractfile(name)  # also through a link
        if file is None:
            raise KeyError(name)
        return file

    def _read(self, name: str) -> bytes:
        return self._open(name).read()


def _without_chance(tree: Tree) -> Tree:
    """Only the old times of files: those of directories and links come from whoever makes them."""

    def known(inode: Inode) -> Inode:
        seconds = inode.mtime // 1_000_000_000
        return replace(inode, mtime=seconds if inode.kind == "file" and seconds < NEW else 0)

    return Tree(tree.paths, {number: known(each) for number, each in tree.inodes.items()})


def compare(theirs: Image, ours: Image) -> list[str]:
    """A line for each difference: `file PATH: …`, `config NAME: …`."""
    found = [f"file {line}" for line in differences(theirs.tree, ours.tree)]
    for name in FIELDS:
        if theirs.config[name] != ours.config[name]:
            found.append(f"config {name}: {theirs.config[name]!r} != {ours.config[name]!r}")
    return found


def compare_history(theirs: Image, ours: Image) -> list[str]:
    """A line for each step whose text is another, and for their number: `history N: …`."""
    found = [
        f"history {number}: {their!r} != {our!r}"
        for number, (their, our) in enumerate(zip(theirs.history, ours.history, strict=False))
        if their != our
    ]
    if len(theirs.history) != len(ours.history):
        found.append(f"history: {len(theirs.history)} steps != {len(ours.history)}")
    return found


def unexpected(found: Sequence[str], known: Mapping[str, str]) -> Iterator[str]:
    """Those of `found` that no pattern of `known` matches."""
    for line in found:
        if not any(fnmatchcase(line, pattern) for pattern in known):
            yield line


def write_base(path: Path, root: Path, tag: str, config: Mapping[str, Any]) -> None:
    """At `path` an image of the one layer `root` (a tar), as every tool can load it; the same bytes always."""
    with open(root, "rb") as layer:
        diff_id = "sha256:" + hashlib.file_digest(layer, "sha256").hexdigest()
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2001-09-09T01:46:40Z",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2001-09-09T01:46:40Z", "created_by": "base"}],
    }
    text = json.dumps(document).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["base/layer.tar"]}]).encode()
    with tarfile.open(path, mode="w") as archive:
        for each, data in ((name, text), ("manifest.json", manifest)):
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo("base/layer.tar")
        member.size = root.stat().st_size
        with open(root, "rb") as layer:
            archive.addfile(member, layer)
