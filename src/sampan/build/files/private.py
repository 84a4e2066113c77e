"""Files of a context for a RUN to mount: copied first when the tree is not as the step may see it.

Others may write to one that lies in place, and its owners are not root. In any tree what the ignore file names must not
be seen: nothing of it counts for the cache.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.build.files.copy import Ownership, RootWriter
from sampan.build.files.scan import ROOT_MODE
from sampan.build.files.tree import Tree


@contextmanager
def private_copy(tree: Tree, source: str, cancelled: threading.Event) -> Iterator[tuple[int, str]]:
    """A directory's descriptor, and the path in it of what `source` (a path) names in the tree.

    What was hashed by `checksum` is what is there. Raises `NotFound`, `Invalid`, `SourceChanged`.
    """
    path = posixpath.normpath("/" + source).lstrip("/") or "."
    if not tree.in_place and not tree.hides(path):
        yield tree.fd, path
        return
    selection = tree.exactly(path)
    top = selection.entries[0]
    with tempfile.TemporaryDirectory(prefix="mount-", dir=tree.scratch or None) as folder:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = "." if selection.is_dir else selection.name
            RootWriter(fd, cancelled).copy(tree, selection, posixpath.normpath("/" + name), Ownership())
            os.chmod(fd, stat.S_IMODE(top.mode) if selection.is_dir and selection.location else ROOT_MODE)
            yield fd, name
        finally:
            os.close(fd)
