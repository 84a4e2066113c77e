"""What a kind of volume can do: the interface of drivers, and finding one by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from sampan.engine.model import VolumeRecord
from sampan.errors import NotFound


class VolumeDriver(Protocol):
    """Where the data of volumes is. The methods block; for one volume one is called at a time.

    The life of a volume: `check`, `create`, then any number of `mount` … `unmount`, at last `remove`.
    """

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> str:
        """`local`, or `global` when its volumes are there on other hosts too."""
        ...

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Whether a volume with these options can be. Raises `Invalid`, `Unsupported`; nothing is made."""
        ...

    def create(self, record: VolumeRecord) -> None:
        """Make what holds its data; what is there already is taken over."""
        ...

    def remove(self, record: VolumeRecord) -> Callable[[], None]:
        """Take its data away, or out of sight: what remains to be done then is returned, for when the record is gone.
        A volume without data is fine. Raises `Conflict` when something holds it."""
        ...

    def needs_mount(self, record: VolumeRecord) -> bool:
        """Whether its data is at its path only between `mount` and `unmount`."""
        ...

    def mount(self, record: VolumeRecord, user: str) -> Path:
        """The directory with its data, which is there from now on. `user`: an id, once for each of them."""
        ...

    def unmount(self, record: VolumeRecord, user: str, *, last: bool) -> None:
        """`user` needs it no more; `last`: nor does anybody else."""
        ...

    def path(self, record: VolumeRecord) -> Path:
        """The directory with its data, where it is mounted or does not need to be."""
        ...

    def size(self, record: VolumeRecord) -> int:
        """Bytes of its files; -1 when that is not known."""
        ...


class Drivers:
    """The drivers of an engine, by name."""

    def __init__(self, *drivers: VolumeDriver) -> None:
        self._drivers = {driver.name: driver for driver in drivers}

    def find(self, name: str) -> VolumeDriver:
        """Raises `NotFound` in Docker's words."""
        driver = self._drivers.get(name or "local")
        if driver is None:
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')
        return driver

    def of(self, record: VolumeRecord) -> VolumeDriver:
        return self.find(record.driver)
