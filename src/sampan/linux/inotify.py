"""Watching files and directories: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from types import TracebackType

from sampan.linux.libc import SystemCallError

MODIFY = 0x0002
CLOSE_WRITE = 0x0008
MOVED_FROM = 0x0040
MOVED_TO = 0x0080
CREATE = 0x0100
DELETE = 0x0200
DELETE_SELF = 0x0400
OVERFLOW = 0x4000
ONLY_DIRECTORY = 0x0100_0000

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_HEADER = struct.Struct("=iIII")
_READ_SIZE = 16384

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


@dataclass(frozen=True, slots=True)
class Event:
    """`mask`: bits as above; `name`: the entry of the watched directory, empty for the watched file itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """A queue of events. `fileno` becomes readable when there are some."""

    def __init__(self) -> None:
        descriptor = _libc.inotify_init1(_NONBLOCK_CLOEXEC)
        if descriptor < 0:
            raise SystemCallError(ctypes.get_errno(), "inotify_init1")
        self._descriptor: int = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def add(self, path: str, mask: int) -> int:
        """Watch `path`; returns the number that its events carry. Raises `SystemCallError`."""
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
        if watch < 0:
            raise SystemCallError(ctypes.get_errno(), "inotify_add_watch", path)
        return int(watch)

    def read_nowait(self) -> list[Event]:
        """The events that are there; none when there are none. OVERFLOW tells that some were lost."""
        try:
            raw = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return []
        events: list[Event] = []
        at = 0
        while at < len(raw):
            watch, mask, _, length = _HEADER.unpack_from(raw, at)
            at += _HEADER.size
            events.append(Event(watch, mask, os.fsdecode(raw[at : at + length].rstrip(b"\0"))))
            at += length
        return events

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Inotify:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
