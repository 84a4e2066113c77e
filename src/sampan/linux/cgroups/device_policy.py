"""Ordered device rules as a default and its exceptions: what version 1 stores and version 2's program tests. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sampan.errors import Invalid
from sampan.linux.cgroups.model import DeviceRule

_ACCESS = "rwm"
_MAX_NUMBER = (1 << 32) - 1

_Key = tuple[str, int | None, int | None]


class DevicePolicy(msgspec.Struct, frozen=True):
    """Access is `default` but for the `exceptions`, which all have `allow == not default`."""

    default: bool
    exceptions: tuple[DeviceRule, ...]


def device_policy(rules: Iterable[DeviceRule]) -> DevicePolicy:
    """What is left of `rules`, applied in order to a policy that refuses everything.

    Raises `Invalid` for a malformed rule, and for one that takes a single device out of an earlier rule with
    wildcards, which version 1 cannot express.
    """
    default = False
    exceptions: dict[_Key, set[str]] = {}
    for rule in rules:
        _check(rule)
        if (
            rule.type == "a"
            and rule.major is None
            and rule.minor is None
            and set(rule.access) == set(_ACCESS)
        ):
            default, exceptions = rule.allow, {}
            continue
        for kind in "bc" if rule.type == "a" else rule.type:
            if rule.allow == default:
                _withdraw(exceptions, rule, (kind, rule.major, rule.minor))
            else:
                exceptions.setdefault((kind, rule.major, rule.minor), set()).update(rule.access)
    return DevicePolicy(
        default,
        tuple(
            DeviceRule(
                not default, kind, major, minor, "".join(letter for letter in _ACCESS if letter in access)
            )
            for (kind, major, minor), access in exceptions.items()
        ),
    )


def _check(rule: DeviceRule) -> None:
    if rule.type not in ("a", "b", "c") or not rule.access or set(rule.access) - set(_ACCESS):
        raise Invalid(f"invalid device rule: type {rule.type!r}, access {rule.access!r}")
    for number in (rule.major, rule.minor):
        if number is not None and not 0 <= number <= _MAX_NUMBER:
            raise Invalid(f"invalid device number: {number}")


def _withdraw(exceptions: dict[_Key, set[str]], rule: DeviceRule, key: _Key) -> None:
    kind, major, minor = key
    for present in list(exceptions):
        inside = (
            present[0] == kind
            and (major is None or present[1] == major)
            and (minor is None or present[2] == minor)
        )
        if inside:
            exceptions[present] -= set(rule.access)
            if not exceptions[present]:
                del exceptions[present]
        elif _overlap(present, key) and exceptions[present] & set(rule.access):
            raise Invalid(
                f"device rule {format_rule(rule)!r} takes a part out of an earlier rule with wildcards",
                hint="name the devices one by one instead",
            )


def _overlap(one: _Key, other: _Key) -> bool:
    return one[0] == other[0] and all(
        a is None or b is None or a == b for a, b in zip(one[1:], other[1:], strict=True)
    )


def format_rule(rule: DeviceRule) -> str:
    """As devices.allow and devices.deny take it (cgroup-v1/devices.rst)."""
    major = "*" if rule.major is None else rule.major
    minor = "*" if rule.minor is None else rule.minor
    return f"{rule.type} {major}:{minor} {rule.access}"


def parse_list(text: str) -> DevicePolicy:
    """The policy that version 1's devices.list shows; with a default of allow the kernel hides the exceptions."""
    rules = []
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return DevicePolicy(True, ())
        major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
        rules.append(DeviceRule(True, kind, major, minor, access))
    return DevicePolicy(False, tuple(rules))
