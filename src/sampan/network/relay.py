"""The relay: published ports as listening sockets of the host, where NAT will not do. A process of its own.

    python -m sampan.network.relay <control descriptor> <door descriptor>

It is given bound sockets over the control socket (SOCK_SEQPACKET, one text message each, SCM_RIGHTS):
    "add <id> tcp|udp|sctp <address> <port>" with the socket;  "remove <id>", answered "removed <id>";
"release <id>", the same but that connections go on;  "stop".
TCP moves by splice(2) through a pipe for each direction; UDP has a connected socket for each client.
When the daemon dies it goes on serving. The next daemon says "retire" at the door, a listening abstract socket with
the name of `relay_door.retire_address` that was made before this process: the listening sockets are closed,
"retired" is answered, and the process ends with its last connection. Few imports: its memory counts once per engine.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import sys
from collections.abc import Sequence

from sampan.network.relay_datagram import UdpPort
from sampan.network.relay_door import same_mounts
from sampan.network.relay_loop import Loop
from sampan.network.relay_port import Port
from sampan.network.relay_stream import StreamPort


class Relay:
    def __init__(self, control: socket.socket, door: socket.socket) -> None:
        self._loop = Loop()
        self._ports: dict[str, Port] = {}
        self._leaving: list[Port] = []
        self._control = control
        self._running = True
        self._orphan = False
        self._retired = False
        control.setblocking(False)
        self._loop.add(control.fileno(), select.EPOLLIN, self._on_control)
        self._door = door
        door.settimeout(1)
        self._loop.add(self._door.fileno(), select.EPOLLIN, self._on_door)

    def run(self) -> None:
        while self._running:
            self._loop.turn()
            self._leaving = [port for port in self._leaving if port.busy]
            if (self._retired or (self._orphan and not self._ports)) and not self._leaving:
                return

    def _on_control(self, _events: int) -> None:
        self._take_message()

    def _take_message(self) -> bool:
        """Obey one message of the daemon; False when there is none."""
        if self._orphan:
            return False
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4)
        except BlockingIOError:
            return False
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._loop.remove(self._control.fileno())
            self._control.close()
            self._orphan = True
            return False
        words = message.decode("ascii", "replace").split()
        if words[0] == "add" and len(words) == 5 and len(descriptors) == 1:
            self._add(words, socket.socket(fileno=descriptors[0]))
        elif words[0] in ("remove", "release") and len(words) == 2:
            port = self._ports.pop(words[1], None)
            if port is not None:
                port.close(sessions=words[0] == "remove")
                self._leaving.append(port)
            self._answer(f"removed {words[1]}")
        elif words[0] == "stop":
            self._running = False
        return True

    def _answer(self, text: str) -> None:
        try:
            self._control.send(text.encode())
        except OSError:  # the daemon is gone, as the next read will say
            return

    def _add(self, words: list[str], bound: socket.socket) -> None:
        _, key, protocol, address, number = words
        target = (address, int(number))
        self._ports[key] = (UdpPort if protocol == "udp" else StreamPort)(self._loop, bound, target)

    def _on_door(self, _events: int) -> None:
        """Only the same user outside of containers may say it: abstract sockets have no permissions, and a container
        with the host's network finds them too."""
        try:
            caller, _ = self._door.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(1)
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            process, user, _ = struct.unpack("=iII", credentials)
            if user != os.geteuid() or not same_mounts(process):
                return
            try:
                if caller.recv(64) != b"retire":
                    return
                self._retire()
                caller.send(b"retired")
            except OSError:
                return  # the caller went away

    def _retire(self) -> None:
        while self._take_message():  # what a daemon that is gone has still sent holds sockets too
            pass
        self._loop.remove(self._door.fileno())
        self._door.close()
        for port in self._ports.values():
            port.close(sessions=False)
            self._leaving.append(port)
        self._ports.clear()
        self._retired = True


def main(arguments: Sequence[str]) -> int:
    control, door = (socket.socket(fileno=int(number)) for number in arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Relay(control, door).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
