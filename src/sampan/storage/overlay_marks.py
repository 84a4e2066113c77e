"""The two languages for "deleted in this layer": OCI's `.wh.` files in a tar and overlayfs's marks in a tree.

OCI image-spec, layer.md, "Whiteouts"; Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = b".wh."
RESERVED: Final = b".wh..wh."  # names that are never whiteouts of a file
OPAQUE: Final = b".wh..wh..opq"
OPAQUE_XATTR: Final = b"trusted.overlay.opaque"
OPAQUE_VALUE: Final = b"y"
_OVERLAY: Final = (b"trusted.overlay.", b"user.overlay.")
# What an overlay mount made with redirect_dir or metacopy leaves: such a tree is not complete by itself.
INCOMPLETE: Final = frozenset({b"trusted.overlay.redirect", b"trusted.overlay.metacopy"})


def is_overlay_xattr(name: bytes) -> bool:
    """Attributes that steer overlayfs: an archive must never bring its own."""
    return name.startswith(_OVERLAY)


def hidden_name(name: bytes) -> bytes | None:
    """The name that a whiteout file `name` hides; None for reserved names. Raises `ValueError` for nonsense."""
    if name.startswith(RESERVED):
        return None
    hidden = name[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise ValueError("a whiteout of nothing")
    return hidden
