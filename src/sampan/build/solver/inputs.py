"""What went into the steps that builds had to do, kept so that a later build can say what has changed.

Written on a miss only; a step that is found costs nothing here. Of values of arguments and variables a digest is
kept, of secrets nothing. Rows outlive their step's place in the cache, and have bounds of their own.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from sampan.build.dockerfile.state import StageState
from sampan.build.fetch.git_url import redacted
from sampan.build.files.tree import Selection, Tree
from sampan.build.model import CopyOperation, RunOperation
from sampan.build.solver.explain import StepInputs
from sampan.build.solver.keys import chain_of
from sampan.build.solver.progress import Progress
from sampan.storage.metadata import Metadata, Table

MAX_ROWS = 4000
MAX_BYTES = 32 << 20
"""Of all rows; the oldest go."""
MAX_FILES = 5000
"""Of one step: of more, directories are kept instead."""
_MAX_ROW = 4 << 20
"""Bytes of one row when it is unpacked."""
_TRIM_EVERY = 200
"""Stores between two looks at the bounds."""
_SUM = 16


class _Row(msgspec.Struct, frozen=True, array_like=True):
    when: int
    """Nanoseconds since 1970."""
    inputs: StepInputs


class InputsTable(Protocol):
    """Where rows are kept; `MetadataInputs` is the real one."""

    def put(self, key: str, body: bytes) -> None: ...
    def delete(self, key: str) -> None: ...
    def items(self, prefix: str = "") -> list[tuple[str, bytes]]: ...


class MetadataInputs:
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def put(self, key: str, body: bytes) -> None:
        self._metadata.put(Table.BUILD_INPUTS, key, body)

    def delete(self, key: str) -> None:
        self._metadata.delete(Table.BUILD_INPUTS, key)

    def items(self, prefix: str = "") -> list[tuple[str, bytes]]:
        return self._metadata.items(Table.BUILD_INPUTS, prefix)


class InputsStore:
    """One object for all builds of an engine. Thread-safe as far as its table is."""

    def __init__(self, table: InputsTable) -> None:
        self._table = table
        self._stores = 0

    def store(self, key: str, inputs: StepInputs, now: int | None = None) -> None:
        """`now`: nanoseconds since 1970."""
        row = _Row(time.time_ns() if now is None else now, inputs)
        body = zlib.compress(msgspec.msgpack.encode(row), 1)
        self._table.put(f"{_word(inputs)}:{key}", body)
        self._stores += 1
        if self._stores % _TRIM_EVERY == 0:
            self.trim()

    def earlier(self, inputs: StepInputs, before: int) -> list[StepInputs]:
        """Of steps with the same instruction's word, the newest first: `explain.explain` chooses among them.

        `before`: nanoseconds since 1970; what the present build has done since then doesn't count.
        """
        rows = [_decoded(body) for _, body in self._table.items(_word(inputs) + ":")]
        found = sorted(
            (row for row in rows if row is not None and row.when < before),
            key=lambda row: row.when,
            reverse=True,
        )
        return [row.inputs for row in found]

    def trim(self) -> None:
        """Beyond the bounds the oldest rows go, down to three quarters: so that it need not be done at each store."""
        rows = self._table.items()
        size = sum(len(body) for _, body in rows)
        if len(rows) <= MAX_ROWS and size <= MAX_BYTES:
            return
        decoded = [(_decoded(body), key, len(body)) for key, body in rows]
        count = len(rows)
        for _, key, length in sorted(decoded, key=lambda one: one[0].when if one[0] is not None else 0):
            if count <= MAX_ROWS * 3 // 4 and size <= MAX_BYTES * 3 // 4:
                return
            self._table.delete(key)
            count -= 1
            size -= length


def inputs_of(progress: Progress, stage: str, base: str, instruction: str) -> StepInputs:
    """What all steps have in common. `base`: what FROM named."""
    own = progress.base.rootfs.diff_ids
    above = chain_of(progress.diff_ids[len(own) :])[:_SUM]
    return StepInputs(stage, redacted(instruction), above, f"{base} ({chain_of(own)[:_SUM]})")


def with_run(
    inputs: StepInputs, operation: RunOperation, state: StageState, settings: Mapping[str, str]
) -> StepInputs:
    """`settings`: by words for people."""
    return msgspec.structs.replace(
        inputs,
        args=_digests(operation.key_args),
        env=_digests(state.config.env or ()),
        settings={
            "working directory": operation.cwd,
            "user": operation.user,
            "mounts": short_sum(repr(operation.mounts)) if operation.mounts else "",
            "script": short_sum(operation.script) if operation.script else "",
            **settings,
        },
    )


def with_copy(inputs: StepInputs, operation: CopyOperation, files: Mapping[str, str]) -> StepInputs:
    heredocs = {f"<<{item.name}": short_sum(item.content) for item in operation.heredocs}
    if operation.link:  # made on nothing
        inputs = msgspec.structs.replace(inputs, parent="", base="")
    return msgspec.structs.replace(inputs, files=bounded({**files, **heredocs}))


def files_of(tree: Tree, selections: Iterable[Selection]) -> dict[str, str]:
    """Path -> what counts of the file, as short as may be. Directories are left out unless they are all there is."""
    files: dict[str, str] = {}
    for selection in selections:
        for entry in selection.entries:
            if stat.S_ISDIR(entry.mode) and len(selection.entries) > 1:
                continue
            content = (tree.checksums.find(entry) or b"").hex() or entry.target
            path = posixpath.join(selection.location, entry.path).rstrip("/") or "."
            files[path] = f"{entry.mode:o} {entry.uid} {entry.gid} {content[:_SUM]}"
    return files


def bounded(files: Mapping[str, str]) -> dict[str, str]:
    """The files themselves, or of too many the directories above them, each with a digest of what is in it."""
    found = dict(files)
    depth = max((path.count("/") for path in found), default=0)
    while len(found) > MAX_FILES and depth > 0:
        groups: dict[str, list[str]] = {}
        for path, value in found.items():
            parts = path.split("/")
            groups.setdefault("/".join(parts[:depth]), []).append("/".join(parts[depth:]) + " " + value)
        found = {path: short_sum("\n".join(sorted(values))) for path, values in groups.items()}
        depth -= 1
    if len(found) > MAX_FILES:
        return {
            "(all files)": short_sum("\n".join(sorted(f"{path} {value}" for path, value in found.items())))
        }
    return found


def _digests(pairs: Sequence[str]) -> dict[str, str]:
    return {name: short_sum(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def short_sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_SUM]


def _word(inputs: StepInputs) -> str:
    return inputs.instruction.split(maxsplit=1)[0].upper() if inputs.instruction.strip() else ""


def _decoded(body: bytes) -> _Row | None:
    """None for what another version wrote."""
    try:
        unpacked = zlib.decompressobj().decompress(body, _MAX_ROW)
        return msgspec.msgpack.decode(unpacked, type=_Row)
    except (zlib.error, msgspec.MsgspecError):
        return None
