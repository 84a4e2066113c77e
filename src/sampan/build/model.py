"""The values that parsing, planning and executing share. Frozen; no behaviour beyond small look-ups."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from sampan.build.attest.options import Attests
from sampan.build.cache_options import CacheFrom, CacheTo
from sampan.build.output_options import Output
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference
from sampan.registry.proxies import NO_PROXIES, Proxies

MAX_DOCKERFILE = 4 << 20
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a Dockerfile. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    text: str
    """The physical line itself, without its newline."""


@dataclass(frozen=True, slots=True)
class Heredoc:
    name: str
    content: str
    expand: bool
    """False when the name was quoted: variables in the content are left alone."""
    strip_tabs: bool = False
    """`<<-`: tabs at the beginning of a line do not count."""

    @property
    def text(self) -> str:
        """The content as it is meant; `content` is how it is written."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.strip_tabs else self.content


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a logical line that came from one physical line."""

    offset: int
    """Where the part starts in the logical line."""
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as it was written: nothing in it is expanded yet."""

    keyword: str
    """In upper case."""
    args: tuple[str, ...]
    """ENV and LABEL: name, value and separator ("=" or "") in turn, as BuildKit's syntax tree has them."""
    text: str
    """The logical line: continuations joined, comments left out."""
    flags: tuple[str, ...] = ()
    is_json: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    trigger: Instruction | None = None
    """What an ONBUILD defers."""
    segments: tuple[Segment, ...] = ()
    file: str = "Dockerfile"
    comments: tuple[str, ...] = ()
    """Those before it, without `#`, up to the instruction before or an empty comment; blank lines don't count."""

    def place(self, fragment: str = "") -> Place:
        """Where `fragment` stands in this instruction, or where the instruction starts."""
        offset = max(self.text.find(fragment), 0) if fragment else 0
        return self.place_at(offset)

    def place_at(self, offset: int) -> Place:
        if not self.segments:
            return Place(self.file, 1, 1, self.text)
        segment = [part for part in self.segments if part.offset <= offset] or [self.segments[0]]
        found = segment[-1]
        return Place(self.file, found.line, found.column + max(offset - found.offset, 0), found.text)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    instructions: tuple[Instruction, ...]
    escape: str = "\\"
    syntax: str = ""
    """The value of the `syntax` directive; it is recorded, no other front end is loaded."""
    check: str = ""
    """The value of the `check` directive, up to its first blank."""
    empty_continuations: tuple[int, ...] = ()
    """Lines on which instructions with an empty line inside of a continuation end."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as planned: what it starts from, and its instructions (FROM excluded)."""

    index: int
    name: str
    """Lower case; empty for a stage without a name."""
    origin: Instruction
    """The FROM instruction."""
    base: str
    """An image name, or "scratch"; empty when the base is another stage."""
    base_stage: int | None
    platform: str | None
    instructions: tuple[Instruction, ...]
    needs: frozenset[int]
    """Indices of the stages that must exist before this one is executed."""
    is_context: bool = False
    """`base` is the name of a context (`--build-context`), not of an image."""


@dataclass(frozen=True, slots=True)
class Plan:
    stages: tuple[Stage, ...]
    """Only those that the target needs, in the order of execution; the last one is the target."""
    global_instructions: tuple[Instruction, ...]
    """The ARG instructions before the first FROM."""
    global_args: dict[str, str]
    names: dict[str, int]
    """Stage name -> index in the Dockerfile."""
    every_stage: dict[int, Stage]
    """All of the Dockerfile's stages: a base image's ONBUILD trigger may ask for any."""
    platform_args: dict[str, str]
    """TARGETPLATFORM and its like; a stage sees them after a bare ARG."""
    escape: str

    @property
    def target(self) -> Stage:
        return self.stages[-1]

    @property
    def step_count(self) -> int:
        return len(self.global_instructions) + sum(1 + len(stage.instructions) for stage in self.stages)


MountKind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]


@dataclass(frozen=True, slots=True)
class MountOption:
    """A `RUN --mount`, parsed. `size` in bytes, 0 is the kernel's default."""

    kind: MountKind
    target: str = ""
    source: str = ""
    origin: str = ""
    """`from=`: a stage or an image; empty is the build context."""
    id: str = ""
    readonly: bool = False
    sharing: Literal["shared", "private", "locked"] = "shared"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int = 0
    required: bool = False
    env: str | None = None
    """The variable that a secret goes into; None: it is a file only."""


@dataclass(frozen=True, slots=True)
class RunOperation:
    args: tuple[str, ...]
    env: tuple[str, ...]
    """Everything the process gets, build arguments among it."""
    key_args: tuple[str, ...]
    """`name=value` of the build arguments that count for the cache: declared ones, sorted."""
    cwd: str
    user: str
    network: str
    """"" (the build's default), "none" or "host"."""
    mounts: tuple[MountOption, ...]
    shown: str
    """The command as messages and history show it."""
    script: str = ""
    """Content of a here-document with a `#!` line, to be placed at `args[-1]`."""
    security: str = ""
    """"" or "insecure"."""
    hostname: str = ""
    """"" is the builder's own."""


@dataclass(frozen=True, slots=True)
class StateBefore:
    """What a step begins with: enough to look around where it failed. `diff_ids`: the layers of its root."""

    diff_ids: tuple[Digest, ...]
    operation: RunOperation
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class CopyOperation:
    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...]
    """Content already expanded; the files are named after the here-documents."""
    destination: str
    """Absolute; a trailing slash means "a directory"."""
    origin: str
    """`--from`: a stage's name or index, or an image; empty is the build context."""
    chown: str
    chmod: str
    is_add: bool
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool = False


@dataclass(frozen=True, slots=True)
class WorkdirOperation:
    """`user`: whose the directory becomes if it has to be made, as USER says it; "" is root."""

    path: str
    user: str = ""


Operation = RunOperation | CopyOperation | WorkdirOperation


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Memory in bytes, periods and quotas in microseconds; 0 or "" is "no limit asked for"."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard)."""
    cgroup_parent: str = ""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What `POST /build` asks for, checked and typed."""

    dockerfile: str = "Dockerfile"
    """Its path inside the context."""
    dockerfile_text: bytes | None = None
    """The Dockerfile itself when it does not come from the context."""
    tags: tuple[Reference, ...] = ()
    build_args: dict[str, str | None] = field(default_factory=dict)
    """None: named without a value (`--build-arg NAME`), and not set in the client's environment."""
    labels: dict[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str | None = None
    explain: bool = False
    """Tell of every step that is not found in the cache what has changed."""
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    """Lower-case names (or numbers) of stages that are built without looking into the cache."""
    pull: bool = False
    quiet: bool = False
    network: str = ""
    entitlements: frozenset[str] = frozenset()
    """What steps may ask for beyond the ordinary (see `consent`)."""
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 0
    limits: RunLimits = field(default_factory=RunLimits)
    attests: Attests = field(default_factory=Attests)
    """Statements that are to go with the result."""
    epoch: int | None = None
    """Seconds since 1970 (SOURCE_DATE_EPOCH): nothing that the build makes is newer, and it is told to be of then."""
    contexts: dict[str, str] = field(default_factory=dict)
    """Named contexts: `dockerfile.contexts.context_name` of the name -> `docker-image://IMAGE`, or another value."""
    cache_from: tuple[CacheFrom, ...] = ()
    cache_to: tuple[CacheTo, ...] = ()
    platforms: tuple[str, ...] = ()
    """Several are built at the same time, each as `platform`, and become one index."""
    outputs: tuple[Output, ...] = ()
    """Empty: an image in the store."""
    proxies: Proxies = NO_PROXIES
    """The engine's, for what it fetches for the build itself."""
