"""Layers that are complete but not on disk yet: a build does not wait for the disk after every step.

While a host runs, what was written is there, whatever becomes of this process. Only when the host itself goes down may
files be missing, empty or cut short. So such a layer's record names the host's boot; a thread brings everything to disk
in the background (one syncfs for all that wait) and takes the name out again. A record with another boot's name is of a
layer that can't be believed any more.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from sampan.linux.durability import sync_all

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Of the running host; "" where it has none to tell: then nothing may be put off."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


class Settling:
    """Thread-safe. Its thread runs while there is something to do."""

    def __init__(self, root: Path) -> None:
        """`root`: the directory whose file system is synchronised."""
        self._root = root
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], None]] = []
        self._running = False

    def add(self, settled: Callable[[], None]) -> None:
        """Call `settled` when all that was written until now is on disk."""
        with self._changed:
            self._waiting.append(settled)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="layers to disk", daemon=True).start()

    def wait(self) -> None:
        """Until nothing is waiting for the disk, or the disk has refused."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _work(self) -> None:
        while True:
            with self._changed:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._running = False
                    self._changed.notify_all()
                    return
            try:
                sync_all(self._root)
                while batch:
                    batch[0]()
                    del batch[0]
            except OSError as error:
                log.error(
                    "layers could not be brought to disk, which is tried again with the next: %s", error
                )
                with self._changed:
                    self._waiting = batch + self._waiting
                    self._running = False
                    self._changed.notify_all()
                    return


def replace_file(path: Path, data: bytes) -> None:
    """Old or new content, also after a crash of the host. Does nothing when the directory is gone."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
    except FileNotFoundError:
        return  # the layer was removed meanwhile
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
