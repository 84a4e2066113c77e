"""A real registry (`docker-registry`, distribution's) on a free loopback port, for tests.

    with RealRegistry(tmp, tls=True, htpasswd={"ann": "secret"}) as registry:
        registry.host          # "127.0.0.1:41833"
        registry.ca            # path of the CA's certificate, PEM

Needs the commands docker-registry, and openssl and htpasswd for TLS and passwords (Debian: docker-registry,
openssl, apache2-utils).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from sampan.errors import Unavailable

START_SECONDS = 20.0


class RealRegistry:
    """A context manager. Everything it writes is below `directory`; its own process is all it ends."""

    def __init__(
        self,
        directory: Path,
        *,
        tls: bool = False,
        htpasswd: Mapping[str, str] | None = None,
        token: Mapping[str, str] | None = None,
        mirror_of: str = "",
    ) -> None:
        """`htpasswd`: user -> password. `token`: the keys of distribution's auth.token section.

        `mirror_of`: URL of a registry whose pull-through cache this is.
        """
        self.directory = directory
        self.tls = tls
        self._users = dict(htpasswd or {})
        self._token = dict(token or {})
        self._mirror_of = mirror_of
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @staticmethod
    def available() -> bool:
        return shutil.which("docker-registry") is not None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def log(self) -> Path:
        return self.directory / "registry.log"

    @property
    def blobs(self) -> Path:
        """Where its blobs lie: <blobs>/sha256/<first two digits>/<hex>/data."""
        return self.directory / "data/docker/registry/v2/blobs"

    def __enter__(self) -> RealRegistry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """On the same port again when it was running before. Raises `Unavailable` when it does not come up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.tls and not self.ca.exists():
            make_ca_and_certificate(self.directory)
        for _ in range(3):  # the free port may be taken by somebody else before the registry has it
            self.port = self.port or _free_port()
            config = self.directory / "config.json"  # JSON is YAML
            config.write_text(json.dumps(self._config()))
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    ["docker-registry", "serve", str(config)],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
                )
            if self._wait_until_ready():
                return
            self.stop()
            self.port = 0
        raise Unavailable(f"docker-registry did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Idempotent."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def install_ca(self, certs_dir: Path) -> None:
        """Put the CA where engines look for it: <certs_dir>/<host:port>/ca.crt."""
        target = certs_dir / self.host
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.ca, target / "ca.crt")

    def _config(self) -> dict[str, object]:
        http: dict[str, object] = {"addr": self.host}
        if self.tls:
            http["tls"] = {
                "certificate": str(self.directory / "server.crt"),
                "key": str(self.directory / "server.key"),
            }
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": True},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": http,
        }
        if self._users:
            path = self.directory / "htpasswd"
            path.unlink(missing_ok=True)
            for user, password in self._users.items():
                line = _run(["htpasswd", "-nbB", "-C", "4", user, password])
                with open(path, "a") as file:
                    file.write(line.strip() + "\n")
            config["auth"] = {"htpasswd": {"realm": "sampan test", "path": str(path)}}
        elif self._token:
            config["auth"] = {"token": self._token}
        if self._mirror_of:
            config["proxy"] = {"remoteurl": self._mirror_of}
        return config

    def _wait_until_ready(self) -> bool:
        # A listening socket sends no event to others: ask until it answers.
        end = time.monotonic() + START_SECONDS
        pause = threading.Event()
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                self._connect()
            except OSError:
                pause.wait(0.02)
                continue
            return True
        return False

    def _connect(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            if self.tls:
                context = ssl.create_default_context(cafile=str(self.ca))
                with context.wrap_socket(connection, server_hostname="127.0.0.1"):
                    pass


def make_ca_and_certificate(directory: Path, *, names: str = "DNS:localhost,IP:127.0.0.1") -> None:
    """ca.crt, ca.key and a server's server.crt, server.key of that CA, in `directory`."""
    subject = ["-subj", "/CN=sampan test CA"]
    _run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-days", "3650", *subject, "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.crt")]
    )
    _run(
        ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-subj", "/CN=localhost", "-keyout", str(directory / "server.key")]
        + ["-out", str(directory / "server.csr")]
    )
    extensions = directory / "server.ext"
    extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    _run(
        ["openssl", "x509", "-req", "-in", str(directory / "server.csr"), "-days", "3650"]
        + ["-CA", str(directory / "ca.crt"), "-CAkey", str(directory / "ca.key"), "-set_serial", "2"]
        + ["-extfile", str(extensions), "-out", str(directory / "server.crt")]
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
