"""Measurements of published ports and of the way between containers; each of one contestant."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import measure
from engines import Contestant

from sampan.linux import namespaces

MANY = range(20000, 21000)
HUNDRED = range(21000, 21100)
CONNECTS = 2000
IPERF_PORT = 5201
IPERF_SECONDS = 3
_IMAGE = "bench/iperf3"
_HOST, _NEIGHBOUR = "198.18.77.1", "198.18.77.2"

T = TypeVar("T")


def start_hundred_seconds(each: Contestant) -> float:
    """`run -d` of a container with 100 published ports; it is removed outside the measured time."""
    started: list[str] = []

    def start() -> None:
        started.append(_run_with_ports(each, HUNDRED))

    try:
        return measure.seconds(start)
    finally:
        each.run("rm", "-f", *started)


def connect_microseconds(each: Contestant) -> float:
    """The median of connections from another host to the last of 1,000 published ports."""
    container = _run_with_ports(each, MANY)
    try:
        pid = int(each.run("inspect", "--format", "{{.State.Pid}}", container))
        with _neighbour() as neighbour, _listening(pid, MANY[-1]):
            return neighbour(lambda: _median_connect(_HOST, MANY[-1])) * 1e6
    finally:
        each.run("rm", "-f", container)


def between_containers_megabits(each: Contestant) -> float:
    """iperf3 from one container to another on the default bridge."""
    with _iperf3_server(each) as server:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = each.run("inspect", "--format", form, server).strip()
        client = each.run("run", "-d", *each.run_options, _IMAGE, "sleep", "1000").strip()
        try:
            return _megabits(each.run("exec", client, *_iperf3_client(address)))
        finally:
            each.run("rm", "-f", client)


def to_published_port_megabits(each: Contestant) -> float:
    """iperf3 from the host to a published port at an address of the host."""
    with _neighbour(), _iperf3_server(each, "-p", f"{IPERF_PORT}:{IPERF_PORT}"):
        done = subprocess.run(_iperf3_client(_HOST), capture_output=True, text=True, check=True)
        return _megabits(done.stdout)


def _run_with_ports(each: Contestant, ports: range) -> str:
    span = f"{ports[0]}-{ports[-1]}"
    arguments = ("-p", f"{span}:{span}", *each.run_options, "bench/busybox", "sleep", "1000")
    return each.run("run", "-d", *arguments).strip()


def _median_connect(address: str, port: int) -> float:
    times = []
    for _ in range(CONNECTS):
        with socket.socket() as client:
            times.append(measure.seconds(lambda c=client: c.connect((address, port))))  # type: ignore[misc]
    return statistics.median(times)


@contextlib.contextmanager
def _listening(pid: int, port: int) -> Iterator[None]:
    """Something in the container's network that accepts connections; the images have nothing for it."""
    made: list[socket.socket] = []

    def listen() -> None:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            namespaces.join(namespace.fileno(), namespaces.NEWNET)
        made.append(socket.create_server(("0.0.0.0", port), backlog=4096))

    _in_thread(listen)
    listener = made[0]

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()


@contextlib.contextmanager
def _neighbour() -> Iterator[Callable[[Callable[[], float]], float]]:
    """Another host on a link of its own; what is given does its work there."""
    name, link = "smpbench-next", "smpbench-link"

    def there(work: Callable[[], float]) -> float:
        def inside() -> float:
            with open(f"/run/netns/{name}", "rb") as namespace:
                namespaces.join(namespace.fileno(), namespaces.NEWNET)
            return work()

        return _in_thread(inside)

    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{_HOST}/30", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", name, "address", "add", f"{_NEIGHBOUR}/30", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        yield there
        _ip("link", "delete", link)  # with its namespace it would go some time later
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _in_thread(work: Callable[[], T]) -> T:
    """A thread may change its network namespace, and ends with it."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    if not found:
        raise RuntimeError("the measurement failed in its namespace")
    return found[0]


@contextlib.contextmanager
def _iperf3_server(each: Contestant, *options: str) -> Iterator[str]:
    _import_iperf3(each)
    command = ("iperf3", "--server", "--forceflush")
    server = each.run("run", "-d", *options, *each.run_options, _IMAGE, *command).strip()
    try:
        while "listening" not in each.run("logs", server):
            time.sleep(0.01)
        yield server
    finally:
        each.run("rm", "-f", server)


def _iperf3_client(address: str) -> list[str]:
    return ["iperf3", "--client", address, "--time", str(IPERF_SECONDS), "--json"]


def _megabits(answer: str) -> float:
    return float(json.loads(answer)["end"]["sum_received"]["bits_per_second"]) / 1e6


def _import_iperf3(each: Contestant) -> None:
    if each.run("images", "-q", _IMAGE).strip():
        return
    archive = Path(each.places[0]).parent / f"{each.name}-iperf3.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        program = shutil.which("iperf3")
        if program is None:
            raise RuntimeError("iperf3 is not installed")
        tar.add(os.path.realpath(program), "bin/iperf3")
        for library in _libraries(program):
            tar.add(os.path.realpath(library), library.lstrip("/"))
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(directory, io.BytesIO())
    each.run("import", str(archive), _IMAGE)


def _libraries(program: str) -> list[str]:
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for line in answer.splitlines() for word in line.split() if word.startswith("/")]
