"""What a build tells while it goes on: values in the form of BuildKit's `SolveStatus` (client/graph.go there).

A vertex is a step of the graph. It is told when it becomes known, again with `started`, and again with
`completed` (and `cached` or `error`); the last word about a vertex counts. Times are RFC 3339 in UTC with
fractions of a second. `api` makes Docker's classic stream or lines of JSON out of these values.
"""

from __future__ import annotations

import msgspec

from sampan.oci.digest import Digest


class Vertex(msgspec.Struct, frozen=True, omit_defaults=True):
    digest: Digest
    """Identifies the step within this build."""
    name: str
    """As BuildKit names it: "[builder 2/4] RUN make", "[internal] load build context", "exporting to image"."""
    inputs: tuple[Digest, ...] = ()
    started: str = ""
    completed: str = ""
    cached: bool = False
    error: str = ""


class VertexStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress inside a vertex: a layer being pulled, a context being read. `current` and `total` in bytes."""

    id: str
    vertex: Digest
    name: str = ""
    current: int = 0
    total: int = 0
    timestamp: str = ""
    started: str = ""
    completed: str = ""


class VertexLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step's process wrote; `stream` 1 or 2. Encodes to base64 in JSON, as BuildKit's does."""

    vertex: Digest
    stream: int
    data: bytes
    timestamp: str = ""


class VertexWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """`short`: one line; `detail`: more of them; `url` explains the rule; `line` counts from 1, 0: none."""

    vertex: Digest
    short: str
    detail: tuple[str, ...] = ()
    level: int = 1
    url: str = ""
    file: str = ""
    line: int = 0
