"""Named contexts of a build: each is looked up once, when something needs it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from sampan.build.contexts import ContextOpener
from sampan.build.dockerfile.contexts import DIRECTORY, IMAGE, context_name
from sampan.build.files.context import ignore_rules
from sampan.build.files.tree import Tree
from sampan.build.model import BuildRequest
from sampan.build.solver.voice import Voice, internal
from sampan.build.worker import BaseImage
from sampan.oci.ignore import IgnoreRules

ImageOf = Callable[[str, str | None, Voice], BaseImage]


class NamedContexts(contextlib.AbstractContextManager["NamedContexts"]):
    """Thread-safe. Leaving it closes what was opened."""

    def __init__(
        self, request: BuildRequest, opener: ContextOpener, image_of: ImageOf, stop: threading.Event
    ) -> None:
        self._values = request.contexts
        self._opener = opener
        self._image_of = image_of
        self._stop = stop
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._trees: dict[str, Tree] = {}
        self._stack = contextlib.ExitStack()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def find(self, text: str, platform: str | None, voice: Voice) -> BaseImage | Tree | None:
        """What the context of that name is; None when there is no such context. Raises as its opener does."""
        name = context_name(text) if self._values else ""
        value = self._values.get(name) if name else None
        if value is None:
            return None
        if value.startswith(IMAGE):
            return self._image_of(value.removeprefix(IMAGE), platform, voice)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._trees:
                self._trees[name] = self._opened(name, value, voice)
            return self._trees[name]

    def _opened(self, name: str, value: str, voice: Voice) -> Tree:
        shown = "client" if value.startswith(DIRECTORY) else value
        with internal(voice.report, f"[context {name}] load from {shown}") as speaker:
            opened = self._opener.open_context(name, value, speaker.transfer, self._stop)
            with self._lock:
                self._stack.callback(os.close, opened.fd)
                self._stack.callback(opened.checksums.save)
            if opened.source is not None:
                for algorithm, digest in opened.source.digest.items():
                    speaker.used(opened.source.uri, algorithm, digest)
            rules = ignore_rules(opened.fd) or IgnoreRules()
            return Tree(opened.fd, rules, True, opened.checksums, opened.scratch, opened.in_place)
