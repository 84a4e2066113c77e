"""Write trees as tar streams: build contexts and what `cp` sends.

Entries are sorted, so that the same tree gives the same stream.

Format: POSIX ustar, with a pax header (`x`) where a name, a link or a number does not fit.
"""

from __future__ import annotations

import os
import stat

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.oci.ignore import IgnoreRules as Rules

BLOCK = 512
END = bytes(2 * BLOCK)
_CHUNK = 1 << 18
_MAX_OCTAL_SIZE = 8**11 - 1
_MAX_OCTAL_ID = 8**7 - 1


def header(
    name: str,
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    size: int = 0,
    mtime: int = 0,
    uid: int = 0,
    gid: int = 0,
    link: str = "",
    device: tuple[int, int] = (0, 0),
    owner_names: tuple[bytes, bytes] = (b"", b""),
) -> bytes:
    """The header block (or blocks) of an entry; `kind` is ustar's type flag, a directory's name ends with "/"."""
    raw_name, raw_link = os.fsencode(name), os.fsencode(link)
    extended: list[tuple[bytes, bytes]] = []
    if len(raw_name) > 100:
        extended.append((b"path", raw_name))
    if len(raw_link) > 100:
        extended.append((b"linkpath", raw_link))
    for key, number, limit in (
        ("size", size, _MAX_OCTAL_SIZE),
        ("uid", uid, _MAX_OCTAL_ID),
        ("gid", gid, _MAX_OCTAL_ID),
    ):
        if number > limit:
            extended.append((key.encode(), str(number).encode()))
    block = _block(raw_name[:100], kind, mode, size, mtime, uid, gid, raw_link[:100], device, owner_names)
    if not extended:
        return block
    records = b"".join(_pax_record(key, value) for key, value in extended)
    before = _block(b"PaxHeaders.0/" + raw_name[-80:], b"x", 0o644, len(records), mtime, 0, 0, b"", (0, 0))
    return before + records + padding(len(records)) + block


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    size: int,
    mtime: int,
    uid: int,
    gid: int,
    link: bytes,
    device: tuple[int, int],
    owner_names: tuple[bytes, bytes] = (b"", b""),
) -> bytes:
    def octal(value: int, width: int) -> bytes:
        # A number that does not fit stands in the pax header.
        limit = 8 ** (width - 1)
        return b"%0*o\0" % (width - 1, value if 0 <= value < limit else 0)

    fields = [
        name.ljust(100, b"\0"),
        octal(mode, 8),
        octal(uid, 8),
        octal(gid, 8),
        octal(size, 12),
        octal(max(mtime, 0), 12),
        b" " * 8,
        kind,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
        *(name.ljust(32, b"\0") for name in owner_names),
        octal(device[0], 8),
        octal(device[1], 8),
        bytes(167),
    ]
    data = b"".join(fields)
    return data[:148] + b"%06o\0 " % sum(data) + data[156:]


def _pax_record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH key=value\\n", where LENGTH counts itself."""
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def file_entry(name: str, data: bytes, mode: int = 0o644) -> bytes:
    return header(name, size=len(data), mode=mode) + data + padding(len(data))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was written or replaced; ctime, as a modification time can be set back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class TreeWriter:
    """Entries of files and directories as pieces of a tar stream.

    `owner`: keep owners (`cp`); without it everything belongs to root (build contexts, as Docker's client does).
    """

    def __init__(self, *, owner: bool = False) -> None:
        self._owner = owner
        self._links: dict[tuple[int, int], str] = {}

    def entry(self, path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
        """One entry: a file with its content, a directory or link without. Sockets are left out."""
        mode = status.st_mode
        uid, gid = (status.st_uid, status.st_gid) if self._owner else (0, 0)
        mtime = int(status.st_mtime)
        # Docker's client sends the file type with the mode, and root's name; engines hash both for their build cache.
        names = (b"", b"") if self._owner else (b"root", b"root")

        def make(kind: bytes, size: int = 0, link: str = "", device: int = 0) -> bytes:
            return header(
                name + "/" if kind == b"5" else name,
                kind=kind,
                mode=mode,
                size=size,
                mtime=mtime,
                uid=uid,
                gid=gid,
                link=link,
                device=(os.major(device), os.minor(device)),
                owner_names=names,
            )

        if stat.S_ISDIR(mode):
            yield make(b"5")
        elif stat.S_ISLNK(mode):
            yield make(b"2", link=os.readlink(path))
        elif stat.S_ISREG(mode):
            key = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and key in self._links:
                yield make(b"1", link=self._links[key])
                return
            self._links[key] = name
            yield from self._content(path, make, status, exact=not self._owner)
        elif stat.S_ISFIFO(mode):
            yield make(b"6")
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            yield make(b"3" if stat.S_ISCHR(mode) else b"4", device=status.st_rdev)

    @staticmethod
    def _content(
        path: str, make: Callable[[bytes, int], bytes], status: os.stat_result, *, exact: bool
    ) -> Iterator[bytes]:
        """A file that shrinks or grows while it is read still gets exactly the size in its header.

        `exact`: it raises `Failure` instead, as for any other change since `status` was taken: what a build
        caches must be a content that the file once had.
        """
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            yield make(b"0", size)
            left = size
            while left:
                data = file.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))
                left -= len(data)
                yield data
            if exact and _identity(os.fstat(file.fileno())) != _identity(status):
                raise Failure(f"changed while it was read: {path}")
        yield padding(size)

    def tree(self, path: str, name: str, rules: Rules | None = None) -> Iterator[bytes]:
        """Everything below a directory, as NAME/...; `rules` say which relative paths to leave out.

        A directory that is left out is still looked into when something below it may be wanted.
        """
        # No recursion: nothing but the file system limits how deep a tree is.
        waiting = sorted(os.listdir(path), reverse=True)
        while waiting:
            inside = waiting.pop()
            full = os.path.join(path, inside)
            status = os.lstat(full)
            is_directory = stat.S_ISDIR(status.st_mode)
            shown = f"{name}/{inside}" if name else inside
            if rules is None or not rules.excludes(inside, is_directory):
                yield from self.entry(full, shown, status)
            elif is_directory and rules.prunes(inside):
                continue
            if is_directory:
                waiting += [f"{inside}/{item}" for item in sorted(os.listdir(full), reverse=True)]
