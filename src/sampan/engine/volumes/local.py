"""The driver `local`: a volume is the directory `<name>/_data` below the engine's `volumes`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sampan.engine.model import VolumeRecord, new_id
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Invalid, Unsupported
from sampan.storage.removal import remove_tree

DATA = "_data"


class LocalDriver:
    """A name with a dot before it is no volume: something that is being made, or removed."""

    name = "local"
    scope = "local"

    def __init__(self, root: Path) -> None:
        """`root` is the `volumes` directory (made when missing)."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o701)

    def sweep(self, names: Iterable[str]) -> list[str]:
        """What was being made or removed when the engine died goes. Returns those of `names` that are gone with it.

        A volume is removed by renaming its directory to a name with a dot before the record goes; a plain
        directory without a record is left alone, because it may hold data.
        """
        for entry in self._root.iterdir():
            if entry.name.startswith("."):
                remove_tree(entry)
        return [name for name in names if not (self._root / name).is_dir()]

    def check(self, name: str, options: Mapping[str, str]) -> None:
        for option in options:
            if option not in ("type", "device", "o"):
                raise Invalid(f'create {name}: invalid option: "{option}"')
        if options and ("device" not in options or "type" not in options):
            missing = "device" if "device" not in options else "type"
            raise Invalid(f'create {name}: missing required option: "{missing}"')
        if options:
            # Data would go somewhere else than the person thinks.
            raise Unsupported(
                f"create {name}: volumes that are mounts (options type, device, o) are not supported yet",
                hint="mount the device on the host and bind its directory with -v",
            )

    def create(self, record: VolumeRecord) -> None:
        self._make(self._root / record.name)

    @staticmethod
    def _make(directory: Path) -> None:
        (directory / DATA).mkdir(parents=True, exist_ok=True, mode=0o755)
        os.chmod(directory, 0o701)

    def remove(self, record: VolumeRecord) -> Callable[[], None]:
        """Out of sight by one rename; the rest is the slow part, which a crash leaves to `sweep`."""
        doomed = self._hidden(record.name)
        try:
            os.rename(self._root / record.name, doomed)
        except FileNotFoundError:
            return lambda: None
        return lambda: remove_tree(doomed)

    def stage(self, record: VolumeRecord) -> Path:
        """A directory for the data of a volume that is to appear complete; see `publish`, `discard`."""
        staged = self._hidden(record.name)
        self._make(staged)
        return staged

    def publish(self, staged: Path, record: VolumeRecord) -> None:
        """What was staged is the volume's directory now, by one rename. There is none of this volume yet."""
        os.rename(staged, self._root / record.name)

    def discard(self, staged: Path) -> None:
        remove_tree(staged)

    def _hidden(self, name: str) -> Path:
        # Not the name itself: with it and more it could be longer than a file's name can be.
        return self._root / f".{name[:200]}.{new_id()[:8]}"

    def needs_mount(self, record: VolumeRecord) -> bool:
        return False

    def mount(self, record: VolumeRecord, user: str) -> Path:
        return self.path(record)

    def unmount(self, record: VolumeRecord, user: str, *, last: bool) -> None:
        return None

    def path(self, record: VolumeRecord) -> Path:
        return self._root / record.name / DATA

    def size(self, record: VolumeRecord) -> int:
        return directory_size(self.path(record))
