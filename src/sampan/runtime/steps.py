"""The steps of making a container: values that say what is to be done, for `plan` to list and `init` to perform.

Paths named `target` or `path` are inside the container's root; `source` is on the host's side.
"""

from __future__ import annotations

import re

import msgspec

from sampan.oci.spec import Hook, IdMapping

_SUBJECTS = ("path", "target", "name", "resource", "profile")
"""Fields that say what a step is about."""


class Step(msgspec.Struct, frozen=True):
    def describe(self) -> str:
        """A few words for people: the step's name and what it is about."""
        words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(self).__name__).lower()
        return " ".join((words, *(getattr(self, name) for name in _SUBJECTS if hasattr(self, name))))


class Propagation(msgspec.Struct, frozen=True):
    """One MS_* of private, slave, shared, unbindable; `recursive` for the mounts below too."""

    flag: int
    recursive: bool


class JoinNamespaces(Step, frozen=True):
    """Enter existing namespaces: (CLONE_NEW* flag, path) in the order in which they are to be joined."""

    namespaces: tuple[tuple[int, str], ...]


class NewNamespaces(Step, frozen=True):
    """CLONE_NEW* flags without those that the maker handles (pid, user)."""

    flags: int


class LoopbackUp(Step, frozen=True):
    pass


class SetMountPropagation(Step, frozen=True):
    """For every mount of the new mount namespace, so that nothing done here is seen outside."""

    flag: int


class Tree(msgspec.Struct, frozen=True):
    """A mount that is taken before the container has namespaces of its own.

    Taken from the runtime's mount namespace, the host's (`from_host`, so that mount events travel) or the root of the
    process `of_process`. `within`: see `BindMount`. `idmap`: "" no, "mount" the mount alone, "tree" those below it too;
    by these mappings, or when there are none by the container's user namespace. `given`: which of the detached mounts
    that came with the request it is; then it is taken from nowhere.
    """

    source: str
    recursive: bool = False
    from_host: bool = False
    of_process: int = 0
    idmap: str = ""
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    within: str = ""
    given: int = -1


class TakeTrees(Step, frozen=True):
    """Comes before `NewNamespaces`, and before a user namespace is entered: what follows names them by their index."""

    trees: tuple[Tree, ...]


class AttachRoot(Step, frozen=True):
    """Give the root file system a place in the mount namespace."""


class MountFilesystem(Step, frozen=True):
    """A new instance of a file system. `attributes`: ATTR_* flags. `copy_up`: a tmpfs gets what lies below it.

    `label`: SELinux's, given to its root directory when it is there.
    """

    kind: str
    source: str | None
    target: str
    options: tuple[tuple[str, str | None], ...] = ()
    attributes: int = 0
    propagation: tuple[Propagation, ...] = ()
    copy_up: bool = False
    label: str = ""


class BindMount(Step, frozen=True):
    """`add` and `clear` are ATTR_* flags for the mount, `add_below` and `clear_below` for all the mounts in it too.

    `tree`: which of the trees taken before it is; -1: it is cloned when its turn comes. `within`: a directory above the
    source; symbolic links below it stay below it.
    """

    source: str
    target: str
    recursive: bool = False
    add: int = 0
    clear: int = 0
    add_below: int = 0
    clear_below: int = 0
    propagation: tuple[Propagation, ...] = ()
    tree: int = -1
    within: str = ""


class Remount(Step, frozen=True):
    """Change a mount that is there: `flags` are MS_*, `data` the file system's own options."""

    target: str
    flags: int
    data: str


class MountCgroups(Step, frozen=True):
    """The control groups that the container may see."""

    target: str
    attributes: int
    own_namespace: bool


class MakeDevice(Step, frozen=True):
    """`kind`: "c", "b" or "p"."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0


class MakeLink(Step, frozen=True):
    """`only_with`: only where the host has this file."""

    path: str
    destination: str
    only_with: str = ""


class OpenConsole(Step, frozen=True):
    """Make the terminal from the container's own devpts and send its master to the maker."""

    height: int
    width: int


class BindConsole(Step, frozen=True):
    """Put the terminal on /dev/console."""


class MakerHooks(Step, frozen=True):
    """Let the maker run the hooks prestart and createRuntime."""


class ContainerHooks(Step, frozen=True):
    """Run hooks in the container's namespaces."""

    hooks: tuple[Hook, ...]
    status: str


class MakeWorkingDirectory(Step, frozen=True):
    """Make the directory, and its parents, when they are missing; as runc does."""

    path: str


class Pivot(Step, frozen=True):
    pass


class EnterPidNamespace(Step, frozen=True):
    """Of another container, whose processes see ours from then on: nothing of the host is left to be got through it."""


class SetHostname(Step, frozen=True):
    name: str


class SetDomainname(Step, frozen=True):
    name: str


class WriteSysctl(Step, frozen=True):
    name: str
    value: str


class ReadonlyPath(Step, frozen=True):
    path: str


class MaskPath(Step, frozen=True):
    path: str


class ReadonlyRoot(Step, frozen=True):
    pass


class RootPropagation(Step, frozen=True):
    propagation: Propagation


class SetRlimit(Step, frozen=True):
    """`resource` is RLIMIT_*; -1 is unlimited."""

    resource: str
    soft: int
    hard: int


class SetOomScoreAdjustment(Step, frozen=True):
    value: int


class SetApparmorProfile(Step, frozen=True):
    profile: str


class SetSelinuxLabel(Step, frozen=True):
    """Of the program that is executed, and of the keys that are made until then."""

    label: str


class SetIoPriority(Step, frozen=True):
    """`kind` and `priority` as of ioprio_set(2)."""

    kind: int
    priority: int


class SetPersonality(Step, frozen=True):
    """`persona`: as of personality(2)."""

    persona: int


class JoinKeyring(Step, frozen=True):
    name: str
