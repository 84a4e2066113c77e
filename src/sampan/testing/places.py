"""Network namespaces that a test works in: each with a thread that lives there, servers and clients.

Nothing here touches the machine's own network. What is made in a namespace vanishes with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sampan.linux import namespaces
from sampan.linux.netlink_namespace import in_new_namespace
from sampan.linux.netlink_route import RouteSocket, add_address, add_route, set_link

T = TypeVar("T")
DEADLINE = 20.0  # seconds for traffic that must arrive, however busy the machine is
REFUSAL = 0.4  # seconds after which traffic that is dropped counts as dropped


class Place:
    """A network namespace with a thread that lives in it; `run` works there."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of a namespace that is there, which the place then owns; a new one otherwise."""
        self.fd = in_new_namespace(lambda: None)[0] if descriptor is None else descriptor
        self._pool = ThreadPoolExecutor(1, initializer=lambda: namespaces.join(self.fd, namespaces.NEWNET))
        self._closing: list[Callable[[], object]] = []
        if descriptor is None:
            self.run(self._loopback)

    @classmethod
    def of_process(cls, pid: int) -> Place:
        """Where that process is: a container, say."""
        return cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def run(self, work: Callable[[], T]) -> T:
        return self._pool.submit(work).result()

    @staticmethod
    def _loopback() -> None:
        with RouteSocket() as route:
            route.perform([set_link(1, up=True)])

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        made = self.run(lambda: socket.socket(family, kind))
        made.settimeout(DEADLINE)
        self._closing.append(made.close)
        return made

    def configure(self, name: str, *addresses: str, gateway: str | None = None) -> None:
        def work() -> None:
            with RouteSocket() as route:
                link = route.link(name)
                assert link is not None
                messages = [set_link(link.index, up=True), *(add_address(link.index, a) for a in addresses)]
                if gateway:
                    messages.append(add_route("default", gateway=gateway, index=link.index))
                route.perform(messages)

        self.run(work)

    def command(self, *words: str) -> str:
        done = self.run(
            lambda: subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def serve_tcp(
        self, port: int, name: str = "service", address: str = "0.0.0.0", *, v6only: bool = False
    ) -> None:
        """Answers every connection with "<name> <client's address> " and what it sent until its end.

        At the address `::` it answers both versions of IP, unless `v6only`.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.socket(family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v6only:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(64)
        listener.settimeout(None)

        def answer(client: socket.socket, peer: Any) -> None:
            with client, contextlib.suppress(ConnectionError):
                client.sendall(f"{name} {peer[0]} ".encode())
                while data := client.recv(65536):
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, peer = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(client, peer), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self._closing.insert(0, lambda: listener.shutdown(socket.SHUT_RDWR))

    def serve_udp(self, port: int, name: str = "service", address: str = "0.0.0.0") -> None:
        bound = self.socket(socket.SOCK_DGRAM, socket.AF_INET6 if ":" in address else socket.AF_INET)
        bound.bind((address, port))
        bound.settimeout(None)

        def answer() -> None:
            while True:
                try:
                    data, peer = bound.recvfrom(65536)
                    if not data:
                        return
                    bound.sendto(f"{name} {peer[0]} ".encode() + data, peer)
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()

    def ask_tcp(self, address: str, port: int, data: bytes = b"hello", timeout: float = DEADLINE) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(family=family) as client:
            client.settimeout(timeout)
            client.connect((address, port))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return answer.decode()

    def ask_udp(self, address: str, port: int, data: bytes = b"hello", timeout: float = DEADLINE) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(socket.SOCK_DGRAM, family) as client:
            client.settimeout(timeout)
            client.connect((address, port))
            client.send(data)
            return client.recv(65536).decode()

    def can_reach(self, address: str, port: int) -> bool:
        try:
            self.ask_tcp(address, port, timeout=REFUSAL)
        except OSError:
            return False
        return True

    def close(self) -> None:
        for action in self._closing:
            try:
                action()
            except OSError:
                continue
        self._pool.shutdown()
        os.close(self.fd)
