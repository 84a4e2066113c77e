"""What became of output that could not be delivered: counted by the shim, read by the engine, in one small file.

The file has always the same size and is overwritten in place: a count costs one pwrite(2), however often it changes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

_SIZE = 512
_LONGEST_ERROR = 200


class LogStatus(msgspec.Struct):
    """Since the container's last start. `lost_lines`, `lost_bytes`: never delivered, and not to be. `error`: why."""

    lost_lines: int = 0
    lost_bytes: int = 0
    error: str = ""
    writer_restarts: int = 0


class StatusFile:
    """The shim's side: `status` is changed, then `save`d."""

    def __init__(self, path: str) -> None:
        self.status = LogStatus()
        self._descriptor = -1
        if path:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)

    def save(self) -> None:
        status = self.status
        status.error = status.error[:_LONGEST_ERROR]
        text = msgspec.json.encode(status)
        if len(text) > _SIZE:
            status.error = status.error.encode("ascii", "replace").decode()[: _LONGEST_ERROR // 2]
            text = msgspec.json.encode(status)
        if self._descriptor >= 0:
            # A full disk must not end the shim; what could not be written down is in the next save too.
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, text.ljust(_SIZE)[:_SIZE], 0)


def read_status(path: Path) -> LogStatus | None:
    """None when there is none: the container's log has nothing to be delivered, or nothing was lost."""
    try:
        with open(path, "rb") as file:
            text = file.read(_SIZE)
        return msgspec.json.decode(text, type=LogStatus) if text else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None
