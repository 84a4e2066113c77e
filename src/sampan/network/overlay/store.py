"""What the overlay networks need of a key-value store: etcd's model in little.

Every change of the store has a revision, a number that grows. A key remembers the revision that created it and the one
that last changed it, and may belong to a lease, with which it vanishes unless the lease is kept alive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sampan.errors import Unavailable

_ENTRY_BYTES = 150


MAX_BYTES = 64 << 20
"""Of keys and values together that an engine reads: what is in a store may be hostile, and stays in memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value; `lease` 0 is none."""

    value: bytes
    created: int
    modified: int
    lease: int = 0

    def size(self, key: str) -> int:
        """Bytes of key and value, and about what the entry has beside them."""
        return len(key) + len(self.value) + _ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All entries below a prefix at one revision, by key."""

    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Change:
    """One key changed, or went (`entry` None)."""

    key: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened up to this revision."""

    revision: int
    changes: tuple[Change, ...]


class Kind(Enum):
    ABSENT = "absent"
    """There is no such key."""
    UNCHANGED = "unchanged"
    """The key is there, last changed by exactly this revision."""
    PREFIX_UNTOUCHED = "prefix"
    """No key below this prefix was changed after this revision (one that was removed does not count)."""
    PRESENT = "present"
    """There is such a key."""


@dataclass(frozen=True, slots=True)
class Condition:
    kind: Kind
    key: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """With `prefix` everything below the key too."""

    key: str
    prefix: bool = False


Operation = Put | Delete


class Compacted(Unavailable):
    """The store no longer knows the changes that were asked for: read everything again."""


class LeaseEnded(Unavailable):
    """What was to be written belongs to a lease whose time is over."""


class Store(Protocol):
    """Used from the event loop's thread. Every call raises `Unavailable` when the store does not answer.

    Keys are printable ASCII. Cancelling a call is allowed at any time.
    """

    @property
    def name(self) -> str:
        """For people: where the store is, without credentials."""

    async def read(self, prefix: str) -> Snapshot: ...

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        """Perform all operations if all conditions hold, else none and False."""

    def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        """Everything that happens below the prefix from this revision on. Raises `Compacted`."""

    async def grant(self, seconds: int) -> int:
        """A new lease that ends this long after it was last kept."""

    async def keep(self, lease: int) -> bool:
        """Begin the lease's time anew; False when it has ended."""

    async def revoke(self, lease: int) -> None:
        """End it, and what belongs to it, now. One that has ended is no error."""

    async def close(self) -> None: ...
