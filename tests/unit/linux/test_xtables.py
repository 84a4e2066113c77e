"""The legacy iptables' table is read although other programs replace it meanwhile."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from sampan.errors import Internal
from sampan.linux import xtables

INFO, ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES


class NoSocket:
    """Raw sockets are root's."""

    def __init__(self, *arguments: Any) -> None:
        return

    def __enter__(self) -> NoSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return


class Table:
    """An empty filter table that is replaced by a larger one as often as told, each time after its size was asked."""

    def __init__(self, changes: int) -> None:
        self.size, self.changes = 152, changes

    def get(self, raw: Any, shape: Any, option: int, request: bytes) -> bytes:
        if option == INFO:
            told = struct.pack("=32sI5I5III", b"filter", 0, *[0] * 5, *[0] * 5, 1, self.size)
            if self.changes:
                self.changes, self.size = self.changes - 1, self.size + 8
            return told
        assert option == ENTRIES
        if struct.unpack_from("=I", request, 32) != (self.size,):
            raise BlockingIOError
        # struct ipt_entry of 112 bytes, and a standard target whose verdict is ACCEPT (-2)
        entry = bytes(88) + struct.pack("=HH", 112, 152) + bytes(20) + bytes(32) + struct.pack("=i", -2)
        return bytes(40) + entry.ljust(self.size, b"\0")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table(0)
    monkeypatch.setattr(xtables, "in_use", lambda version: True)
    monkeypatch.setattr(xtables, "_get", made.get)
    monkeypatch.setattr(xtables.socket, "socket", NoSocket)
    return made


@pytest.mark.parametrize("changes", [0, 1, 3])
def test_a_table_that_is_replaced_while_it_is_read_is_read_again(table: Table, changes: int) -> None:
    table.changes = changes
    assert not xtables.input_can_drop(4)
    assert table.changes == 0


def test_a_table_that_never_rests_is_an_error_that_says_so(table: Table) -> None:
    table.changes = 1000
    with pytest.raises(Internal, match="changes all the time"):
        xtables.input_can_drop(4)
