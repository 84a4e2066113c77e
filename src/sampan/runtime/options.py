"""Mount options of the runtime-spec (config.md, "Linux mount options"): strings to flags. Pure."""

from __future__ import annotations

import msgspec

from sampan.errors import Invalid
from sampan.linux import mount as m
from sampan.runtime.steps import Propagation

_ATTRIBUTES = {
    # option: (flags to set, flags to clear)
    "ro": (m.ATTR_RDONLY, 0),
    "rw": (0, m.ATTR_RDONLY),
    "nosuid": (m.ATTR_NOSUID, 0),
    "suid": (0, m.ATTR_NOSUID),
    "nodev": (m.ATTR_NODEV, 0),
    "dev": (0, m.ATTR_NODEV),
    "noexec": (m.ATTR_NOEXEC, 0),
    "exec": (0, m.ATTR_NOEXEC),
    "noatime": (m.ATTR_NOATIME, m.ATTR_ATIME),
    "strictatime": (m.ATTR_STRICTATIME, m.ATTR_ATIME),
    "relatime": (0, m.ATTR_ATIME),
    "atime": (0, m.ATTR_ATIME),
    "norelatime": (m.ATTR_STRICTATIME, m.ATTR_ATIME),
    "nostrictatime": (0, m.ATTR_ATIME),
    "nodiratime": (m.ATTR_NODIRATIME, 0),
    "diratime": (0, m.ATTR_NODIRATIME),
    "nosymfollow": (m.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.ATTR_NOSYMFOLLOW),
}

_PROPAGATIONS = {
    "private": Propagation(m.MS_PRIVATE, False),
    "slave": Propagation(m.MS_SLAVE, False),
    "shared": Propagation(m.MS_SHARED, False),
    "unbindable": Propagation(m.MS_UNBINDABLE, False),
    "rprivate": Propagation(m.MS_PRIVATE, True),
    "rslave": Propagation(m.MS_SLAVE, True),
    "rshared": Propagation(m.MS_SHARED, True),
    "runbindable": Propagation(m.MS_UNBINDABLE, True),
}

_IDMAP = {"idmap": "mount", "ridmap": "tree"}
WITHIN_OPTION = "x-sampan-within"
"""`x-sampan-within=DIRECTORY`, of a bind mount: symbolic links of its source below that directory stay in it."""
HOST_OPTION = "x-sampan-host"
"""Of a bind mount: its source is looked up in the host's mount namespace, where the engine is."""
GIVEN_OPTION = "x-sampan-given"
"""`x-sampan-given=N`, of a bind mount: its source is the Nth detached mount that came with the request."""
_NOTHING = frozenset(
    {"defaults", "async", "loud", "nomand", "nolazytime", "noiversion", "iversion", "_netdev", "auto", "user"}
)

OLD_FLAGS = {
    m.ATTR_RDONLY: m.MS_RDONLY,
    m.ATTR_NOSUID: m.MS_NOSUID,
    m.ATTR_NODEV: m.MS_NODEV,
    m.ATTR_NOEXEC: m.MS_NOEXEC,
    m.ATTR_NOATIME: m.MS_NOATIME,
    m.ATTR_STRICTATIME: m.MS_STRICTATIME,
    m.ATTR_NODIRATIME: m.MS_NODIRATIME,
}


class MountOptions(msgspec.Struct, frozen=True):
    """`attributes` and `clear` are ATTR_* flags of the mount, the `_below` ones (rro, …) for the whole tree.

    `data`: the file system's own options, in order; `recursive_bind` and `bind` as said. `idmap`: "", "mount" or
    "tree".
    """

    attributes: int = 0
    clear: int = 0
    attributes_below: int = 0
    clear_below: int = 0
    propagation: tuple[Propagation, ...] = ()
    data: tuple[tuple[str, str | None], ...] = ()
    bind: bool = False
    recursive_bind: bool = False
    remount: bool = False
    copy_up: bool = False
    idmap: str = ""


def parse_options(options: tuple[str, ...]) -> MountOptions:
    """Raises `Invalid` for an option that can't be honoured."""
    attributes = clear = attributes_below = clear_below = 0
    propagation: list[Propagation] = []
    data: list[tuple[str, str | None]] = []
    for option in options:
        if option in _ATTRIBUTES:
            add, drop = _ATTRIBUTES[option]
            attributes = attributes & ~drop | add
            clear = clear & ~add | drop
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES and option not in ("relatime",):
            add, drop = _ATTRIBUTES[option[1:]]
            attributes_below = attributes_below & ~drop | add
            clear_below = clear_below & ~add | drop
        elif option in _PROPAGATIONS:
            propagation.append(_PROPAGATIONS[option])
        elif option in ("bind", "rbind", "remount", "tmpcopyup", *_IDMAP) or option in _NOTHING:
            continue
        else:
            key, equals, value = option.partition("=")
            data.append((key, value if equals else None))
    return MountOptions(
        attributes,
        clear,
        attributes_below,
        clear_below,
        tuple(propagation),
        tuple(data),
        bind="bind" in options or "rbind" in options,
        recursive_bind="rbind" in options,
        remount="remount" in options,
        copy_up="tmpcopyup" in options,
        idmap=next((_IDMAP[option] for option in reversed(options) if option in _IDMAP), ""),
    )


def superblock_options(options: MountOptions) -> tuple[tuple[str, str | None], ...]:
    """What goes to the file system: its own options, and "ro" since mount(2) makes both read-only."""
    if options.attributes & m.ATTR_RDONLY:
        return (("ro", None), *options.data)
    return options.data


def old_flags(options: MountOptions) -> int:
    """The MS_* flags of mount(2) that say the same as the attributes."""
    return sum(old for new, old in OLD_FLAGS.items() if options.attributes & new)


def old_data(options: MountOptions) -> str:
    return ",".join(key if value is None else f"{key}={value}" for key, value in options.data)


def root_propagation(name: str) -> Propagation:
    """`linux.rootfsPropagation`. Raises `Invalid`."""
    if name not in _PROPAGATIONS:
        raise Invalid(f"rootfsPropagation={name} is not supported")
    return _PROPAGATIONS[name]


def known_options() -> set[str]:
    """Every option that is not a file system's own."""
    recursive = {f"r{name}" for name in _ATTRIBUTES}
    return {
        *_ATTRIBUTES,
        *recursive,
        *_PROPAGATIONS,
        "bind",
        "rbind",
        "remount",
        "tmpcopyup",
        *_IDMAP,
        *_NOTHING,
    }
