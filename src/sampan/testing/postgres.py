"""PostgreSQL for tests: an image made of the host's own installation, and writers that remember what was committed."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sampan.testing.images import busybox_tar

PROGRAMS = ("postgres", "initdb", "pg_checksums")
LIBRARIES = ("plpgsql.so", "dict_snowball.so")
PORT = 5432
USER = 70
"""The number of the user `postgres` in the image; the server refuses to run as root."""
DATA = "/pgdata"
START_SECONDS = 60.0

SCHEMA = """
CREATE TABLE counters (writer int PRIMARY KEY, rows int NOT NULL);
INSERT INTO counters SELECT generate_series(0, 15), 0;
CREATE TABLE written (writer int, number int, filling text, PRIMARY KEY (writer, number));
"""
# One transaction: the row, and the counter that has to agree with the number of rows.
_WRITE = (
    "WITH counted AS (UPDATE counters SET rows = rows + 1 WHERE writer = {writer}) "
    "INSERT INTO written VALUES ({writer}, {number}, repeat(md5('{number}'), 8)) RETURNING number;\n"
)
_DISAGREEING = """
SELECT writer FROM counters
WHERE rows <> (SELECT count(*) FROM written WHERE written.writer = counters.writer)
"""

Row = tuple[int, int]
"""A writer and the number of a row of its."""


def installation() -> Path:
    """The newest one under /usr/lib/postgresql. Raises FileNotFoundError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        raise FileNotFoundError("/usr/lib/postgresql/*/bin/postgres: install the package postgresql")
    return found[-1].parents[1]


def image_tar() -> bytes:
    """A root file system with busybox, the server and what it is linked with; `DATA` belongs to `USER`."""
    home = installation()
    files = [home / "bin" / name for name in PROGRAMS] + [home / "lib" / name for name in LIBRARIES]
    shared = Path("/usr/share/postgresql") / home.name
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a") as archive:
        for path in sorted({*files, *_linked(files)}):
            archive.add(path.resolve(), str(path).lstrip("/"))
        archive.add(shared, str(shared).lstrip("/"))
        for name, mode in ((DATA, 0o700), ("/var/run/postgresql", 0o775)):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, USER, USER
            archive.addfile(entry)
        accounts = f"root:x:0:0:root:/root:/bin/sh\npostgres:x:{USER}:{USER}::/:/bin/sh\n".encode()
        entry = tarfile.TarInfo("etc/passwd")
        entry.size, entry.mode = len(accounts), 0o644
        archive.addfile(entry, io.BytesIO(accounts))
    return out.getvalue()


def _linked(files: list[Path]) -> Iterator[Path]:
    """The shared libraries that these programs need, and the one that loads them."""
    for file in files:
        listing = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            word = line.partition("=>")[2].split() or line.split()
            if word and word[0].startswith("/"):
                yield Path(word[0])


INIT = (
    f"initdb -D {DATA}/db -U postgres --auth=trust --locale=C --encoding=UTF8 --data-checksums > /dev/null"
    f" && echo 'host all all all trust' >> {DATA}/db/pg_hba.conf"
)
SERVE = (
    "postgres", "-D", f"{DATA}/db", "-c", "listen_addresses=*", "-c", "shared_buffers=8MB", "-c", "max_wal_size=32MB",
    "-c", "checkpoint_timeout=30s", "-c", "autovacuum_naptime=1s", "-c", "max_connections=30", "-c", "jit=off",
)  # fmt: skip


class Server:
    """A PostgreSQL that listens at an address and port of this host."""

    def __init__(self, address: str, port: int) -> None:
        self.command = (
            str(installation() / "bin/psql"), "-qAtX", "-v", "ON_ERROR_STOP=1",
            "-h", address, "-p", str(port), "-U", "postgres", "postgres",
        )  # fmt: skip

    def query(self, text: str, *, check: bool = True) -> list[str]:
        """The lines of the answer; none when it failed and `check` is not set. Raises RuntimeError."""
        done = subprocess.run(
            self.command, input=text, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode and check:
            raise RuntimeError(f"{text}: {done.stderr}")
        return done.stdout.split() if not done.returncode else []

    def wait(self) -> None:
        """Until it has recovered and answers. Raises TimeoutError. It tells nobody when it does: polled."""
        deadline = time.monotonic() + START_SECONDS
        while not self.query("SELECT 1", check=False):
            if time.monotonic() > deadline:
                raise TimeoutError("PostgreSQL does not answer")
            time.sleep(0.05)

    def rows(self) -> set[Row]:
        found = (line.split("|") for line in self.query("SELECT writer, number FROM written"))
        return {(int(writer), int(number)) for writer, number in found}

    def disagreements(self) -> list[str]:
        """Writers whose counter is another number than that of their rows: half a transaction."""
        return self.query(_DISAGREEING)


class Writers:
    """Threads that write rows as fast as they can, and connect again when they are thrown out.

    `committed` is what the server has acknowledged; `sent` what it was asked to do.
    """

    def __init__(self, server: Server, count: int) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self.committed: set[Row] = set()
        self.sent: set[Row] = set()
        self._threads = [threading.Thread(target=self._write, args=(writer,)) for writer in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, rows: int) -> None:
        """Until that many more are committed. Raises TimeoutError."""
        with self._changed:
            wanted = len(self.committed) + rows
            if not self._changed.wait_for(lambda: len(self.committed) >= wanted, START_SECONDS):
                raise TimeoutError(f"{wanted - len(self.committed)} of {rows} rows were not written")

    def snapshot(self) -> set[Row]:
        """What is committed now."""
        with self._changed:
            return set(self.committed)

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        number = 0
        while not self._ended.is_set():
            client = subprocess.Popen(
                self._server.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            # Closing the pipe of a client that has ended fails, when something was still to be sent.
            with contextlib.suppress(BrokenPipeError), client:
                number = self._write_over(client, writer, number)
                client.kill()
            self._ended.wait(0.02)

    def _write_over(self, client: subprocess.Popen[str], writer: int, number: int) -> int:
        """Rows over one connection, from `number` on, until it breaks; the number that was tried last."""
        assert client.stdin is not None and client.stdout is not None
        while not self._ended.is_set():
            number += 1
            self.sent.add((writer, number))
            try:
                client.stdin.write(_WRITE.format(writer=writer, number=number))
                answer = client.stdout.readline()
            except BrokenPipeError:
                return number
            if answer.strip() != str(number):
                return number
            with self._changed:
                self.committed.add((writer, number))
                self._changed.notify_all()
        return number
