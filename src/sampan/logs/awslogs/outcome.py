"""What became of a batch."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """Taken, to be sent again, or never to be taken."""

    TAKEN = 1
    LATER = 2
    NEVER = 3
