"""Prunes that remove nothing, beyond Docker: `dry-run=1` in the query; the body may say what is gone by then."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sampan.api.messages import DRY_RUN, Request
from sampan.engine.config import Docker, decode_docker


class TrialBody(Docker, frozen=True):
    """The answer is to be what it would be if there were no containers `without` (ids).

    A body and no query: a host may have thousands of stopped containers, and a request's head is bounded.
    """

    without: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    dry_run: bool
    without: frozenset[str] = frozenset()


async def trial(request: Request) -> Trial:
    """Raises `Invalid` for a body that can't be read."""
    if not request.flag(DRY_RUN):
        return Trial(False)
    raw = await request.body()
    gone = decode_docker(raw, TrialBody).without if raw.strip() not in (b"", b"null") else []
    return Trial(True, frozenset(gone))
