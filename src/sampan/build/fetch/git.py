"""A Git repository for ADD or as a build context: which commit it is, and its files.

dulwich speaks the protocol; it is imported only here and below, when a build asks for a repository. The commit is
known before anything is fetched: one question about references, and none when the address names a commit.
"""

from __future__ import annotations

import io
import os
import posixpath
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sampan.build.fetch.git_checkout import Checkout, Total, subtree
from sampan.build.fetch.git_pack import ObjectReader
from sampan.build.fetch.git_transport import Limits, fetch, references
from sampan.build.fetch.git_url import GitSource, GitUrl, parse_submodule
from sampan.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from dulwich.object_store import DiskObjectStore

MAX_MODULES = 100
MAX_MODULE_DEPTH = 5
_MAX_GITMODULES = 1 << 20


@dataclass(frozen=True, slots=True)
class Resolved:
    """`ref` is the full name that led to the commit; empty when the commit was named itself."""

    commit: str
    ref: str = ""
    tag: str = ""
    """The id of the annotated tag between the two."""


def resolve(source: GitSource, limits: Limits) -> Resolved:
    """Asks the server. Raises `NotFound`, `Unavailable`, `Invalid` when the checksum is another."""
    found = Resolved(source.commit) if source.commit else _named(source, references(source.url, limits))
    if source.checksum and not (
        found.commit.startswith(source.checksum) or (found.tag and found.tag.startswith(source.checksum))
    ):
        raise Invalid(
            f"expected checksum to match {source.checksum}, got {found.commit}",
            hint=f"{source.ref or 'HEAD'} of {source.url.remote} is another commit now",
        )
    return found


def _named(source: GitSource, refs: dict[str, str]) -> Resolved:
    name = source.ref
    candidates = [name, f"refs/tags/{name}", f"refs/heads/{name}", f"refs/{name}"] if name else ["HEAD"]
    full = next((candidate for candidate in candidates if candidate in refs), None)
    if full is None:
        raise NotFound(f"repository {source.url.remote} does not contain ref {name or 'HEAD'}")
    peeled = refs.get(full + "^{}")
    return Resolved(peeled or refs[full], full, refs[full] if peeled else "")


def content_key(source: GitSource, resolved: Resolved, *, keep_git_dir: bool) -> str:
    """What the files depend on; with the repository itself also where it came from and by which name."""
    kept = f"{source.url.remote} {resolved.ref}" if keep_git_dir else ""
    return f"git {resolved.commit} {source.subdir} {source.submodules} {kept}"


def check_out(
    source: GitSource, resolved: Resolved, directory: int, limits: Limits, *, keep_git_dir: bool = False
) -> None:
    """The files of the commit (or of its subdirectory) into the empty directory behind the descriptor.

    Raises `Invalid` for what a repository must not have or be, `NotFound`, `Unavailable`, `BuildCancelled`.
    """
    with tempfile.TemporaryDirectory(prefix="sampan-git-", ignore_cleanup_errors=True) as folder:
        _Work(source, limits, folder).top(resolved, directory, keep_git_dir=keep_git_dir)


@dataclass(slots=True)
class _Work:
    source: GitSource
    limits: Limits
    folder: str
    modules: int = 0
    total: Total = field(default_factory=Total)

    def top(self, resolved: Resolved, directory: int, *, keep_git_dir: bool) -> None:
        source = self.source
        store = self._fetched(source.url, resolved.commit, "top", tag=resolved.tag, known=bool(resolved.ref))
        objects = ObjectReader(store)
        commit = objects.peeled(resolved.commit)
        tree, time = objects.tree_of(commit)
        checkout = self._checkout(source.url, objects, tree, time, 0)
        checkout.write(subtree(objects, tree, source.subdir), directory, source.subdir)
        if keep_git_dir and not source.subdir:
            from sampan.build.fetch.git_directory import write_git_directory

            write_git_directory(store, source, resolved.ref, commit, checkout.files, directory)

    def _checkout(self, url: GitUrl, objects: ObjectReader, tree: str, time: int, depth: int) -> Checkout:
        checkout = Checkout(
            objects,
            self.limits.cancelled,
            None if self.source.commit_time is False else time,
            total=self.total,
        )
        if self.source.submodules:
            addresses: dict[str, str] | None = None

            def module(path: str, commit: str, directory: int, nested: int) -> None:
                nonlocal addresses
                if addresses is None:
                    addresses = _addresses(objects, tree)
                if path in addresses:
                    self._module(parse_submodule(addresses[path], url), commit, directory, depth + 1, nested)

            checkout.module = module
        return checkout

    def _module(self, url: GitUrl, commit: str, directory: int, depth: int, nested: int) -> None:
        self.modules += 1
        if depth > MAX_MODULE_DEPTH or self.modules > MAX_MODULES:
            raise Invalid(
                f"the git repository has submodules deeper than {MAX_MODULE_DEPTH} or more than {MAX_MODULES}",
                hint="?submodules=false leaves them out",
            )
        objects = ObjectReader(self._fetched(url, commit, f"module{self.modules}"))
        tree, time = objects.tree_of(commit)
        self._checkout(url, objects, tree, time, depth).write(tree, directory, depth=nested)

    def _fetched(
        self, url: GitUrl, commit: str, name: str, *, tag: str = "", known: bool = False
    ) -> DiskObjectStore:
        """The commit alone. `known`: the server has named it; one that it has not it may refuse: then everything."""
        folder = os.path.join(self.folder, name)
        try:
            store = fetch(url, [tag or commit], 1, os.path.join(folder, "one"), self.limits)
            if ObjectReader(store).has(commit):
                return store
        except Unavailable:
            if known:
                raise
        store = fetch(url, [], None, os.path.join(folder, "all"), self.limits)
        if not ObjectReader(store).has(commit):
            raise NotFound(f"repository {url.remote} does not contain commit {commit}")
        return store


def _addresses(objects: ObjectReader, tree: str) -> dict[str, str]:
    """Path and address of each submodule that `.gitmodules` has. Raises `Invalid`."""
    from dulwich.config import ConfigFile, parse_submodules

    found = {raw: (mode, object_id) for raw, mode, object_id in objects.entries(tree)}
    mode, object_id = found.get(b".gitmodules", (0, ""))
    if mode & 0o170000 != 0o100000:
        return {}
    text = b"".join(objects.blob(object_id))
    if len(text) > _MAX_GITMODULES:
        raise Invalid(f".gitmodules is larger than {_MAX_GITMODULES} bytes")
    try:
        listed = list(parse_submodules(ConfigFile.from_file(io.BytesIO(text))))
    except Exception as error:
        raise Invalid(f".gitmodules of the git repository is broken: {error}") from error
    return {posixpath.normpath(os.fsdecode(path)): url.decode("utf-8", "replace") for path, url, _ in listed}
