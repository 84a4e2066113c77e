"""PostgreSQL in a container under a load of writes, killed with its engine: no committed row is ever missing.

`make durability` kills 50 times; here every way of killing comes once.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing import postgres

KILLS = int(os.environ.get("SAMPAN_DURABILITY_KILLS", "5"))
WRITERS = 4
pytestmark = [pytest.mark.root, pytest.mark.timeout(120 + 30 * KILLS)]


class Database:
    """The container `db` of an engine, on the volume `data`, and what writes into it."""

    def __init__(self, sampan: Any, wait_until: Callable[..., None]) -> None:
        self.sampan = sampan
        self._wait_until = wait_until
        flags = ("-v", f"data:{postgres.DATA}")
        sampan.ok("run", "--rm", *flags, "postgres", "sh", "-c", postgres.INIT)
        self.server = self.serve("db", "data")
        self.server.query(postgres.SCHEMA)
        self.writers = postgres.Writers(self.server, WRITERS)

    def serve(self, container: str, volume: str) -> postgres.Server:
        """A server on a volume, recovered and ready."""
        port = _free_port()
        options = ("--name", container, "-v", f"{volume}:{postgres.DATA}")
        publish = ("-p", f"127.0.0.1:{port}:{postgres.PORT}")
        self.sampan.ok("run", "-d", *options, *publish, "postgres", *postgres.SERVE)
        server = postgres.Server("127.0.0.1", port)
        server.wait()
        return server

    @property
    def pid(self) -> int:
        return int(self.sampan.ok("inspect", "-f", "{{.State.Pid}}", "db"))

    def kill(self) -> None:
        """kill -9 of the server's first process, which takes the others along."""
        os.kill(self.pid, 9)

    def kill_engine(self) -> None:
        self.sampan.engine.kill()

    def start_again(self) -> None:
        """The engine if it is gone, the container when it has ended, and the server's recovery."""
        self._wait_until(lambda: self.status() == "exited", "the container's end")
        self.sampan.ok("start", "db")
        self.server.wait()

    def status(self) -> str:
        found: str = self.sampan.ok("inspect", "-f", "{{.State.Status}}", "db")
        return found

    def check(self, committed: set[postgres.Row], server: postgres.Server | None = None) -> None:
        """All of `committed` is there, nothing that nobody has sent, and no transaction by half."""
        server = server or self.server
        rows = server.rows()
        assert committed - rows == set()
        assert rows - self.writers.sent == set()
        assert server.disagreements() == []


def _free_port() -> int:
    """Below the ports that connections get by chance."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("no free port")


def container(database: Database) -> None:
    database.kill()
    database.start_again()


def engine(database: Database) -> None:
    pid = database.pid
    database.kill_engine()
    database.writers.wait_for_more(50)  # nobody notices
    database.sampan.engine.start()
    database.writers.wait_for_more(50)
    assert database.pid == pid


def engine_and_then_container(database: Database) -> None:
    pid = database.pid
    database.kill_engine()
    os.kill(pid, 9)
    database.sampan.engine.start()
    database.start_again()


def container_and_then_engine(database: Database) -> None:
    database.kill()
    database.kill_engine()
    database.sampan.engine.start()
    database.start_again()


def the_container_s_shim(database: Database) -> None:
    stat = Path(f"/proc/{database.pid}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), 9)
    database.start_again()


WAYS = (container, engine, engine_and_then_container, container_and_then_engine, the_container_s_shim)


@pytest.fixture
def database(fresh_sampan: Any, wait_until: Callable[..., None]) -> Iterator[Database]:
    path = f"{postgres.installation()}/bin:/bin"
    changes = ("-c", "USER postgres", "-c", f"ENV PATH={path} PGDATA={postgres.DATA}/db")
    fresh_sampan.engine.cli("import", *changes, "-", "postgres", stdin=postgres.image_tar())
    made = Database(fresh_sampan, wait_until)
    try:
        yield made
    finally:
        made.writers.close()


def test_no_committed_row_is_missing_after_kill_9_of_container_engine_and_both(database: Database) -> None:
    for number in range(KILLS):
        database.writers.wait_for_more(random.randint(20, 400))
        WAYS[number % len(WAYS)](database)
        database.check(database.writers.snapshot())
    database.writers.close()
    database.sampan.ok("stop", "-t", "30", "db")
    assert len(database.writers.committed) > 50 * KILLS
    database.sampan.ok("run", "--rm", "-v", f"data:{postgres.DATA}", "postgres", "pg_checksums", "--check")


def test_backups_under_load_restore_to_a_state_that_postgresql_accepts(
    database: Database, tmp_path: Path
) -> None:
    """All that was committed before is in them: a paused server is to a backup what a power failure is to a disk."""
    sampan = database.sampan
    files = [str(tmp_path / name) for name in ("full", "increment")]
    committed = []
    for number, file in enumerate(files):
        database.writers.wait_for_more(200)
        committed.append(database.writers.snapshot())
        base = ("--base", files[number - 1]) if number else ()
        sampan.ok("volume", "backup", "--pause", *base, "data", file)
    database.writers.wait_for_more(50)
    committed.append(database.writers.snapshot())
    snapshot = sampan.ok("volume", "snapshot", "--pause", "data")
    database.writers.wait_for_more(50)
    for name, before, source in (
        ("full", committed[0], (files[0],)),
        ("increment", committed[1], (files[1], "--base", files[0])),
        ("snapshot", committed[2], (snapshot,)),
    ):
        sampan.ok("volume", "restore", name, *source)
        server = database.serve(f"db-{name}", name)
        database.check(before, server)
        sampan.ok("stop", "-t", "30", f"db-{name}")
        sampan.ok("run", "--rm", "-v", f"{name}:{postgres.DATA}", "postgres", "pg_checksums", "--check")
    sampan.ok("volume", "snapshot", "rm", snapshot)
