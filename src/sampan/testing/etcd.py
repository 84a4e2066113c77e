"""Debian's etcd for a test: a member of its own on a free port, which can be killed and started again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

START_SECONDS = 60.0
_ENVIRONMENT = {"ETCDCTL_API": "3", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class EtcdProcess:
    """`address`: where it listens, this host's or that of `prefix`'s namespace. Data is in `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        certificates: Path | None = None,
        number: int = 0,
        of: int = 1,
    ) -> None:
        """`certificates`: a directory with ca.pem, cert.pem and key.pem, which server and clients have to show.

        `number`: of the members of one cluster in the namespace of `prefix`, of which there are `of`.
        """
        self._certificates = certificates
        self.directory = directory
        self.address = address
        self.port = 2379 + 2 * number if prefix else _free_port(address)
        self._peer_port = self.port + 1 if prefix else _free_port(address)
        self._prefix = tuple(prefix)
        self._name = f"m{number}"
        others = {f"m{one}": 2380 + 2 * one for one in range(of)} if of > 1 else {self._name: self._peer_port}
        self._initial = ",".join(f"{name}=http://{address}:{port}" for name, port in others.items())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For --cluster-store."""
        return f"etcd://{self.address}:{self.port}"

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Without waiting: a cluster's first member has to wait for the second."""
        scheme = "https" if self._certificates is not None else "http"
        client, peer = f"{scheme}://{self.address}:{self.port}", f"http://{self.address}:{self._peer_port}"
        tls: list[str] = []
        if self._certificates is not None:
            tls = ["--client-cert-auth", "--trusted-ca-file", str(self._certificates / "ca.pem")]
            tls += ["--cert-file", str(self._certificates / "cert.pem")]
            tls += ["--key-file", str(self._certificates / "key.pem")]
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix,
                    "etcd",
                    "--name", self._name,
                    "--data-dir", str(self.directory / "data"),
                    "--listen-client-urls", client,
                    "--advertise-client-urls", client,
                    "--listen-peer-urls", peer,
                    "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", self._initial,
                    "--unsafe-no-fsync",
                    *tls,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + START_SECONDS
        while not self._healthy():
            if time.monotonic() > end or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"etcd did not start:\n{(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _healthy(self) -> bool:
        done = subprocess.run(self._etcdctl("get", "x"), capture_output=True, check=False, env=_ENVIRONMENT)
        return done.returncode == 0

    def _etcdctl(self, *arguments: str) -> list[str]:
        command = [*self._prefix, "etcdctl", "--endpoints", f"{self.address}:{self.port}"]
        if self._certificates is not None:
            for flag, name in (("cacert", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")):
                command += [f"--{flag}", str(self._certificates / name)]
        return [*command, *arguments]

    def control(self, *arguments: str) -> str:
        """`etcdctl ARGUMENTS`: its output."""
        done = subprocess.run(
            self._etcdctl(*arguments), capture_output=True, text=True, check=True, env=_ENVIRONMENT
        )
        return done.stdout

    def send(self, signal: int) -> None:
        """To the process: SIGSTOP, ..."""
        if self._process is not None:
            self._process.send_signal(signal)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def lose_data(self) -> None:
        """While it does not run."""
        shutil.rmtree(self.directory / "data")

    def __enter__(self) -> EtcdProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def make_certificates(directory: Path, address: str = "127.0.0.1") -> None:
    """An authority, and a certificate for the address that serves both sides: ca.pem, cert.pem, key.pem."""

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj")
    run(*new, "/CN=authority", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    # Without a common name: etcd with users refuses its gateway to who shows one.
    run(*new, "/O=etcd", "-keyout", "key.pem", "-out", "request.pem")
    (directory / "names").write_text(f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n")
    run("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names", "-out", "cert.pem")  # fmt: skip


def make_user(process: EtcdProcess, user: str, password: str, prefix: str) -> None:
    """Who may do everything below the prefix, and nothing else; from now on nobody does anything without a password."""
    for command in (
        ("user", "add", "root:of-root"),
        ("user", "add", f"{user}:{password}"),
        ("role", "add", user),
        ("role", "grant-permission", user, "readwrite", "--prefix", prefix),
        ("user", "grant-role", user, user),
        ("user", "grant-role", "root", "root"),
        ("auth", "enable"),
    ):
        process.control(*command)
