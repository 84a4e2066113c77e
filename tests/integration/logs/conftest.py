"""Real servers for the log drivers: rsyslogd, systemd-journald, and independent ones from npm and PyPI."""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sampan.testing import cloudwatch
from sampan.testing.cloudwatch import CloudWatchLogs

HERE = Path(__file__).parent / "counterparts"
JOURNALD = "/lib/systemd/systemd-journald"
TIMEOUT = 20.0


class Lines:
    """What a process prints, line by line."""

    def __init__(self, stream: Any) -> None:
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            self._queue.put(line.decode("utf-8", "replace").rstrip("\n"))
        self._queue.put(None)

    def next(self, timeout: float = TIMEOUT) -> str:
        line = self._queue.get(timeout=timeout)
        assert line is not None, "the process has ended"
        return line

    def next_json(self) -> Any:
        return json.loads(self.next())


def end(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = str(directory / "cert.pem"), str(directory / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


_RSYSLOG = """
global(workDirectory="{directory}" maxMessageSize="64k" defaultNetstreamDriverCAFile="{certificate}"
       defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
input(type="imtcp" address="127.0.0.1" port="{tls}" streamDriver.name="gtls" streamDriver.mode="1"
      streamDriver.authMode="anon")
input(type="imtcp" address="127.0.0.1" port="{mutual}" streamDriver.name="gtls" streamDriver.mode="1"
      streamDriver.authMode="x509/certvalid")
input(type="imuxsock" socket="{unix}5424" usespecialparser="off" parsehostname="on" ratelimit.interval="0")
input(type="imuxsock" socket="{unix}" ratelimit.interval="0")
module(load="imptcp")
module(load="mmjsonparse")
template(name="gelf" type="string"
         string="%$!version%|%$!level%|%$!_container_name%|%$!short_message:::json%\\n")
ruleset(name="gelf") {{
  action(type="mmjsonparse" cookie="" useRawMsg="on")
  action(type="omfile" file="{records}" template="gelf")
}}
input(type="imptcp" address="127.0.0.1" port="{gelf}" ruleset="gelf" addtlFrameDelimiter="0"
      supportOctetCountedFraming="off")
template(name="fields" type="string"
         string="%pri%|%timereported:::date-rfc3339%|%hostname%|%app-name%|%procid%|%msgid%|%msg%\\n")
action(type="omfile" file="{records}" template="fields")
"""


class Rsyslog:
    """A real rsyslogd. `next` is a record as it understood it: pri|time|host|app-name|procid|msgid|msg.

    At `gelf` it takes JSON that ends with NUL, of which it gives version|level|_container_name|short_message.
    At `mutual` it wants a certificate of the client. At `unix` it expects the format without a host's name, as
    /dev/log does, at `unix`5424 that of RFC 5424.
    """

    def __init__(self, directory: Path, certificate: tuple[str, str]) -> None:
        self.directory = directory
        self.udp, self.tcp, self.tls = free_port(socket.SOCK_DGRAM), free_port(), free_port()
        self.mutual, self.gelf = free_port(), free_port()
        self.unix = str(directory / "log")
        records = directory / "records"
        records.touch()
        self._records = records.open("rb")
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        text = _RSYSLOG.format(
            directory=directory,
            certificate=certificate[0],
            key=certificate[1],
            records=records,
            udp=self.udp,
            tcp=self.tcp,
            tls=self.tls,
            mutual=self.mutual,
            gelf=self.gelf,
            unix=self.unix,
        )
        (directory / "conf").write_text(text)

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["rsyslogd", "-n", "-f", str(self.directory / "conf"), "-i", str(self.directory / "pid")],
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "errors").open("wb"),
        )
        self.wait_until_it_hears()

    def wait_until_it_hears(self) -> None:
        """Until a message at its Unix socket, the input that it opens last, and a connection are taken."""
        for _ in range(int(TIMEOUT * 20)):
            try:
                socket.create_connection(("127.0.0.1", self.tls), 1).close()
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"<14>Nov 25 00:00:00 ready: yes", self.unix)
            except OSError:
                select.select([], [], [], 0.05)
                continue
            assert self.next().endswith(" yes")
            return
        raise AssertionError((self.directory / "errors").read_text())

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def next(self, timeout: float = TIMEOUT) -> str:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            more = self._records.read(1 << 20)
            self._rest += more
            if not more:
                assert time.monotonic() < deadline, f"no record; {(self.directory / 'errors').read_text()}"
                select.select([], [], [], 0.01)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")

    def close(self) -> None:
        self.stop()
        self._records.close()


@pytest.fixture(scope="module")
def rsyslog(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str]) -> Iterator[Rsyslog]:
    """Each test reads all the records that it causes."""
    server = Rsyslog(tmp_path_factory.mktemp("rsyslog"), certificate)
    try:
        server.start()
        yield server
    finally:
        server.close()


_JOURNAL = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '%s\\n' '[Journal]' Storage=volatile ReadKMsg=no Audit=no RateLimitIntervalSec=0 RateLimitBurst=0 \
    ForwardToSyslog=no ForwardToKMsg=no ForwardToConsole=no ForwardToWall=no > /run/systemd/journald.conf.d/test.conf
printf '%s\\n' 0123456789abcdef0123456789abcdef > /run/machine-id
mount --bind /run/machine-id /etc/machine-id
exec {journald}
"""


class Journald:
    """The real systemd-journald in a mount namespace with a /run of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _JOURNAL.format(journald=JOURNALD)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.run = Path(f"/proc/{self._process.pid}/root/run")
        self.socket = str(self.run / "systemd/journal/socket")
        for _ in range(int(TIMEOUT * 20)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(self.socket)
                    return
                except OSError:
                    select.select([], [], [], 0.05)
        end(self._process)
        raise AssertionError(f"{JOURNALD} does not answer")

    def follow(self, *matches: str) -> Iterator[dict[str, Any]]:
        """Entries as journalctl shows them, those of now and those that come; values that are no text as lists."""
        reader = subprocess.Popen(
            [
                *("journalctl", "--follow", "--no-tail", "--all", "--output=json"),
                *("--directory", str(self.run / "log/journal"), *matches),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        lines = Lines(reader.stdout)
        try:
            while True:
                yield lines.next_json()
        finally:
            end(reader)

    def close(self) -> None:
        end(self._process)


@pytest.fixture
def journald() -> Iterator[Journald]:
    server = Journald()
    yield server
    server.close()


@pytest.fixture
def host_journal(journald: Journald) -> Iterator[Journald]:
    """The test's journald at the place where the host's would be."""
    place = Path("/run/systemd/journal")
    if os.path.lexists(place / "socket"):
        pytest.skip("this host's own journald runs: a test must not write into its journal")
    made = [directory for directory in (place.parent, place) if not directory.exists()]
    place.mkdir(parents=True, exist_ok=True)
    (place / "socket").symlink_to(journald.socket)
    yield journald
    (place / "socket").unlink()
    for directory in reversed(made):
        directory.rmdir()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages of `counterparts/package-lock.json`, installed once beside this Python's packages."""
    place = Path(sys.prefix) / "counterparts"
    wanted = (HERE / "package-lock.json").read_bytes()
    marker = place / "installed"
    if not marker.exists() or marker.read_bytes() != wanted:
        place.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, place / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=120)
        marker.write_bytes(wanted)
    return place / "node_modules"


class NodeServer:
    """A server of `counterparts/`: `port` it listens at, and what it understood."""

    def __init__(self, node_modules: Path, script: str, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            ["node", str(HERE / script), *arguments],
            env=os.environ | {"NODE_PATH": str(node_modules)},
            stdout=subprocess.PIPE,
        )
        self._lines = Lines(self._process.stdout)
        try:
            self.port = self.next().get("port")
        except BaseException:
            end(self._process)
            raise

    def next(self) -> Any:
        said = self._lines.next_json()
        assert "error" not in said, said
        return said

    def close(self) -> None:
        end(self._process)


@pytest.fixture
def node_server(node_modules: Path) -> Iterator[Any]:
    """Starts servers that end with the test: `node_server("gelf_server.js", "0")`."""
    servers: list[NodeServer] = []

    def start(script: str, *arguments: str) -> NodeServer:
        servers.append(NodeServer(node_modules, script, arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", cloudwatch.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cloudwatch.SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def cloud(aws_environment: None) -> Iterator[CloudWatchLogs]:
    server = CloudWatchLogs()
    yield server
    server.close()
