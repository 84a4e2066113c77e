"""What a backup is: docs/volumes.md, "The format", in types. Pure.

A backup is a tar in zstd. Its manifest has a line of JSON for every entry of the volume, in the order of the archive;
its id is the SHA-256 of these lines, so that equal volumes have equal ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from sampan.errors import Invalid
from sampan.storage.tar_format import TarLimits

FORMAT: Final = 1
HEAD_NAME: Final = b"sampan-backup.json"
MANIFEST_NAME: Final = b"sampan-manifest.ndjson"
SUMMARY_NAME: Final = b"sampan-summary.json"
DATA: Final = b"data"
"""Where the volume's entries are in the archive."""
BASE: Final = b"base"
"""Where files are that the backup before has: targets of hard links, nothing that the archive has itself."""

HEAD_MAX: Final = 1 << 20  # bytes
SUMMARY_MAX: Final = 1 << 20
LINE_MAX: Final = 4 << 20  # attributes are most of it: 256 KiB of them, in base64
MANIFEST_MAX: Final = 4 << 30
ENTRIES_MAX: Final = 4_000_000
SIZE_MAX: Final = 1 << 50
"""Bytes of all files together, holes included."""
DEPTH_MAX: Final = 512
"""Directories inside each other; each costs a descriptor."""
ARCHIVE_LIMITS: Final = TarLimits(
    members=ENTRIES_MAX + 8,
    name=DEPTH_MAX * 256 + 16,
    extended=2 << 20,
    xattrs=1 << 14,
    xattr_bytes=256 << 10,
    file_size=SIZE_MAX,
)
"""What a restore takes, and a backup therefore refuses to go beyond: it would be none."""
CHANGED_SHOWN: Final = 20
"""Names of files that changed while they were read that a summary lists."""
CHANGED_NAME: Final = 1024
"""Characters of such a name."""
_TIME_MIN: Final = -(1 << 63)
_TIME_MAX: Final = (1 << 64) - 1

FOOTER_SIZE: Final = 256
_SKIPPABLE: Final = b"\x5a\x2a\x4d\x18"
"""A frame that every zstd decompressor leaves out (RFC 8878, 3.1.2): 0x184D2A5A."""

Kind = Literal["dir", "file", "symlink", "hardlink", "fifo", "char", "block"]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the volume; its line in the manifest is this as JSON. (What is left out there are values that are
    the same object as the default: only such that exist once serve as one.)

    path: relative to the volume, "" is its top; see `text_of`. mtime: nanoseconds since 1970. sha256: see
    `FileDigest`. sparse: the file had holes. target: where a symbolic link leads, or the path of the first name of a
    file that has several. xattrs: POSIX ACLs are among them.
    """

    path: str
    type: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    sha256: str = ""
    sparse: bool = False
    target: str = ""
    device: tuple[int, int] | None = None
    xattrs: dict[str, bytes] = {}


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """The archive's first member. base: id of the backup that has the files which this one leaves out."""

    format: int
    volume: str
    created: str
    labels: dict[str, str] | None = None
    base: str = ""
    users: str = ""  # what was done with the containers that use the volume: "paused", "stopped", ""
    source: str = ""  # "snapshot" when the files were read from one
    size: int = 0  # bytes of regular files, as they were counted before; for progress alone


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """The archive's last member: what is in it, and what is not.

    size: bytes of regular files. stored: those of them that are in this archive. sockets: left out, as a server
    makes its own anew. changed: how many files changed while they were read, `changed_names` some of them.
    """

    id: str
    entries: int = 0
    files: int = 0
    size: int = 0
    stored: int = 0
    stored_files: int = 0
    sockets: int = 0
    changed: int = 0
    changed_names: tuple[str, ...] = ()


class Footer(msgspec.Struct, frozen=True, rename={"offset": "at", "length": "len"}):
    """Where the frame with the manifest is in the file, so that it can be read without the rest."""

    id: str
    base: str
    offset: int
    length: int


def bounded_time(nanoseconds: int) -> int:
    """Btrfs and tmpfs take times that are no 64-bit number of nanoseconds: it becomes the nearest that is."""
    return min(max(nanoseconds, _TIME_MIN), _TIME_MAX)


_encode: Final = msgspec.json.Encoder().encode


def encode_line(entry: Entry) -> bytes:
    return _encode(entry) + b"\n"


def encode_footer(footer: Footer) -> bytes:
    """The last bytes of the file, always as many."""
    body = msgspec.json.encode(footer)
    room = FOOTER_SIZE - 8
    return _SKIPPABLE + room.to_bytes(4, "little") + body.ljust(room)


def decode_head(raw: bytes) -> Head:
    """Raises `Invalid` for what is no backup, or one of a newer sampan."""
    try:
        head = msgspec.json.decode(raw, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"this is no backup of a volume: {error}") from error
    if head.format != FORMAT:
        raise Invalid(
            f"the backup has format {head.format}, this sampan knows {FORMAT}", hint="use a newer sampan"
        )
    return head


def decode_summary(raw: bytes) -> Summary:
    try:
        return msgspec.json.decode(raw, type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the backup's summary is damaged: {error}") from error


def decode_lines(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of a manifest. Raises `Invalid`, also beyond `ENTRIES_MAX`."""
    rest = b""
    decoder = msgspec.json.Decoder(Entry)
    count = 0
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > LINE_MAX:
            raise Invalid("the backup's manifest is damaged: a line has no end")
        count += len(lines)
        if count > ENTRIES_MAX:
            raise Invalid(f"the backup's manifest has more than {ENTRIES_MAX} entries")
        for line in lines:
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Invalid(f"the backup's manifest is damaged: {error}") from error
    if rest:
        raise Invalid("the backup's manifest is damaged: its last line is cut off")


def text_of(name: bytes) -> str:
    """A path as text: bytes that are no UTF-8 become \\xNN, and a backslash two of them. `bytes_of` undoes it."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\") if "\\" in text else text


_ESCAPED: Final = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def bytes_of(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    if b"\\" not in raw:
        return raw
    return _ESCAPED.sub(lambda found: b"\\" if found[1] is None else bytes((int(found[1], 16),)), raw)


def piece_mark(offset: int, length: int) -> bytes:
    """What stands before a piece of a sparse file in what is hashed, so that its holes count too."""
    return offset.to_bytes(8, "little") + length.to_bytes(8, "little")


def comparison_key(path: bytes) -> list[bytes]:
    """The order of archive and manifest: a directory, then what is in it by name."""
    return path.split(b"/") if path else []


# The artifact in a registry (OCI image-spec, manifest.md, "Guidelines for Artifact Usage")

ARTIFACT_TYPE: Final = "application/vnd.sampan.volume.backup.v1"
CONFIG_TYPE: Final = "application/vnd.sampan.volume.manifest.v1+ndjson.zstd"
LAYER_TYPE: Final = "application/vnd.sampan.volume.data.v1.tar+zstd"
PART_NOTE: Final = "sampan.volume.backup.part"
"""Annotation of a layer: the number of the backup in the chain that it is a part of, the oldest is 0."""
ID_NOTE: Final = "sampan.volume.backup.id"
BASE_NOTE: Final = "sampan.volume.backup.base"
VOLUME_NOTE: Final = "sampan.volume.name"
CREATED_NOTE: Final = "org.opencontainers.image.created"
