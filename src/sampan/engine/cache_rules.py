"""From a prune request's query, or the policy of daemon.json, to the rules of the collection. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.build.solver.collection import KINDS, Rule
from sampan.engine.filters import parse_duration, parse_time
from sampan.errors import Invalid

FILTERS = ("until", "unused-for", "id", "type", "description", "inuse", "shared", "private", "parent")


def rule_of(
    filters: Mapping[str, Sequence[str]],
    now: float,
    *,
    everything: bool = False,
    reserved_space: int = 0,
    max_used_space: int = 0,
    min_free_space: int = 0,
) -> Rule:
    """Raises `Invalid` for filters that don't exist, in Docker's words where it has them."""
    for name, given in filters.items():
        if name not in FILTERS:
            raise Invalid(f"invalid filter '{name}'")
        if len(given) > 1:
            raise Invalid("filters expect only one value")
    chosen = {name: next(iter(given), "") for name, given in filters.items()}
    if "until" in chosen and "unused-for" in chosen:
        raise Invalid('conflicting filters "until" and "unused-for"')
    for space in (reserved_space, max_used_space, min_free_space):
        if space < 0:
            raise Invalid("a size must not be negative")
    if chosen.get("type") and chosen["type"] not in KINDS:
        raise Invalid(f"invalid type {chosen['type']!r}", hint=f"types: {', '.join(KINDS)}")
    if "shared" in chosen and "private" in chosen:
        raise Invalid('conflicting filters "shared" and "private"')
    return Rule(
        # What images share goes only with --all, unless it is asked for by name.
        everything=everything or "shared" in chosen,
        keep_for=_keep_for(chosen, now),
        kinds=(chosen["type"],) if chosen.get("type") else (),
        ids=(chosen["id"],) if chosen.get("id") else (),
        descriptions=(chosen["description"],) if chosen.get("description") else (),
        # What is in use stays, and parents are part of keys here and not kept beside them.
        nothing=_is_on(chosen.get("inuse")) or "parent" in chosen,
        shared=True if _is_on(chosen.get("shared")) else False if _is_on(chosen.get("private")) else None,
        reserved_space=reserved_space,
        max_used_space=max_used_space,
        min_free_space=min_free_space,
    )


def _is_on(value: str | None) -> bool:
    return value is not None and value.lower() not in ("0", "false")


def _keep_for(values: Mapping[str, str], now: float) -> float:
    """`until` is a moment or a duration before now, `unused-for` a duration."""
    if values.get("unused-for"):
        return parse_duration(values["unused-for"])
    if values.get("until"):
        return max(now - parse_time(values["until"]) / 1e9, 0.0)
    return 0.0
