"""An engine of its own for a test: own root, run directory, bridge, subnet and control group; gone afterwards."""

from __future__ import annotations

import json
import os
import random
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType

from sampan.storage.removal import remove_tree

START_SECONDS = float(os.environ.get("SAMPAN_TEST_START_SECONDS", "60"))
"""An emulated machine needs more."""
STOP_SECONDS = 60


_handed_out: set[str] = set()


def _free_network() -> str:
    """The first three numbers of one of 4096 networks that no engine of this process had and the host does not use.

    By chance, so that processes in parallel hardly meet, but never by chance alone: two engines with one network
    both start, and then nobody reaches the second one's containers.
    """
    routes = tuple(_routes())
    for number in random.sample(range(4096), 4096):
        network = f"10.{200 + number // 256}.{number % 256}"
        if network in _handed_out or any(IPv4Network(f"{network}.0/24").overlaps(route) for route in routes):
            continue
        _handed_out.add(network)
        return network
    raise RuntimeError("10.200.0.0 to 10.215.255.0: every network is in use")


def _routes() -> Iterator[IPv4Network]:
    """What this host has routes to, but for the default one (/proc/net/route: little-endian hexadecimal)."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (IPv4Address(int.from_bytes(bytes.fromhex(fields[i]), "little")) for i in (1, 7))
        if int(mask):
            yield IPv4Network(f"{destination}/{mask}")


class EngineProcess:
    """A daemon started by `start` (or on entering), stopped with all that it made by `stop`.

    `directory` must not exist or be empty; everything is below it. `options` are further daemon flags; `prefix` is
    a command that runs the daemon as its arguments. Used as a context manager it cleans up whatever happens in the
    block.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        subnet: str | None = None,
        config: object = None,
        prefix: Sequence[str] = (),
    ) -> None:
        token = secrets.token_hex(4)
        self.directory = directory
        self.root = directory / "root"
        self.run_dir = directory / "run"
        self.socket = self.run_dir / "sampan.sock"
        self.log = directory / "daemon.log"
        self.bridge = f"smpt{token}"
        self.cgroup_parent = f"/sampan-test-{token}"
        self.subnet = subnet or f"{_free_network()}.1/24"
        self.options = tuple(options)
        self._prefix = tuple(prefix)
        self._config = directory / "daemon.json"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(json.dumps(config or {}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """For --host, SAMPAN_HOST or DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the engine is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def environment(self) -> dict[str, str]:
        """What the command line needs to talk to this engine; its configuration directory is private too."""
        config = self.directory / "client"
        inherited = {name: value for name, value in os.environ.items() if name != "SAMPAN_HOST"}
        # DOCKER_HOST, not SAMPAN_HOST: a command must never start an engine of its own here.
        return {
            **inherited,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(config),
            "DOCKER_BUILDKIT": "0",
        }

    def start(self) -> None:
        """Start the daemon and wait until it serves. Raises RuntimeError with its log when it fails."""
        read_end, write_end = os.pipe()
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(write_end,),
                env={**os.environ, "SAMPAN_READY_FD": str(write_end)},
                start_new_session=True,
            )
        os.close(write_end)
        try:
            ready, _, _ = select.select([read_end], [], [], START_SECONDS)
            if not ready or os.read(read_end, 1) == b"":
                raise RuntimeError(f"the engine did not start:\n{self.log.read_text(errors='replace')}")
        finally:
            os.close(read_end)

    def kill(self) -> None:
        """kill -9 of the daemon alone; its containers run on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> None:
        """The orderly end of the daemon; running containers run on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def cli(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `sampan ARGUMENTS` against this engine. With `check` a failure raises RuntimeError with its output."""
        result = subprocess.run(
            [sys.executable, "-m", "sampan.cli.main", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        out, err = result.stdout.decode("utf-8", "replace"), result.stderr.decode("utf-8", "replace")
        if check and result.returncode != 0:
            raise RuntimeError(f"sampan {' '.join(arguments)} ended with {result.returncode}:\n{out}{err}")
        return subprocess.CompletedProcess(result.args, result.returncode, out, err)

    def stop(self) -> None:
        """Remove every container, end the daemon (which takes its bridges and rules away) and all files."""
        if self._process is None:
            self.start()
        try:
            containers = self.cli("ps", "-aq", "--no-trunc").stdout.split()
            if containers:
                self.cli("rm", "-f", "-v", *containers)
            for network in self.cli("network", "ls", "-q", "--filter", "type=custom").stdout.split():
                self.cli("network", "rm", network)
        finally:
            self.terminate()
            remove_tree(self.directory)

    def __enter__(self) -> EngineProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        return [
            *self._prefix,
            sys.executable, "-m", "sampan.cli.main", "daemon",
            "--config-file", str(self._config),
            "--root", str(self.root),
            "--run", str(self.run_dir),
            "--bridge", self.bridge,
            "--bip", self.subnet,
            "--cgroup-parent", self.cgroup_parent,
            *self.options,
        ]  # fmt: skip
