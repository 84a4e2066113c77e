"""Noticing that the OOM killer strikes in a group: one descriptor for any number of groups.

Version 1: an eventfd for each group's memory.oom_control (cgroup-v1/memory.rst, "OOM Control"). Version 2: inotify
on memory.events, which the kernel modifies with each event (cgroup-v2.rst, "memory.events").
"""

from __future__ import annotations

import os
import select
from typing import Protocol

from sampan.linux.cgroups import files
from sampan.linux.cgroups.host import CgroupHost
from sampan.linux.inotify import MODIFY, Inotify


class OomListener(Protocol):
    """`fileno` becomes readable when something happened."""

    def fileno(self) -> int: ...

    def add(self, path: str) -> None:
        """Listen to the group at `path`. Raises `OSError` or `SampanError` where the host has no such events."""

    def remove(self, path: str) -> None:
        """No error when it is not listened to, or is gone."""

    def touched_nowait(self) -> list[str]:
        """Groups that may have lost a process, or are going away: how many kills there were, the group tells.

        In version 1 the kernel tells of the shortage before it kills, and also groups below the one that is short.
        """

    def close(self) -> None: ...


def listen(host: CgroupHost) -> OomListener:
    """Raises `OSError` when the host has no descriptors left."""
    return _Version2(host.root) if host.layout == "v2" else _Version1(host.hierarchies.get("memory", ""))


class _Version1:
    def __init__(self, root: str) -> None:
        self._root = root
        self._epoll = select.epoll()
        self._paths: dict[int, str] = {}
        self._descriptors: dict[str, int] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, path: str) -> None:
        group = f"{self._root}/{path}"
        control = os.open(f"{group}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                files.write(f"{group}/cgroup.event_control", f"{event} {control}")
                self._epoll.register(event, select.EPOLLIN)
            except BaseException:
                os.close(event)
                raise
        finally:
            os.close(control)
        self._paths[event] = path
        self._descriptors[path] = event

    def remove(self, path: str) -> None:
        event = self._descriptors.pop(path, None)
        if event is not None:
            del self._paths[event]
            os.close(event)  # which also ends its registrations

    def touched_nowait(self) -> list[str]:
        found = []
        for event, _ in self._epoll.poll(0):
            try:
                os.eventfd_read(event)
            except BlockingIOError:
                continue
            found.append(self._paths[event])
        return found

    def close(self) -> None:
        for path in list(self._descriptors):
            self.remove(path)
        self._epoll.close()


class _Version2:
    def __init__(self, root: str) -> None:
        self._root = root
        self._inotify = Inotify()
        self._paths: dict[int, str] = {}

    def fileno(self) -> int:
        return self._inotify.fileno()

    def add(self, path: str) -> None:
        self._paths[self._inotify.add(f"{self._root}/{path}/memory.events", MODIFY)] = path

    def remove(self, path: str) -> None:
        # The kernel forgets the watch of a file that is gone; one that is still there only wakes us for nothing.
        self._paths = {watch: known for watch, known in self._paths.items() if known != path}

    def touched_nowait(self) -> list[str]:
        events = self._inotify.read_nowait()
        if any(event.watch < 0 for event in events):
            return list(self._paths.values())  # the queue was full: anything may have happened
        return list(dict.fromkeys(self._paths[event.watch] for event in events if event.watch in self._paths))

    def close(self) -> None:
        self._inotify.close()
