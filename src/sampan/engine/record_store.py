"""What the services need of the metadata database."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sampan.storage.metadata import Table


class Store(Protocol):
    """What is needed of `storage.metadata.Metadata`."""

    def put(self, table: Table, key: str, body: bytes, *, durable: bool | None = None) -> None: ...

    def delete(self, table: Table, key: str, *, durable: bool | None = None) -> None: ...

    def items(self, table: Table, prefix: str = "") -> list[tuple[str, bytes]]: ...

    def transaction(self) -> AbstractContextManager[None]: ...
