"""What the services need of the metadata database."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import msgspec

from sampan.storage.metadata import Table

log = logging.getLogger(__name__)

T = TypeVar("T")


class Store(Protocol):
    """What is needed of `storage.metadata.Metadata`."""

    def put(self, table: Table, key: str, body: bytes, *, durable: bool | None = None) -> None: ...

    def delete(self, table: Table, key: str, *, durable: bool | None = None) -> None: ...

    def items(self, table: Table, prefix: str = "") -> list[tuple[str, bytes]]: ...

    def transaction(self) -> AbstractContextManager[None]: ...


def read_records(
    metadata: Store, table: Table, kind: type[T], what: str, hint: str
) -> tuple[dict[str, T], dict[str, bytes]]:
    """The records by key, and those that can't be read, as they are: damaged, or a newer engine's.

    One such record must not keep an engine from starting, which has all the others. It is told of (`what` it is, and
    what can be done) and stays in the database. Whoever asks must keep what it stands for, too.
    """
    records: dict[str, T] = {}
    unreadable: dict[str, bytes] = {}
    for key, body in metadata.items(table):
        try:
            records[key] = msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.error("the record of %s %s can't be read: %s; %s", what, key, error, hint)
            unreadable[key] = body
    return records, unreadable
