"""Snapshots of a volume: copies of it on the same disk, below its own directory.

    volumes/<name>/_snapshots/<tag>/{data/, snapshot.json, manifest.zst}

One is made beside and appears by a rename; the manifest is made when a backup first wants it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sampan.engine.model import epoch_ns
from sampan.engine.mounts import check_volume_name
from sampan.engine.volumes.local import SNAPSHOTS
from sampan.errors import Conflict, Internal, Invalid, NotFound
from sampan.linux.durability import sync_all, sync_directory
from sampan.storage.removal import remove_tree

log = logging.getLogger(__name__)

TREE: Final = "data"
MANIFEST: Final = "manifest.zst"
_RECORD: Final = "snapshot.json"
_TAG: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Snapshot(msgspec.Struct, frozen=True):
    """automatic: it has no name given by a person, and a later `--keep` may remove it. changed: files that changed
    while it was made. size: bytes of regular files."""

    volume: str
    tag: str
    created: str
    automatic: bool = False
    users: str = ""
    changed: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.volume}@{self.tag}"


@dataclass(frozen=True, slots=True)
class Source:
    """A volume, or one of its snapshots: `NAME[@TAG]`."""

    volume: str
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.volume}@{self.tag}" if self.tag else self.volume


def parse_source(text: str) -> Source:
    volume, at, tag = text.partition("@")
    if at:
        check_tag(tag)
    return Source(volume, tag)


def check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise Invalid(
            f"invalid name of a snapshot: {tag!r}", hint="letters, digits, '_', '.' and '-' are allowed"
        )


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays of the automatic snapshots: the newest `count`, or those younger than `seconds`."""

    count: int = 0
    seconds: int = 0


def parse_keep(text: str) -> Keep:
    """ "5", "12h", "7d", "2w". Raises `Invalid`."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw]?)", text)
    if found is None:
        raise Invalid(f"invalid value {text!r} for keep: expected a count, or an age such as 12h, 7d or 2w")
    number = int(found[1])
    return Keep(seconds=number * _UNITS[found[2]]) if found[2] else Keep(count=number)


def expired(snapshots: Sequence[Snapshot], keep: Keep, now_ns: int) -> list[Snapshot]:
    """Those that go. Pure. The newest automatic one always stays; those with a name given by a person do too."""
    automatic = sorted((one for one in snapshots if one.automatic), key=lambda one: epoch_ns(one.created))
    older = automatic[:-1]
    if keep.count:
        return automatic[: -keep.count]
    return [one for one in older if epoch_ns(one.created) < now_ns - keep.seconds * 1_000_000_000]


class SnapshotStore:
    """Blocking; what is done to one volume at a time is the caller's business."""

    def __init__(self, root: Path) -> None:
        """`root` is the engine's `volumes` directory."""
        self._root = root

    def directory(self, snapshot: Source) -> Path:
        return self._root / snapshot.volume / SNAPSHOTS / snapshot.tag

    def tree(self, snapshot: Source) -> Path:
        """The directory with its data. Raises `NotFound`."""
        self.get(snapshot)
        return self.directory(snapshot) / TREE

    def get(self, snapshot: Source) -> Snapshot:
        """Raises `NotFound`, `Invalid`: the names become paths; `Internal` for one whose description is damaged."""
        check_volume_name(snapshot.volume)
        check_tag(snapshot.tag)
        try:
            body = (self.directory(snapshot) / _RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"No such snapshot: {snapshot}") from None
        try:
            record = msgspec.json.decode(body, type=Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Internal(
                f"snapshot {snapshot} is damaged: {_RECORD}: {error}",
                hint=f"remove it: sampan volume snapshot rm {snapshot}",
            ) from error
        # The volume may have had another name.
        return msgspec.structs.replace(record, volume=snapshot.volume, tag=snapshot.tag)

    def list(self, volume: str) -> Sequence[Snapshot]:
        """The oldest first. One that goes meanwhile, or is damaged, does not keep anybody from the others."""
        try:
            tags = os.listdir(self._root / volume / SNAPSHOTS)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for tag in tags:
            try:
                found.append(self.get(Source(volume, tag)))
            except NotFound:
                continue
            except (Internal, Invalid) as error:
                log.warning("%s", error)
        return sorted(found, key=lambda one: (epoch_ns(one.created), one.tag))

    def begin(self) -> Path:
        """A directory to make one in; its `data` is there, empty. The next start of an engine sweeps it up."""
        staged = self._root / f".snapshot.{secrets.token_hex(8)}"
        staged.mkdir(mode=0o700)
        (staged / TREE).mkdir(mode=0o700)
        return staged

    def publish(self, staged: Path, snapshot: Snapshot) -> None:
        """It is there from now on, on the disk. Raises `Conflict` when there is one of this name."""
        (staged / _RECORD).write_bytes(msgspec.json.encode(snapshot))
        sync_all(staged)
        place = self.directory(Source(snapshot.volume, snapshot.tag))
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if place.exists():
            raise Conflict(f"snapshot {snapshot.name} exists already")
        os.rename(staged, place)
        sync_directory(place.parent)

    def free_tag(self, volume: str, created: str) -> str:
        """A name made of the time: 20261125-143000."""
        base = created[:19].replace("-", "").replace(":", "").replace("T", "-")
        tag, number = base, 2
        while self.directory(Source(volume, tag)).exists():
            tag, number = f"{base}-{number}", number + 1
        return tag

    def remove(self, snapshot: Source) -> None:
        """Out of sight by one rename. Raises `NotFound`."""
        with contextlib.suppress(Internal):  # a damaged one can be removed
            self.get(snapshot)
        doomed = self._root / f".snapshot.{secrets.token_hex(8)}"
        os.rename(self.directory(snapshot), doomed)
        remove_tree(doomed)
