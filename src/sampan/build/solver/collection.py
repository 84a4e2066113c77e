"""What of the build cache goes: a pure function of what there is, of rules and of the time.

The rules are BuildKit's (`buildkitd.toml`, gcpolicy; `builder.gc.policy` of Docker's daemon.json): each in turn
takes what matches it, from what was used longest ago, until the cache is no larger than the rule allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

REGULAR: Final = "regular"
INTERNAL: Final = "internal"
FRONTEND: Final = "frontend"
CACHE_MOUNT: Final = "exec.cachemount"
LOCAL: Final = "source.local"
GIT: Final = "source.git.checkout"
KINDS: Final = (INTERNAL, FRONTEND, LOCAL, GIT, CACHE_MOUNT, REGULAR)

EASILY_MADE_AGAIN: Final = (LOCAL, CACHE_MOUNT, GIT)
EASILY_MADE_AGAIN_BYTES: Final = 512 * 1000 * 1000
EASILY_MADE_AGAIN_AGE: Final = 48 * 3600.0
LONG_UNUSED: Final = 60 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Item:
    """A part of the cache. Times in seconds since the epoch, `size` in bytes.

    `shared`: an image has the same layer, so that its removal frees nothing. `in_use`: a build under way has asked
    for it.
    """

    id: str
    kind: str = REGULAR
    size: int = 0
    created: float = 0.0
    used: float = 0.0
    uses: int = 0
    in_use: bool = False
    shared: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What may go, and how much may stay (bytes; 0: no such bound, and without any bound all that matches goes).

    `everything`: internal records and what images share, too. `keep_for`: seconds since the last use for which an
    item stays whatever its size.
    """

    everything: bool = False
    keep_for: float = 0.0
    kinds: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """Parts of ids."""
    descriptions: tuple[str, ...] = ()
    nothing: bool = False
    """A filter asks for what is never removed: things in use, say."""
    shared: bool | None = None
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0


def default_rules(keep: int) -> tuple[Rule, ...]:
    """Docker's own set for a cache of at most `keep` bytes."""
    return (
        Rule(
            kinds=EASILY_MADE_AGAIN,
            keep_for=EASILY_MADE_AGAIN_AGE,
            max_used_space=EASILY_MADE_AGAIN_BYTES,
        ),
        Rule(keep_for=LONG_UNUSED, max_used_space=keep),
        Rule(max_used_space=keep),
        Rule(everything=True, max_used_space=keep),
    )


def total_size(items: Iterable[Item]) -> int:
    """Bytes that are the cache's alone."""
    return sum(item.size for item in items if not item.shared)


def choose(items: Sequence[Item], rules: Iterable[Rule], now: float, free: int) -> tuple[Item, ...]:
    """Which items go, in the order of their removal. `free`: bytes that the disk has left."""
    left = list(items)
    chosen: list[Item] = []
    for rule in rules:
        gone = _choose_by(left, rule, now, free)
        chosen += gone
        ids = {item.id for item in gone}
        left = [item for item in left if item.id not in ids]
        free += total_size(gone)
    return tuple(chosen)


def _choose_by(items: Sequence[Item], rule: Rule, now: float, free: int) -> list[Item]:
    total = total_size(items)
    bound = _bound(rule, total, free)
    matching = sorted(
        (item for item in items if matches(item, rule, now)), key=lambda item: (item.used, item.uses, item.id)
    )
    if bound is None:
        return matching
    gone: list[Item] = []
    for item in matching:
        if total <= bound:
            break
        gone.append(item)
        total -= 0 if item.shared else item.size
    return gone


def _bound(rule: Rule, total: int, free: int) -> int | None:
    """Bytes that may stay; None: the rule says nothing about it."""
    if not (rule.reserved_space or rule.max_used_space or rule.min_free_space):
        return None
    bounds = [rule.max_used_space] if rule.max_used_space else []
    if rule.min_free_space > free:
        bounds.append(total - (rule.min_free_space - free))
    elif not bounds and rule.min_free_space:
        return total
    return max(min(bounds, default=0), rule.reserved_space)


def matches(item: Item, rule: Rule, now: float) -> bool:
    """Whether the rule may take the item, sizes aside."""
    if item.in_use or rule.nothing:
        return False
    if not rule.everything and (item.shared or item.kind in (INTERNAL, FRONTEND)):
        return False
    if rule.keep_for and item.used > now - rule.keep_for:
        return False
    return (
        (not rule.kinds or item.kind in rule.kinds)
        and (not rule.ids or any(part in item.id for part in rule.ids))
        and (not rule.descriptions or item.description in rule.descriptions)
        and rule.shared in (None, item.shared)
    )
