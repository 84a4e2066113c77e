"""Hosts of a cluster for tests: network namespaces joined by a bridge, and an engine in each."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.etcd import EtcdProcess
from sampan.testing.images import busybox_tar

DEADLINE = 30.0
TTL = "6"
"""Seconds without a sign of a host until it counts as gone."""


class Host:
    """A network namespace with an address among the others, and an engine."""

    def __init__(self, lan: Lan, number: int) -> None:
        self.lan, self.number = lan, number
        self.namespace = f"{lan.token}{number}"
        self.address = f"198.18.0.{number}"
        self.link = f"{lan.token}v{number}"
        self.engine: EngineProcess | None = None
        run("ip", "netns", "add", self.namespace)
        try:
            self._plug()
        except BaseException:
            self.close()
            raise

    def _plug(self) -> None:
        run("ip", "link", "add", self.link, "type", "veth", "peer", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self.link, "netns", self.lan.namespace)
        self.lan.ip("link", "set", self.link, "master", "lan", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("link", "set", "lo", "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        return inside(self.namespace)

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.namespace, *words)

    def command(self, *words: str) -> str:
        return run(*self.prefix, *words)

    def start(self, store: str, *options: str, config: object = None) -> EngineProcess:
        """An engine here, with busybox."""
        directory = self.lan.directory / f"host{self.number}"
        self.engine = EngineProcess(
            directory,
            prefix=self.prefix,
            options=(
                *("--cluster-store", store, "--cluster-advertise", self.address),
                *("--cluster-store-opt", f"discovery.ttl={TTL}", *options),
            ),
            config=config,
        )
        self.engine.start()
        self.engine.cli("import", "-c", 'CMD ["sleep", "inf"]', "-", "busybox:latest", stdin=busybox_tar())
        return self.engine

    def sampan(self, *words: str) -> str:
        assert self.engine is not None
        return self.engine.cli(*words).stdout.strip()

    def refused(self, *words: str) -> str:
        """What a command that has to fail says."""
        assert self.engine is not None
        done = self.engine.cli(*words, check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def run(self, name: str, *options: str) -> str:
        """A container that stays: its address in its first network."""
        self.sampan("run", "-d", "--name", name, *options, "busybox:latest", "sleep", "1000000")
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self.sampan("inspect", "-f", form, name).split()[0]

    def inside(self, name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        assert self.engine is not None
        return self.engine.cli("exec", name, *words, check=check)

    def inspect(self, network: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sampan("network", "inspect", network))[0]
        return found

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sampan("info", "--format", "{{json .}}"))
        return found

    def pings(self, name: str, target: str) -> bool:
        # With -w alone BusyBox waits ten seconds for the answer to its last packet.
        ask = ("ping", "-c", "1", "-w", "2", "-W", "2", target)
        return self.inside(name, *ask, check=False).returncode == 0

    def cut_off(self, *, cut: bool = True) -> None:
        """The cable is pulled, or put back."""
        self.lan.ip("link", "set", self.link, "down" if cut else "up")

    def close(self) -> None:
        try:
            if self.engine is not None:
                self.engine.stop()
        finally:
            run("ip", "netns", "delete", self.namespace)


class Lan:
    """A namespace with a bridge that the hosts are at, and the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token = f"ov{secrets.token_hex(3)}"
        self.namespace = f"{self.token}lan"
        self.address = "198.18.0.254"
        self.hosts: list[Host] = []
        self.etcds: list[EtcdProcess] = []
        self.etcd = self.member()
        run("ip", "netns", "add", self.namespace)
        try:
            self._plug()
        except BaseException:
            self._close()
            raise

    def _plug(self) -> None:
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "lan", "type", "bridge", "forward_delay", "0")
        self.ip("link", "set", "lan", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "lan")

    @property
    def prefix(self) -> tuple[str, ...]:
        return inside(self.namespace)

    def member(self, number: int = 0, of: int = 1, certificates: Path | None = None) -> EtcdProcess:
        """An etcd, alone or of several."""
        made = EtcdProcess(
            self.directory / f"etcd{number}of{of}",
            address=self.address,
            prefix=self.prefix,
            certificates=certificates,
            number=number,
            of=of,
        )
        self.etcds.append(made)
        return made

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.namespace, *words)

    def host(self) -> Host:
        self.hosts.append(Host(self, len(self.hosts) + 1))
        return self.hosts[-1]

    def clean(self) -> None:
        """No containers, and no networks of the cluster."""
        running = [host for host in self.hosts if host.engine is not None and host.engine.running]
        for host in running:
            ids = host.sampan("ps", "-aq").split()
            if ids:
                host.sampan("rm", "-f", *ids)
        shared = ("network", "ls", "-q", "--filter", "driver=overlay")
        for network in running[0].sampan(*shared).split() if running else ():
            until(lambda network=network: remove(running[0], network), f"the removal of {network}")
        each(running, lambda host: not host.sampan(*shared), "no shared network")

    def close(self) -> None:
        try:
            self.clean()
        finally:
            self._close()

    def _close(self) -> None:
        """All of it, whatever fails."""
        with ExitStack() as stack:
            stack.callback(run, "ip", "netns", "delete", self.namespace)
            for etcd in self.etcds:
                stack.callback(etcd.kill)
            for host in self.hosts:
                stack.callback(host.close)


@contextmanager
def joined() -> Iterator[Lan]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-overlay-"))
    made = Lan(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def remove(host: Host, network: str) -> bool:
    """False while other hosts have containers in it, as far as this one has heard."""
    assert host.engine is not None
    return host.engine.cli("network", "rm", network, check=False).returncode == 0


def inside(namespace: str) -> tuple[str, ...]:
    """Runs a command there; unlike `ip netns exec` it leaves /sys alone, where the control groups are."""
    return ("nsenter", f"--net=/run/netns/{namespace}")


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def until(check: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll with a deadline: other hosts' engines send no event to us."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true in {seconds:.0f} s")
        time.sleep(0.1)


def each(hosts: Sequence[Host], check: Callable[[Host], object], what: str) -> None:
    for host in hosts:
        until(lambda host=host: check(host), f"{what} on host {host.number}")


def addresses(lan: Lan, name: str, network: str) -> list[str]:
    """A container on every host, `<name><number>`, in the network: its address."""
    return [host.run(f"{name}{host.number}", "--network", network) for host in lan.hosts]


def have_network(lan: Lan, name: str, *options: str) -> None:
    """An overlay network that all hosts have heard of."""
    lan.hosts[0].sampan("network", "create", "-d", "overlay", *options, name)
    each(
        lan.hosts,
        lambda host: name in host.sampan("network", "ls", "--format", "{{.Name}}"),
        f"network {name}",
    )


def reaches(host: Host, name: str, target: str) -> None:
    """In time the container does."""
    until(lambda: host.pings(name, target), f"{name} reaches {target}")


class Tools:
    """What tests use of this file."""

    until = staticmethod(until)
    each = staticmethod(each)
    addresses = staticmethod(addresses)
    have_network = staticmethod(have_network)
    reaches = staticmethod(reaches)
    run = staticmethod(run)


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="module")
def etcd_cluster() -> Iterator[Lan]:
    """Three hosts and etcd."""
    with joined() as lan:
        lan.etcd.start()
        for _ in range(3):
            lan.host().start(lan.etcd.url)
        yield lan


@pytest.fixture
def cluster(etcd_cluster: Lan) -> Iterator[Lan]:
    """What a test makes goes afterwards; no engine may have stumbled."""
    sizes = [host.engine.log.stat().st_size for host in etcd_cluster.hosts if host.engine is not None]
    yield etcd_cluster
    etcd_cluster.clean()
    for host, size in zip(etcd_cluster.hosts, sizes, strict=True):
        assert host.engine is not None
        assert b"Traceback" not in host.engine.log.read_bytes()[size:]


@pytest.fixture
def new_lan() -> Iterator[Lan]:
    """A cable for hosts that a test starts by itself."""
    with joined() as lan:
        yield lan
