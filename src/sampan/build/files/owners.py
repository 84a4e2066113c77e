"""`--chown=user[:group]`: numbers, or names looked up in the image's own /etc/passwd and /etc/group. Pure."""

from __future__ import annotations

from collections.abc import Callable

from sampan.errors import Invalid

MAX_ID = 2**31 - 1
Lookup = Callable[[str], str]
"""Gives the text of a file of the image ("/etc/passwd"), "" when it has none."""


def resolve_owner(text: str, lookup: Lookup) -> tuple[int, int]:
    """(uid, gid). A user without a group gets the group of the same number, or of its passwd entry; none is root.

    What is empty before or behind a colon is root too, as in BuildKit.

    Raises `Invalid` for a name that the image does not know.
    """
    user, colon, group = text.partition(":")
    uid, primary = _user(user, lookup) if user else (0, 0)
    if not group:
        return uid, 0 if colon else primary
    return uid, _group(group, lookup)


def _user(name: str, lookup: Lookup) -> tuple[int, int]:
    if name.isascii() and name.isdecimal():
        number = _bounded(name)
        return number, number
    for fields in _records(lookup("/etc/passwd"), 4):
        if fields[0] == name:
            return _bounded(fields[2]), _bounded(fields[3])
    raise Invalid(
        f"unable to convert uid/gid chown string to host mapping: can't find uid for user {name}: "
        f"no such user: {name}",
        hint="names are looked up in the image's /etc/passwd; numbers always work",
    )


def _group(name: str, lookup: Lookup) -> int:
    if name.isascii() and name.isdecimal():
        return _bounded(name)
    for fields in _records(lookup("/etc/group"), 3):
        if fields[0] == name:
            return _bounded(fields[2])
    raise Invalid(
        f"unable to convert uid/gid chown string to host mapping: can't find gid for group {name}: "
        f"no such group: {name}",
        hint="names are looked up in the image's /etc/group; numbers always work",
    )


def _records(text: str, least: int) -> list[list[str]]:
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= least]


def _bounded(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > MAX_ID:
        raise Invalid(f"uids and gids must be in range 0-{MAX_ID}: {text}")
    return int(text)
