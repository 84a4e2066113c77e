"""What the relay knows of a published port, whatever its protocol."""

from __future__ import annotations

import socket
from typing import Protocol


class Port(Protocol):
    """What listens: one published port."""

    def close(self, *, sessions: bool) -> None:
        """Stop listening, and end the connections when `sessions`."""

    @property
    def busy(self) -> bool:
        """Somebody is connected."""


def family(target: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET
