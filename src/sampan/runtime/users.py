"""Users and groups as an image's own /etc/passwd and /etc/group know them (passwd(5), group(5)).

The words of errors are those of the library that Docker and runc share.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import msgspec

from sampan.errors import Invalid
from sampan.linux import paths

MAX_ID = (1 << 31) - 1
MAX_FILE = 4 * 1024 * 1024
"""Bytes of /etc/passwd and of /etc/group that are read."""


class ResolvedUser(msgspec.Struct, frozen=True):
    """`home` is "/" for a user that the image does not know."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


class PasswdEntry(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def parse_passwd(content: str) -> Iterator[PasswdEntry]:
    """Lines that are not entries (comments, a number that is none) are passed over."""
    for fields in _lines(content):
        if (
            len(fields) >= 4
            and (uid := _number(fields[2])) is not None
            and (gid := _number(fields[3])) is not None
        ):
            yield PasswdEntry(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")


def parse_group(content: str) -> Iterator[GroupEntry]:
    for fields in _lines(content):
        if len(fields) >= 3 and (gid := _number(fields[2])) is not None:
            members = fields[3].split(",") if len(fields) > 3 else []
            yield GroupEntry(fields[0], gid, tuple(member for member in members if member))


def _lines(content: str) -> Iterator[list[str]]:
    for line in content.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(("#", "+", "-")):
            yield stripped.split(":")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= MAX_ID else None


def find_user(text: str, passwd: str, group: str) -> ResolvedUser:
    """`text`: `name|uid[:group|gid]`, empty is root. Pure: the files' contents are given.

    A name wins over a number. The primary group is among the additional ones (CVE-2022-36109: without it a
    permission that is taken from the group could be had as "other"); with a group given it is the only one, as in
    Docker. Raises `Invalid`.
    """
    user_text, _, group_text = text.partition(":")
    user_text = user_text or "0"
    wanted_uid = _wanted_id(user_text)
    user = _find_user(user_text, wanted_uid, passwd)
    if user is None and wanted_uid is None:
        raise Invalid(f"unable to find user {user_text}: no matching entries in passwd file")
    uid = user.uid if user is not None else wanted_uid or 0
    gid = user.gid if user is not None else 0
    home = user.home if user is not None and user.home else "/"
    groups = list(parse_group(group))
    if group_text:
        gid = _find_group(group_text, groups)
        return ResolvedUser(uid, gid, (gid,), home)
    name = user.name if user is not None else ""
    additional = tuple(entry.gid for entry in groups if name and name in entry.members)
    return ResolvedUser(uid, gid, (gid, *(other for other in additional if other != gid)), home)


def _find_user(text: str, wanted_uid: int | None, passwd: str) -> PasswdEntry | None:
    numbered = None
    for entry in parse_passwd(passwd):
        if entry.name == text:
            return entry
        if numbered is None and entry.uid == wanted_uid:
            numbered = entry
    return numbered


def _find_group(text: str, groups: list[GroupEntry]) -> int:
    for entry in groups:
        if entry.name == text:
            return entry.gid
    gid = _wanted_id(text)
    if gid is None:
        raise Invalid(f"unable to find group {text}: no matching entries in group file")
    return gid


def _wanted_id(text: str) -> int | None:
    """Raises `Invalid` for a number out of range (a large one would wrap around to somebody else's)."""
    digits = text[1:] if text[:1] in "+-" else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    if text[:1] == "-" or len(digits) > 10 or int(digits) > MAX_ID:
        raise Invalid(f"uids and gids must be in range 0-{MAX_ID}: {text}")
    return int(digits)


def resolve_user(root_fd: int, text: str) -> ResolvedUser:
    """As `find_user`, with the files below the root directory `root_fd`. Raises `Invalid`, OSError."""
    return find_user(text, _read(root_fd, "/etc/passwd"), _read(root_fd, "/etc/group"))


def resolve_groups(root_fd: int, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of groups given by name or number. Raises `Invalid`, OSError."""
    groups = list(parse_group(_read(root_fd, "/etc/group"))) if texts else []
    return tuple(_find_group(text, groups) for text in texts)


def home_of(root_fd: int, uid: int) -> str:
    """The home directory of `uid`; "/" when the image does not know it."""
    for entry in parse_passwd(_read(root_fd, "/etc/passwd")):
        if entry.uid == uid:
            return entry.home or "/"
    return "/"


def _read(root_fd: int, path: str) -> str:
    """Empty when there is no such file; only regular files are read (a FIFO would never end)."""
    try:
        # Not blocking: it may be a FIFO until it was looked at.
        descriptor = paths.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Invalid(f"{path} in the container is not a regular file")
        chunks: list[bytes] = []
        size = 0
        while size <= MAX_FILE and (chunk := os.read(descriptor, 1 << 16)):
            chunks.append(chunk)
            size += len(chunk)
        if size > MAX_FILE:
            raise Invalid(f"{path} in the container is larger than {MAX_FILE} bytes")
        return b"".join(chunks).decode(errors="replace")
    finally:
        os.close(descriptor)
