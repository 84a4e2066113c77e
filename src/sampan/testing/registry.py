"""A real registry for tests: Debian's docker-registry on a free port of the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

START_SECONDS = 30


class RealRegistry:
    """Starts on entering, stops on leaving. `tls` and `htpasswd` as in `certificate` and `password_file`.

    `directory` keeps its files; a registry started again on it has what was pushed before.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        htpasswd: Path | None = None,
        port: int = 0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._tls = tls
        self._htpasswd = htpasswd
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """host:port, as it stands in an image's name."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {
                "filesystem": {"rootdirectory": str(self._directory / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.host},
        }
        if self._tls is not None:
            certificate, key = self._tls
            config["http"] = {"addr": self.host, "tls": {"certificate": str(certificate), "key": str(key)}}
        if self._htpasswd is not None:
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self._htpasswd)}}
        file = self._directory / "config.json"  # YAML is a superset of JSON
        file.write_text(json.dumps(config))
        with open(self._directory / "registry.log", "ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(file)], stdout=log, stderr=log)
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None

    def __enter__(self) -> RealRegistry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        """Until it accepts connections; it offers no other sign."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"docker-registry ended: {(self._directory / 'registry.log').read_text()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError("docker-registry does not answer") from error
                time.sleep(0.02)


def certificate(directory: Path) -> tuple[Path, Path, Path]:
    """A CA of the test's own and a certificate of it for 127.0.0.1: (CA, certificate, key)."""
    directory.mkdir(parents=True, exist_ok=True)
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    crt, key, request = directory / "server.crt", directory / "server.key", directory / "server.csr"
    names = directory / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=test CA", "-days", "2")
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
        "-out", crt, "-days", "2", "-extfile", names,
    )  # fmt: skip
    return ca, crt, key


def password_file(path: Path, user: str, password: str) -> Path:
    """An htpasswd file with one user (bcrypt, the only kind that docker-registry takes)."""
    subprocess.run(
        ["htpasswd", "-Bbc", "-C", "5", str(path), user, password], check=True, capture_output=True
    )
    return path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
