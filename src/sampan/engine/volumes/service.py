"""The service of volumes: one object whose methods are the verbs; the parts do the work."""

from __future__ import annotations

from pathlib import Path

from sampan.engine.events import EventBus
from sampan.engine.record_store import Store
from sampan.engine.settings import PLUGIN_DIR
from sampan.engine.volumes.creation import Creation
from sampan.engine.volumes.listing import Listing
from sampan.engine.volumes.removal import Removal
from sampan.engine.volumes.renaming import Renaming
from sampan.engine.volumes.staging import Staging
from sampan.engine.volumes.store import VolumeStore
from sampan.engine.volumes.use import Use


class Volumes:
    """The only writer of their records; where data lies is a driver's business.

    Used from the event loop's thread; `path` from any. `use` is told which containers use a volume.
    """

    def __init__(self, root: Path, metadata: Store, events: EventBus, plugin_dir: Path = PLUGIN_DIR) -> None:
        """`root` is the `volumes` directory (made when missing), `plugin_dir` that of plugins' sockets."""
        store = VolumeStore(root, metadata, events, plugin_dir)
        self.use = use = Use(store)
        renaming = Renaming(store, use, metadata, events)
        renaming.finish_renames()
        store.sweep()
        removal = Removal(store, use, events)
        staging = Staging(store, use)
        listing = Listing(store, use)

        self.create = Creation(store, removal).create
        self.staged = staging.staged
        self.replaced = staging.replaced
        self.rename = renaming.rename

        self.holding = use.holding
        self.opened = use.opened
        self.needs_mount = use.needs_mount
        self.mount = use.mount
        self.unmount = use.unmount
        self.adopt = use.adopt
        self.settle = use.settle

        self.disown = store.disown

        self.get = store.get
        self.find = store.find
        self.path = store.path
        self.driver = store.driver
        self.driver_names = store.driver_names
        self.inspect = listing.inspect
        self.list = listing.list
        self.look = listing.look
        self.look_at_all = listing.look_at_all
        self.disk_usage = listing.disk_usage

        self.remove = removal.remove
        self.would_remove = removal.would_remove
        self.remove_unused = removal.remove_unused
        self.remove_forsaken = removal.remove_forsaken
        self.prune = removal.prune
