"""Where a relay that lost its daemon is told to make room, and who may say so."""

from __future__ import annotations

import os


def retire_address(instance: str) -> str:
    """The abstract Unix socket on which a relay that lost its daemon is told to make room."""
    return f"\0sampan-relay/{instance}"


def same_mounts(process: int) -> bool:
    """Whether a process has our mount namespace: no container has."""
    try:
        return os.path.samefile(f"/proc/{process}/ns/mnt", "/proc/self/ns/mnt")
    except OSError:
        return False  # it has ended
