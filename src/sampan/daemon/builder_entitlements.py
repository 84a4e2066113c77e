"""`builder.entitlements` of daemon.json and the flag that wins over it: what builds may be granted."""

from __future__ import annotations

from sampan.build.consent import DEFAULT_ALLOWED, KNOWN, parse_entitlements
from sampan.errors import Invalid


def allowed_entitlements(builder: object, given: list[str] | None) -> frozenset[str]:
    """`builder`: the file's value of that key. `given`: names, or "none" alone. Raises `Invalid`."""
    if given is not None:
        return parse_entitlements(() if given == ["none"] else given)
    stored = builder.get("entitlements") if isinstance(builder, dict) else None
    if stored is None:
        return DEFAULT_ALLOWED
    if not isinstance(stored, dict):
        raise Invalid("builder.entitlements: expected an object")
    keys = {name.replace(".", "-"): name for name in KNOWN}
    allowed = set(DEFAULT_ALLOWED)
    for key, value in stored.items():
        if key not in keys:
            raise Invalid(
                f"builder.entitlements: unknown key {key!r}", hint="known keys: " + ", ".join(sorted(keys))
            )
        if not isinstance(value, bool):
            raise Invalid(f"builder.entitlements.{key}: expected true or false, not {value!r}")
        (allowed.add if value else allowed.discard)(keys[key])
    return frozenset(allowed)
