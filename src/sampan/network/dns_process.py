"""The name server of all containers of an engine: a process of its own.

    python -m sampan.network.dns_process <control descriptor> <door descriptor> <run directory>

The directory is there to be seen: it tells whose process this is.

Not in the daemon, whose work and threads would keep queries waiting; and it goes on answering when the daemon dies.
The next daemon takes the containers' sockets over at the door, a listening socket in the engine's run directory; no
query is lost, those under way are still answered here. Without a daemon it drops containers that have ended, and ends
with the last one. What is said over the control socket: `dns_control.py`.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections.abc import Sequence

from sampan.network.dns_control import (
    TAKE_OVER,
    Close,
    Configure,
    HandedOver,
    Look,
    Message,
    Open,
    Stop,
    Sync,
    Tell,
    receive,
    send,
)
from sampan.network.dns_forward import TIMEOUT
from sampan.network.dns_loop import READ, Loop
from sampan.network.dns_records import Directory
from sampan.network.dns_served import Served, Surroundings, View
from sampan.network.host_resolvers import HostResolvers
from sampan.network.model import Outlook

_SWEEP = 10.0  # seconds between looks for ended containers, without a daemon
_CALLER = 1.0  # seconds for who comes to the door


class Process:
    def __init__(self, control: socket.socket, door: socket.socket) -> None:
        self._loop = Loop()
        self._control, self._door = control, door
        self._directory = Directory()
        self._views: dict[Outlook, View] = {}
        self._served: dict[int, Served] = {}
        self._surroundings = Surroundings(self._loop, HostResolvers().current, TIMEOUT)
        self._running = True
        self._orphan = False
        self._leaving = False
        control.setblocking(False)
        self._loop.add(control.fileno(), READ, self._on_control)
        self._loop.add(door.fileno(), READ, self._on_door)

    def run(self) -> None:
        while self._running:
            self._loop.turn()
            if self._leaving and not any(served.busy for served in self._served.values()):
                return

    # The daemon

    def _on_control(self, _events: int) -> None:
        while self._running and self._take_message():
            pass

    def _take_message(self) -> bool:
        """Obey one message of the daemon; False when there is none."""
        if self._orphan:
            return False
        try:
            received = receive(self._control)
        except BlockingIOError:
            return False
        except OSError:
            received = None
        if received is None:
            self._loop.remove(self._control.fileno())
            self._control.close()
            self._orphan = True
            self._sweep()
            return False
        self._obey(*received)
        return True

    def _obey(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Tell(network, container, member):
                self._directory.tell(network, container, member)
                for outlook, view in self._views.items():
                    if network in outlook.networks:
                        view.forget()
            case Open(key, namespace, outlook):
                datagrams, stream = (socket.socket(fileno=descriptor) for descriptor in descriptors)
                self._served[key] = Served(
                    self._surroundings, namespace, datagrams, stream, self._view(outlook)
                )
            case Look(key, outlook):
                if key in self._served:
                    self._served[key].view = self._view(outlook)
                    self._drop_views()
            case Close(key):
                served = self._served.pop(key, None)
                if served is not None:
                    served.close()
                    self._drop_views()
            case Configure(resolvers, timeout):
                ask_whom = HostResolvers().current if resolvers is None else lambda: resolvers
                self._surroundings.resolvers, self._surroundings.timeout = ask_whom, timeout
            case Sync():
                self._answer(message)
            case Stop():
                self._running = False

    def _view(self, outlook: Outlook) -> View:
        view = self._views.get(outlook)
        if view is None:
            view = self._views[outlook] = View(outlook, self._directory)
        return view

    def _drop_views(self) -> None:
        used = {id(served.view) for served in self._served.values()}
        self._views = {outlook: view for outlook, view in self._views.items() if id(view) in used}

    def _answer(self, message: Message) -> None:
        try:
            send(self._control, message)
        except OSError:  # the daemon is gone, as the next read will say
            return

    # Without a daemon

    def _sweep(self) -> None:
        """A container that has ended has no process in its namespace any more."""
        alive = namespaces_with_processes()
        for key, served in list(self._served.items()):
            if served.namespace not in alive:
                served.close()
                del self._served[key]
        self._running = self._running and bool(self._served)
        self._loop.later(_SWEEP, self._sweep)

    def _on_door(self, _events: int) -> None:
        """Who may connect is decided by the permissions of the engine's run directory."""
        try:
            caller, _ = self._door.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(_CALLER)
            while self._take_message():  # what a daemon that is gone has still sent holds sockets too
                pass
            try:
                if self._orphan and caller.recv(64) == TAKE_OVER:
                    self._hand_over(caller)
            except OSError:
                return  # the caller went away

    def _hand_over(self, caller: socket.socket) -> None:
        for served in self._served.values():
            served.leave()
        self._loop.remove(self._door.fileno())
        self._door.close()
        self._leaving = True
        for served in self._served.values():
            descriptors = [one.fileno() for one in served.sockets]
            send(caller, HandedOver(served.namespace), descriptors)


def namespaces_with_processes() -> set[int]:
    """The inodes of all network namespaces that have a process."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.add(os.stat(f"/proc/{entry}/ns/net").st_ino)
            except OSError:
                continue  # it has just ended
    return found


def main(arguments: Sequence[str]) -> int:
    control, door = (socket.socket(fileno=int(number)) for number in arguments[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = Process(control, door)
    gc.collect()
    gc.freeze()  # what the library consists of need not be looked at again
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
