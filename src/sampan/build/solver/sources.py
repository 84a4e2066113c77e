"""What one COPY or ADD copies: found, checked and hashed, before anything is written."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from sampan.build.fetch.git_url import is_git, redacted
from sampan.build.fetch.http import (
    Download,
    Validator,
    check_url,
    decode_validator,
    download,
    download_changed,
    encode_validator,
    is_url,
    parse_checksum,
)
from sampan.build.files.checksum import checksum
from sampan.build.files.tree import Selection, Tree
from sampan.build.model import CopyOperation
from sampan.build.session import ClientSession
from sampan.build.solver.cache import BuildCache, CacheEntry, key_of
from sampan.build.solver.inputs import InputsStore, files_of, short_sum
from sampan.build.solver.repositories import Repositories, authorization_for
from sampan.build.solver.voice import Voice
from sampan.build.worker import Worker
from sampan.errors import Invalid, Unavailable
from sampan.oci.digest import Digest
from sampan.oci.ignore import IgnoreRules
from sampan.registry.proxies import NO_PROXIES, Proxies


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What looking for sources needs of a build."""

    worker: Worker
    cache: BuildCache
    inputs: InputsStore | None
    context: Tree
    cancelled: threading.Event
    begun: int
    """When the build began, in nanoseconds since 1970."""
    origin_of: Callable[[str, Voice], tuple[Digest, ...] | Tree]
    """What `from` names: the layers of a stage (built when it must be) or an image, the files of a named context."""
    client: ClientSession
    made: set[str]
    """Keys of the steps that this build has done itself: found again also without a cache."""
    proxies: Proxies = NO_PROXIES
    """For what is downloaded."""


class CopySources:
    """A context manager: leaving it closes what was opened and deletes what was downloaded."""

    def __init__(self, around: Surroundings, operation: CopyOperation, voice: Voice) -> None:
        self._around = around
        self._voice = voice
        self._operation = operation
        self._stack = ExitStack()
        self._selections: dict[str, tuple[str, Selection]] | None = None
        """With the source that names each."""
        self._downloads: list[tuple[Download, BinaryIO]] = []
        self.tree = around.context
        self._layers: tuple[Digest, ...] | None = None
        if operation.origin:
            origin = around.origin_of(operation.origin, voice)
            if isinstance(origin, Tree):
                self.tree = origin
            else:
                self._layers = origin
        # Later ones win where two have a file of the same name: what is named twice counts where it stands last.
        self.order = list(dict.fromkeys(reversed(operation.sources)))[::-1]
        self.urls = [source for source in self.order if is_url(source)]
        self.addresses = [source for source in self.order if is_git(source)]
        self.paths = [source for source in self.order if source not in (*self.urls, *self.addresses)]
        _check_remotes(operation, self.urls, self.addresses, self.paths)
        self.repositories = Repositories(
            operation, self.addresses, self._stack, voice, around.cancelled, around.client, around.proxies
        )
        self._counted: dict[str, str] = {}
        """URL -> SHA-256, as the key of the step has it."""
        self._sum = parse_checksum(operation.checksum) if operation.checksum and self.urls else ""

    def __enter__(self) -> CopySources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def warn(self, text: str) -> None:
        self._voice.warn(text)

    def content_key(self) -> str:
        """Everything that the copied content depends on, as one string."""
        parts = [json.dumps([item.name, item.content]) for item in self._operation.heredocs]
        parts += [f"{url} {self._url_sum(url)}" for url in self.urls]
        parts += self.repositories.content_keys()
        if self.paths:
            parts.append(self._tree_sum())
            parts += self.order
        return key_of("content", parts)

    def selections(self) -> list[Selection]:
        """Raises `NotFound` for a path that is not there; patterns may match nothing."""
        return [selection for _, selection in self._selected().values()]

    def selected_by(self, source: str) -> list[Selection]:
        """Those of one of `paths`, without what a later source names too."""
        return [selection for named, selection in self._selected().values() if named == source]

    def _selected(self) -> dict[str, tuple[str, Selection]]:
        if self._selections is None:
            self._open()
            found: dict[str, tuple[str, Selection]] = {}
            parents, exclude = self._operation.parents, self._operation.exclude
            for source in self.paths:
                select = self.tree.select_parents if parents else self.tree.select
                for selection in select(source, exclude):
                    # One directory with its parents may be named twice, each time with other files.
                    key = f"{source}//{selection.asked}" if parents else selection.asked
                    found.pop(key, None)
                    found[key] = (source, selection)
            if self.paths and not found and not self._operation.exclude:
                # BuildKit's way: a pattern may match nothing. It is mostly a mistake, and should be seen.
                self._voice.warn(f"no source files were found: nothing matches {' '.join(self.paths)}")
            self._selections = found
        return self._selections

    def downloads(self) -> Sequence[tuple[Download, BinaryIO]]:
        """Each URL's content, positioned at its start."""
        if len(self._downloads) < len(self.urls):
            for url in self.urls[len(self._downloads) :]:
                self._downloads.append(self._fetch(url))
        return self._downloads

    def files(self) -> dict[str, str]:
        """What is copied, each with its checksum, for people who ask what has changed."""
        remote = [(url, self._url_sum(url)) for url in self.urls]
        remote += zip(self.addresses, self.repositories.content_keys(), strict=True)
        found = {redacted(address): short_sum(content) for address, content in remote}
        if self.paths and self._layers is None:
            found |= files_of(self.tree, self.selections())
        elif self.paths:
            # Whether the files of layers were read depends on what is remembered: their checksum is always there.
            found[f"{self._operation.origin}: {' '.join(self.paths)}"] = self._tree_sum()
        return found

    def _fetch(self, url: str) -> tuple[Download, BinaryIO]:
        out = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        got = download(
            url,
            out,
            self._voice.transfer,
            self._around.cancelled,
            authorization=authorization_for(url, self._around.client),
            proxies=self._around.proxies,
        )
        self._remember(url, got)
        if self._sum and got.sha256 != self._sum:
            raise Invalid(f"digest mismatch sha256:{got.sha256}: sha256:{self._sum} for {url}")
        if self._counted.get(url, got.sha256) != got.sha256:
            # What the server called unchanged a moment ago: under the step's key it would be found for ever.
            raise Unavailable(
                f"{redacted(url)} changed while the build read it", hint="build again when it is complete"
            )
        return got, out

    def _url_sum(self, url: str) -> str:
        """Of the content. With `--checksum` nothing needs to be downloaded to know it."""
        if url not in self._counted:
            self._counted[url] = self._sum or self._asked_sum(url)
            self._voice.used(redacted(url), "sha256", self._counted[url])
        return self._counted[url]

    def _asked_sum(self, url: str) -> str:
        index = self.urls.index(url)
        known = self._known(url) if index >= len(self._downloads) else None
        if known is not None and self._is_unchanged(url, known):
            return known.sha256
        return self.downloads()[index][0].sha256

    def _known(self, url: str) -> Validator | None:
        entry = self._around.cache.lookup(key_of("url", [url]))
        return decode_validator(entry.content) if entry is not None and entry.content else None

    def _is_unchanged(self, url: str, known: Validator) -> bool:
        """Asks the server; when the file is another one, that is downloaded."""
        out = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        got = download_changed(
            url,
            known,
            out,
            self._voice.transfer,
            self._around.cancelled,
            authorization=authorization_for(url, self._around.client),
            proxies=self._around.proxies,
        )
        if got is None:
            return True
        if len(self._downloads) == self.urls.index(url):
            self._downloads.append((got, out))
        self._remember(url, got)
        return False

    def _remember(self, url: str, got: Download) -> None:
        """So that the next build need not download what the server calls unchanged."""
        if got.validator is not None:
            content = encode_validator(got.validator)
            entry = CacheEntry(created="", content=content, step="ADD (what the server said)")
            self._around.cache.store(key_of("url", [url]), entry)

    def _tree_sum(self) -> str:
        around = self._around
        if self._layers is None:
            return checksum(self.tree, self.selections(), around.cancelled, tops=False)
        return remembered(
            around.cache,
            key_of(
                "tree",
                [
                    *self._layers,
                    "parents" if self._operation.parents else "",
                    *self.paths,
                    "",
                    *self._operation.exclude,
                ],
            ),
            lambda: checksum(self._opened(), self.selections(), around.cancelled, tops=False),
            "COPY --from",
        )

    def _opened(self) -> Tree:
        self._open()
        return self.tree

    def _open(self) -> None:
        if self._layers is None or self.tree is not self._around.context:
            return
        fd = self._around.worker.open_root(self._layers, None)
        self._stack.callback(os.close, fd)
        self.tree = Tree(fd, IgnoreRules(), is_context=False)


def bind_sum(around: Surroundings, layers: Sequence[Digest], source: str) -> str:
    """Of what a bind mount shows of a stage or an image. Raises `NotFound`."""
    if not source.strip("/"):
        return key_of("bind", layers)  # reading a whole image would cost more than it saves

    def read() -> str:
        fd = around.worker.open_root(layers, None)
        try:
            tree = Tree(fd, IgnoreRules(), is_context=False)
            return checksum(tree, [tree.exactly(source)], around.cancelled)
        finally:
            os.close(fd)

    # No pattern: the same text as a source of COPY may mean something else.
    return remembered(around.cache, key_of("path", [*layers, source]), read, "RUN --mount from")


def remembered(cache: BuildCache, memo: str, read: Callable[[], str], step: str) -> str:
    """A checksum of files of layers: layers never change, so that it is known by theirs."""
    entry = cache.lookup(memo)
    if entry is not None and entry.content:
        return entry.content
    content = read()
    cache.store(memo, CacheEntry(created="", content=content, step=step))
    return content


def _check_remotes(
    operation: CopyOperation, urls: list[str], repositories: list[str], paths: list[str]
) -> None:
    """Raises `Invalid`, in BuildKit's words."""
    if not operation.is_add and (urls or repositories):
        raise Invalid(f"source can't be {'a URL' if urls else 'a git ref'} for COPY", hint="ADD fetches it")
    for url in urls:
        check_url(url)
    if operation.checksum and len(operation.sources) + len(operation.heredocs) != 1:
        raise Invalid("checksum can't be specified for multiple sources")
    if operation.checksum and paths:
        raise Invalid("checksum requires HTTP(S) or Git sources")
