"""`builder.gc` of daemon.json and the flags that win over it: the rules by which the build cache is collected."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.build.solver.collection import Rule, default_rules
from sampan.engine.cache_rules import rule_of
from sampan.errors import Invalid

DEFAULT_KEEP = 10 * 1000**3
"""Bytes."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.ASCII | re.IGNORECASE)
_POLICY_KEYS = {
    "all": "",
    "filter": "",
    "keepStorage": "reserved_space",
    "reservedSpace": "reserved_space",
    "maxUsedSpace": "max_used_space",
    "minFreeSpace": "min_free_space",
}
_GC_KEYS = ("enabled", "defaultKeepStorage", "defaultReservedSpace", "policy")


def collection_rules(builder: object, enabled: bool | None, keep: str | None) -> tuple[Rule, ...]:
    """`builder`: the file's value of that key. () when the collection is off. Raises `Invalid`."""
    gc = _object(_object(builder, "builder", ("gc", "entitlements")).get("gc"), "builder.gc", _GC_KEYS)
    is_on = enabled if enabled is not None else gc.get("enabled", True)
    if not isinstance(is_on, bool):
        raise Invalid(f"builder.gc.enabled: expected true or false, not {is_on!r}")
    given = keep or gc.get("defaultKeepStorage") or gc.get("defaultReservedSpace")
    kept = size_of(given, "builder-gc-keep-storage") if given is not None else DEFAULT_KEEP
    policy = gc.get("policy")
    if policy is not None and not isinstance(policy, list):
        raise Invalid("builder.gc.policy: expected a list")
    if not is_on:
        return ()
    if not policy or keep is not None:
        return default_rules(kept)
    return tuple(_rule(each) for each in policy)


def size_of(value: object, name: str) -> int:
    """Bytes: a number, or a text as "10GB" (decimal) and "10GiB" (binary). Raises `Invalid`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise Invalid(f"{name}: invalid size {value!r}", hint="a number of bytes, or for example 10GB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgtp".index(match[2].lower() or " "))


def _rule(policy: object) -> Rule:
    fields = _object(policy, "builder.gc.policy", tuple(_POLICY_KEYS))
    everything = fields.get("all", False)
    if not isinstance(everything, bool):
        raise Invalid(f"builder.gc.policy: all: expected true or false, not {everything!r}")
    spaces: dict[str, int] = {}
    for key, name in _POLICY_KEYS.items():
        if name and key in fields:
            spaces[name] = size_of(fields[key], f"builder.gc.policy: {key}")
    return rule_of(
        _filters(fields.get("filter")),
        0.0,
        everything=everything,
        reserved_space=spaces.get("reserved_space", 0),
        max_used_space=spaces.get("max_used_space", 0),
        min_free_space=spaces.get("min_free_space", 0),
    )


def _filters(value: object) -> dict[str, list[str]]:
    """Docker's list of `name=value`; the value of `until` is a duration here, as the rule is for any time."""
    if value is None:
        return {}
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid("builder.gc.policy: filter: expected a list of strings")
    found: dict[str, list[str]] = {}
    for item in value:
        name, _, text = item.replace("==", "=").partition("=")
        found.setdefault("unused-for" if name == "until" else name, []).append(text)
    return found


def _object(value: object, name: str, known: tuple[str, ...]) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{name}: expected an object")
    if unknown := sorted(set(value) - set(known)):
        raise Invalid(f"{name}: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(known)}")
    return value
