"""What a build tells while it goes on: values in the form of BuildKit's `SolveStatus` (client/graph.go there).

A vertex is a step of the graph. It is told when it becomes known, again with `started`, and again with
`completed` (and `cached` or `error`); the last word about a vertex counts. Times are RFC 3339 in UTC with
fractions of a second. `api` makes Docker's classic stream or lines of JSON out of these values.

Stages that run at the same time tell at the same time. Who wants the Dockerfile's order instead (the classic
stream) gets it from `StageOrder` and `StepNote`, which BuildKit does not have.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sampan.build.model import StateBefore
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


class StageOrder(msgspec.Struct, frozen=True):
    """Told once, before any stage runs: the stages that are wanted, in the order of the Dockerfile's lines."""

    stages: tuple[int, ...]


class UsedSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something from elsewhere that went into the result, for its provenance; nobody is shown it."""

    vertex: Digest
    uri: str
    """Of an image what the build calls it."""
    algorithm: str
    digest: str
    """Hexadecimal."""
    platform: str = ""
    """Of an image, and of nothing else."""


class UsedSecret(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret or an ssh agent of the client's that a step asks for, found in the cache or not; for provenance."""

    vertex: Digest
    kind: Literal["secret", "ssh"]
    id: str
    required: bool = False


class StepNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """About an instruction what a vertex does not tell. A vertex's first note comes before its output.

    Instructions that only change the configuration have notes and no `Vertex`.
    """

    stage: int
    """Its index in the Dockerfile; -1: what belongs to no stage."""
    vertex: Digest
    text: str = ""
    """The instruction as it was written, told when it is reached; with it `number` of `total`, from 1."""
    number: int = 0
    total: int = 0
    triggers: int = 0
    """So many ONBUILD triggers of the base image follow."""
    cached: bool = False
    running: str = ""
    """The id of the container that a RUN has begun in."""
    removed: str = ""
    """The id of a RUN's container that is gone."""
    image: str | None = None
    """The id of the image that the state after the instruction would be; "" for `FROM scratch`."""
    ended: bool = False
    """The stage says nothing more."""


class Explanation(msgspec.Struct, frozen=True):
    """Why a step was not found in the cache, for builds that ask for it; told before the step is done."""

    vertex: Digest
    reasons: tuple[str, ...]


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the error that ends the build belongs; told right before it is raised. Lines count from 1."""

    vertex: Digest
    """Empty when the Dockerfile was not understood: no step was reached."""
    file: str
    line: int
    last_line: int
    column: int
    text: str
    """The line itself."""
    excerpt: tuple[tuple[int, str], ...] = ()
    """Lines of the file around, each with its number."""
    last_output: str = ""
    """The end of what the failed command wrote."""
    before: StateBefore | None = None
    """What the step was done to, if it was begun."""
    debug: str = ""
    """What the engine remembers `before` by."""


class BuildResult(msgspec.Struct, frozen=True):
    """Told last but for warnings: the image exists and has its tags, the outputs are where they belong."""

    image: Digest
    """Empty when the result is files and no image."""
    tags: tuple[str, ...] = ()
    """As people write them: `me/app:latest`."""
    response: dict[str, object] = {}
    """What came out of exports, with BuildKit's keys; empty when the request named none."""


BuildEvent = (
    Vertex
    | VertexStatus
    | VertexLog
    | VertexWarning
    | StageOrder
    | StepNote
    | Explanation
    | UsedSource
    | UsedSecret
    | Failure
    | BuildResult
)
