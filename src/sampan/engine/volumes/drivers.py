"""What a kind of volume can do: the interface of drivers, and finding one by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sampan.engine.model import VolumeRecord
from sampan.errors import NotFound, SampanError

if TYPE_CHECKING:
    from sampan.engine.volumes.plugins import PluginDirectories, PluginDriver

log = logging.getLogger(__name__)


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

    def __init__(self, plugin_dir: Path, *drivers: VolumeDriver) -> None:
        self._plugin_dir = plugin_dir
        self._drivers = {driver.name: driver for driver in drivers}
        self._plugins: dict[str, PluginDriver] = {}
        self._directories: PluginDirectories | None = None
        self._strangers: set[str] = set()
        """Plugins that have no volumes, by their own word: they are not asked at every list."""

    def load(self, name: str) -> VolumeDriver:
        """The driver of this name, `local` for none; blocking for a plugin, which is asked what it is the first time.

        Raises `NotFound` in Docker's words, `Unavailable`.
        """
        driver = self._drivers.get(name or "local") or self._plugins.get(name)
        if driver is None:
            plugin = self._plugin(name)
            plugin.activate()
            driver = self._plugins[name] = plugin
        return driver

    def of(self, record: VolumeRecord) -> VolumeDriver:
        """Also of a plugin that is not there just now: its calls raise."""
        return self._drivers.get(record.driver) or self.plugin(record)

    def names(self) -> list[str]:
        return [*self._drivers, *sorted(self._plugins)]

    def is_plugin(self, record: VolumeRecord) -> bool:
        return record.driver not in self._drivers

    def plugin(self, record: VolumeRecord) -> PluginDriver:
        known = self._plugins.get(record.driver)
        if known is None:
            known = self._plugins[record.driver] = self._plugin(record.driver)
        return known

    def plugins(self) -> list[PluginDriver]:
        """Blocking: those that can be found on this host and have volumes."""
        found = []
        for name in self._places().names():
            if name in self._strangers:
                continue
            try:
                self.load(name)
            except NotFound as error:
                log.info("volume plugin %s: %s", name, error)
                self._strangers.add(name)
                continue
            except (SampanError, OSError) as error:
                log.info("volume plugin %s: %s", name, error)
                continue
            if name in self._plugins:
                found.append(self._plugins[name])
        return found

    def _plugin(self, name: str) -> PluginDriver:
        from sampan.engine.volumes.plugins import Plugin, PluginDriver

        return PluginDriver(Plugin(name, self._places()))

    def _places(self) -> PluginDirectories:
        from sampan.engine.volumes.plugins import PluginDirectories

        if self._directories is None:
            self._directories = PluginDirectories((self._plugin_dir,))
        return self._directories
