"""What a backup says of an entry, in the manifest's words, or refused. Pure."""

from __future__ import annotations

from typing import Final

from sampan.engine.volume_backup.format import Entry, Kind, bounded_time, text_of
from sampan.errors import Invalid
from sampan.storage import tar_format as tf
from sampan.storage.tar_format import Member

KINDS: Final[dict[bytes, Kind]] = {
    tf.REGULAR: "file",
    tf.DIRECTORY: "dir",
    tf.SYMLINK: "symlink",
    tf.FIFO: "fifo",
    tf.CHAR_DEVICE: "char",
    tf.BLOCK_DEVICE: "block",
}


def described(
    path: bytes,
    member: Member,
    *,
    size: int = 0,
    sha256: str = "",
    sparse: bool = False,
    target: bytes = b"",
    mode: int | None = None,
) -> Entry:
    """The member in the manifest's words."""
    kind = KINDS.get(member.type, "hardlink")
    device = (member.major, member.minor) if kind in ("char", "block") else None
    return Entry(
        text_of(path),
        kind,
        member.mode if mode is None else mode,
        member.uid,
        member.gid,
        bounded_time(member.mtime * 1_000_000_000 + member.mtime_nsec),
        size,
        sha256,
        sparse,
        text_of(target),
        device,
        {text_of(name): member.xattrs[name] for name in sorted(member.xattrs)} if member.xattrs else {},
    )


def relative(name: bytes, top: bytes) -> bytes:
    """A name below `top`, b"" for that itself. Raises `Invalid` for one that is not written as a backup does."""
    if not name.startswith(top + b"/"):
        raise Invalid(f"{shown(name)} is not in the backup's {top.decode()}")
    rest = name[len(top) + 1 :].removesuffix(b"/")
    if rest and any(part in (b"", b".", b"..") for part in rest.split(b"/")):
        raise Invalid(f"{shown(name)}: a path that leads elsewhere")
    return rest


def times(member: Member) -> tuple[int, int]:
    time = member.mtime * 1_000_000_000 + member.mtime_nsec
    return time, time


def shown(name: bytes) -> str:
    return repr(text_of(name[:200]))
