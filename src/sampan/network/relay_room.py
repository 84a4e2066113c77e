"""How the descriptors of a process are shared: the relay's among published ports, the name server's among containers.

None can take them all. Pure.
"""

from __future__ import annotations

_RESERVED = (
    128  # for the relay's own sockets, and for what a daemon hands over while everything else is taken
)


class Room:
    """Descriptors for sessions. A port may have as many as are left for all others.

    So one port alone gets up to a half, two that want everything a third each, and there is always something left for
    the next (a dynamic threshold, as switches share their buffers). Nothing is set aside for ports that are idle.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: of the process (RLIMIT_NOFILE)."""
        self._free = max(limit - _RESERVED, 0)

    def has(self, own: int, more: int) -> bool:
        """Whether a port whose sessions have `own` descriptors may have `more`."""
        return own + more <= self._free

    def take(self, number: int) -> None:
        self._free -= number

    def give_back(self, number: int) -> None:
        self._free += number
