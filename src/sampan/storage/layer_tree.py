"""A layer's tree in memory: what unpacking a tar into an empty directory would give, decided without a disk.

The rules are those of unpacking below a chroot: a later member replaces an earlier one of the same name,
missing parents are made (0755, root), symlinks among the parents are followed inside the root. A path that
climbs above the root is refused, lexically or through a symlink.
"""

from __future__ import annotations

import os
import stat

from sampan.errors import Invalid
from sampan.storage import overlay_marks as marks
from sampan.storage import tar_format as tf
from sampan.storage.tar_format import Member

_MAX_SYMLINKS = 40
_NAME_MAX = 255
_LINK_MAX = 4095  # PATH_MAX without its NUL

_FORMAT = {
    tf.REGULAR: stat.S_IFREG,
    tf.SYMLINK: stat.S_IFLNK,
    tf.DIRECTORY: stat.S_IFDIR,
    tf.CHAR_DEVICE: stat.S_IFCHR,
    tf.BLOCK_DEVICE: stat.S_IFBLK,
    tf.FIFO: stat.S_IFIFO,
}


class Node:
    """An inode in the making. `children` of a directory; `link` of a symlink; `data` is content kept in memory."""

    __slots__ = (
        "children", "data", "gid", "link", "mode", "mtime", "mtime_nsec", "nid", "nlink",
        "parent", "rdev", "size", "start", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, mode: int, uid: int, gid: int, mtime: int, mtime_nsec: int) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_nsec = mtime_nsec
        self.size = 0
        self.nlink = 1
        self.rdev = 0
        self.link = b""
        self.xattrs: dict[bytes, bytes] | None = None
        self.children: dict[bytes, Node] | None = None
        self.parent: Node | None = None
        self.data = b""  # content kept with the inode
        self.start = -1  # first block of content
        self.nid = 0

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


def display(name: bytes) -> str:
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


class LayerTree:
    """Add members in the archive's order; `root` is the result."""

    def __init__(self, *, max_nodes: int = 4_000_000) -> None:
        self.root = Node(stat.S_IFDIR | 0o755, 0, 0, 0, 0)
        self.entries = 0  # names in the tree that were ever made; replaced ones count too
        self._max_nodes = max_nodes
        self.root.children = {}
        # Directories by the parent part of member names, as written there; dropped when one may have moved.
        self._known: dict[bytes, Node] = {b"": self.root}
        self._whiteouts: set[Node] = set()

    def add(self, member: Member) -> Node | None:
        """The inode that the member's content belongs to; None when it has none of its own.

        Raises `Invalid`: a path out of the layer, a hard link to nothing, an unknown type.
        """
        head, _, name = member.name.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            return self._add_unclean(member)
        if len(name) > _NAME_MAX:
            raise Invalid(f"tar entry {display(member.name)!r}: file name too long")
        parent = self._known.get(head)
        if parent is None:
            parent = self._known[head] = self._directory(head, member.name)
        if name.startswith(marks.PREFIX):
            self._whiteout(parent, name, member)
            return None
        return self._put(parent, name, member)

    def _add_unclean(self, member: Member) -> Node | None:
        """A name that ends in `.` or `..`, or is nothing but slashes: some directory that exists by another name."""
        parts = clean(member.name)
        if parts:
            parent = self._directory(b"/".join(parts[:-1]), member.name)
            return self._put(parent, parts[-1], member)
        if member.type != tf.DIRECTORY:
            raise Invalid(f"tar entry {display(member.name)!r}: the root can only be a directory")
        _describe(self.root, member)
        return None

    def _put(self, parent: Node, name: bytes, member: Member) -> Node | None:
        children = parent.children
        if children is None:
            raise Invalid(f"tar entry {display(member.name)!r}: not a directory")
        old = children.get(name)
        if member.type == tf.HARD_LINK:
            self._hard_link(children, old, name, member)
            return None
        if old is not None:
            if old.children is not None and member.type == tf.DIRECTORY:
                _describe(old, member)
                return None
            self._drop(old)
        node = _node(member)
        self._count()
        if node.children is not None:
            node.parent = parent
            if old is not None and old in self._whiteouts:
                node.xattrs = {**(node.xattrs or {}), marks.OPAQUE_XATTR: marks.OPAQUE_VALUE}
        children[name] = node
        return node

    def _hard_link(self, children: dict[bytes, Node], old: Node | None, name: bytes, member: Member) -> None:
        """link(2): the target's last part is not followed, the target is no directory."""
        parts = clean(member.link)
        where = f"hard link {display(member.name)!r} to {display(member.link)!r}"
        parent = self._find(parts[:-1]) if parts else None
        target = (
            parent.children.get(parts[-1]) if parent is not None and parent.children is not None else None
        )
        if target is None or target in self._whiteouts:
            raise Invalid(f"{where}: its target is not in the archive before it")
        if target.children is not None:
            raise Invalid(f"{where}: its target is a directory")
        if target is old:
            return
        if old is not None:
            self._drop(old)
        self._count()
        target.nlink += 1
        children[name] = target

    def _whiteout(self, parent: Node, name: bytes, member: Member) -> None:
        """Whiteouts apply to the layers below only: what this layer itself has under the name stays."""
        if parent.children is None:
            raise Invalid(f"tar entry {display(member.name)!r}: not a directory")
        if name == marks.OPAQUE:
            parent.xattrs = {**(parent.xattrs or {}), marks.OPAQUE_XATTR: marks.OPAQUE_VALUE}
            return
        try:
            hidden = marks.hidden_name(name)
        except ValueError:
            raise Invalid(f"tar entry {display(member.name)!r}: a whiteout of nothing") from None
        if hidden is None:
            return
        existing = parent.children.get(hidden)
        if existing is None:
            self._count()
            node = Node(stat.S_IFCHR, 0, 0, member.mtime, 0)
            self._whiteouts.add(node)
            parent.children[hidden] = node
        elif existing.children is not None:
            existing.xattrs = {**(existing.xattrs or {}), marks.OPAQUE_XATTR: marks.OPAQUE_VALUE}

    def _drop(self, node: Node) -> None:
        """A replaced entry: hard links elsewhere keep the inode; directories may be named in the cache."""
        node.nlink -= 1
        if node.children is not None or stat.S_ISLNK(node.mode):
            self._known = {b"": self.root}
        if node.children is not None:
            pending = [node]
            while pending:
                for child in (pending.pop().children or {}).values():
                    if child.children is not None:
                        pending.append(child)
                    else:
                        child.nlink -= 1

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._max_nodes:  # one long name can imply thousands of directories
            raise Invalid(f"the layer has more than {self._max_nodes} entries")

    def _directory(self, path: bytes, name: bytes) -> Node:
        """The directory at `path`, made where it is missing."""
        parts = clean(path, name)
        if any(len(part) > _NAME_MAX for part in parts):
            raise Invalid(f"tar entry {display(name)!r}: file name too long")
        found = self._walk(parts, create=True, name=name)
        if found is None or found.children is None:
            raise Invalid(f"tar entry {display(name)!r}: a parent is not a directory")
        return found

    def _find(self, parts: list[bytes]) -> Node | None:
        return self._walk(parts, create=False, name=b"/".join(parts))

    def _walk(self, parts: list[bytes], *, create: bool, name: bytes) -> Node | None:
        pending = parts[::-1]
        node, followed = self.root, 0
        while pending:
            part = pending.pop()
            if part == b"..":  # only ever from a symlink's target
                if node.parent is None:
                    raise Invalid(f"tar entry {display(name)!r}: leaves the layer through a symbolic link")
                node = node.parent
                continue
            if node.children is None:
                return None
            child = node.children.get(part)
            if child is None or child in self._whiteouts:
                if not create:
                    return None
                opaque = child is not None
                child = self._implied(node, part, opaque=opaque)
            elif child.link:
                followed += 1
                if followed > _MAX_SYMLINKS:
                    raise Invalid(f"tar entry {display(name)!r}: too many levels of symbolic links")
                if child.link.startswith(b"/"):
                    node = self.root
                pending.extend(
                    piece for piece in reversed(child.link.split(b"/")) if piece not in (b"", b".")
                )
                continue
            node = child
        return node

    def _implied(self, parent: Node, name: bytes, *, opaque: bool) -> Node:
        """A parent that the archive doesn't name."""
        self._count()
        node = Node(stat.S_IFDIR | 0o755, 0, 0, 0, 0)
        node.children = {}
        node.parent = parent
        if opaque:
            node.xattrs = {marks.OPAQUE_XATTR: marks.OPAQUE_VALUE}
        if parent.children is not None:
            parent.children[name] = node
        return node


def clean(path: bytes, name: bytes = b"") -> list[bytes]:
    """The parts of an archive's path, relative to the root. Raises `Invalid` when it climbs above it."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise Invalid(f"tar entry {display(name or path)!r}: is outside of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def _node(member: Member) -> Node:
    kind = _FORMAT.get(member.type)
    if kind is None:
        raise Invalid(f"tar entry {display(member.name)!r}: unhandled tar header type {member.type[0]}")
    node = Node(kind | member.mode, member.uid, member.gid, member.mtime, member.mtime_nsec)
    if kind == stat.S_IFREG:
        node.size = member.size
    elif kind == stat.S_IFDIR:
        node.children = {}
    elif kind == stat.S_IFLNK:
        if not 0 < len(member.link) <= _LINK_MAX:
            raise Invalid(f"tar entry {display(member.name)!r}: a symbolic link of an impossible length")
        node.mode = kind | 0o777
        node.link = member.link
        node.size = len(member.link)
    elif kind != stat.S_IFIFO:
        node.rdev = (member.minor & 0xFF) | (member.major << 8) | ((member.minor & ~0xFF) << 12)
    if member.xattrs:
        node.xattrs = _own_xattrs(member.xattrs)
    return node


def _describe(node: Node, member: Member) -> None:
    """A directory that is there already takes over the member's attributes; its opaque mark stays."""
    node.mode = stat.S_IFDIR | member.mode
    node.uid, node.gid = member.uid, member.gid
    node.mtime, node.mtime_nsec = member.mtime, member.mtime_nsec
    opaque = node.xattrs is not None and marks.OPAQUE_XATTR in node.xattrs
    node.xattrs = _own_xattrs(member.xattrs or {})
    if opaque:
        node.xattrs[marks.OPAQUE_XATTR] = marks.OPAQUE_VALUE


def _own_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in xattrs.items() if not marks.is_overlay_xattr(name)}
