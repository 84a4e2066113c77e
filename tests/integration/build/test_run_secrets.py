"""Secrets of a build on a real engine: what a step sees, and that nothing else ever has a byte of them."""

from __future__ import annotations

import contextlib
import gzip
import signal
import sqlite3
import subprocess
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.storage.decompress import decompressed

pytestmark = pytest.mark.root

SECRET = "sEcReT-4711-do-not-keep-me"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("secrets")
    (path / "token").write_text(SECRET)
    (path / "context").mkdir()
    yield path


def build(sampan: Any, site: Path, dockerfile: str, *flags: str) -> Any:
    (site / "context/Dockerfile").write_text(dockerfile)
    return sampan.run("build", "--no-cache", *flags, str(site / "context"))


def holders(*places: Path) -> list[str]:
    """Files below the places that have the secret's bytes, database and memory files among them; also compressed."""
    found = subprocess.run(
        ["grep", "-rlaF", "-D", "skip", "--", SECRET, *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
    )
    compressed = [_holds_compressed(file) for place in places for file in _files(place)]
    return found.stdout.splitlines() + [name for name in compressed if name]


def _files(place: Path) -> Iterator[Path]:
    for path in place.rglob("*") if place.is_dir() else (place,):
        if path.is_file() and not path.is_symlink():
            yield path


def _holds_compressed(path: Path) -> str:
    """Its name, for a compressed file and for a database in whose rows the secret is compressed."""
    with open(path, "rb") as file:
        head = file.read(16)
        file.seek(0)
        pieces: Iterable[bytes] = ()
        if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            pieces = decompressed(iter(lambda: file.read(1 << 20), b""), 1 << 30)
        elif head.startswith(b"SQLite format 3"):
            pieces = _unpacked_values(path)
        return f"{path} (compressed)" if SECRET.encode() in b"".join(pieces) else ""


def _unpacked_values(path: Path) -> Iterator[bytes]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, bytes):
                        with contextlib.suppress(zlib.error):
                            yield zlib.decompress(value)


def test_the_search_finds_a_secret_in_every_form(tmp_path: Path) -> None:
    """What judges the others: a search that finds nothing anywhere would be content with everything."""
    (tmp_path / "plain").write_text(f"x{SECRET}x")
    (tmp_path / "packed").write_bytes(gzip.compress(SECRET.encode()))
    (tmp_path / "innocent").write_bytes(gzip.compress(b"nothing"))
    with contextlib.closing(sqlite3.connect(tmp_path / "database")) as database:
        database.execute("CREATE TABLE t (key TEXT, body BLOB)")
        database.execute("INSERT INTO t VALUES ('k', ?)", (zlib.compress(SECRET.encode() * 9),))
        database.commit()
    found = [Path(each.removesuffix(" (compressed)")).name for each in holders(tmp_path)]
    assert sorted(found) == ["database", "packed", "plain"]


def command_lines() -> bytes:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((process / "cmdline").read_bytes())
    return b"".join(found)


def engine_places(sampan: Any) -> tuple[Path, ...]:
    engine = sampan.engine
    return engine.root, engine.run_dir, engine.log


def test_a_step_sees_its_secrets_and_nobody_else_ever_does(
    sampan: Any, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_TEST_WORD", "plainword")
    dockerfile = (
        "FROM busybox\n"
        'RUN --mount=type=secret,id=token stat -c "first %a %u %g %s" /run/secrets/token && touch /made\n'
        "USER 1000:1000\n"
        "RUN --mount=type=secret,id=token,target=conf/t,mode=0440,uid=1000,gid=7 "
        'stat -c "second %a %u %g" /conf/t && wc -c < /conf/t\n'
        "USER 0\n"
        "RUN --mount=type=secret,id=token,env=TOKEN "
        'test ${#TOKEN} = 26 && test ! -e /run/secrets/token && test "$TOKEN" = "$(echo $TOKEN)" && echo third\n'
        'RUN --mount=type=secret,id=word,target=/w,env=WORD test "$(cat /w)" = "$WORD" && echo fourth $WORD\n'
        "RUN --mount=type=secret,id=none test ! -e /run/secrets/none && test ! -e /run/secrets && echo fifth\n"
        "RUN --mount=type=secret,id=token (echo x > /run/secrets/token) 2>&1 | grep -c Read-only\n"
    )
    done = build(
        sampan,
        site,
        dockerfile,
        "--secret",
        f"id=token,src={site}/token",
        "--secret",
        "id=word,env=SAMPAN_TEST_WORD",
        "-t",
        "secrets",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("first 400 0 0 26", "second 440 1000 7\n26", "third", "fourth plainword", "fifth", "\n1\n"):
        assert line in done.stdout
    assert SECRET not in done.stdout + done.stderr
    history = sampan.ok("history", "--no-trunc", "secrets") + sampan.ok("inspect", "secrets")
    assert SECRET not in history and "plainword" not in history
    assert sampan.run("save", "-o", str(site / "saved.tar"), "secrets").returncode == 0
    assert holders(site / "saved.tar") == []
    explained = build(
        sampan,
        site,
        dockerfile,
        "--explain",
        "--secret",
        f"id=token,src={site}/token",
        "--secret",
        "id=word,env=SAMPAN_TEST_WORD",
        "--progress",
        "rawjson",
        "--provenance",
        "mode=max",
        "-o",
        f"type=oci,dest={site}/out.tar",
    )
    assert explained.returncode == 0, explained.stderr
    assert SECRET not in explained.stdout + explained.stderr
    with tarfile.open(site / "out.tar") as archive:
        archive.extractall(site / "out", filter="data")
    assert holders(site / "out", site / "out.tar") == []
    listing = sampan.ok("run", "--rm", "secrets", "sh", "-c", "ls -d /run /conf /w /made 2>/dev/null; env")
    assert listing.splitlines()[0] == "/made" and "TOKEN" not in listing
    assert holders(*engine_places(sampan)) == []


def test_a_step_that_fails_leaves_no_secret(sampan: Any, site: Path) -> None:
    done = build(
        sampan,
        site,
        "FROM busybox\nRUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=token false\n",
        "--secret",
        f"id=token,src={site}/token",
    )
    assert done.returncode != 0
    assert SECRET not in done.stdout + done.stderr
    assert holders(*engine_places(sampan)) == []


def test_a_cancelled_build_leaves_no_secret(
    sampan: Any, site: Path, find_problems: Any, wait_until_empty: Any
) -> None:
    (site / "context/Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=token "
        "echo under way && sleep 60\n"
    )
    command = ("build", "--no-cache", "--secret", f"id=token,src={site}/token", str(site / "context"))
    process = sampan.start(*command, stdout=subprocess.PIPE)
    assert any(b"under way" in line for line in process.stdout)
    assert SECRET.encode() not in command_lines()
    assert holders(*engine_places(sampan)) == []
    process.send_signal(signal.SIGINT)
    process.wait(30)
    wait_until_empty(lambda: find_problems(sampan), "the build has left")
    assert holders(*engine_places(sampan)) == []


def test_a_secret_that_another_build_has_is_asked_for_anew(sampan: Any, site: Path) -> None:
    """It counts nothing in the cache's key: other bytes find the same step."""
    dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token echo a step with a secret > /made\n"
    (site / "context/Dockerfile").write_text(dockerfile)
    context = str(site / "context")
    first = sampan.ok("build", "-q", "--secret", f"id=token,src={site}/token", context)
    second = sampan.ok("build", "-q", "--secret", "id=token,src=/etc/hostname", context)
    assert first == second


def test_proxies_of_the_clients_configuration_reach_steps_and_nothing_else(
    make_sampan: Any, tmp_path: Path
) -> None:
    sampan = make_sampan(tmp_path / "engine")
    try:
        client = Path(sampan.engine.environment["DOCKER_CONFIG"])
        client.mkdir(parents=True, exist_ok=True)

        def build_with(proxy: str, *flags: str) -> str:
            (client / "config.json").write_text(f'{{"proxies": {{"default": {{"httpProxy": "{proxy}"}}}}}}')
            text = "FROM busybox\nRUN echo proxy=$HTTP_PROXY=$http_proxy; touch /x\n"
            done = sampan.run("build", "--progress", "plain", "-t", "p", *flags, "-", stdin=text.encode())
            assert done.returncode == 0
            return str(done.stdout + done.stderr)

        first = f"http://user:{SECRET}@one:1"
        assert f"proxy={first}={first}" in build_with(first)
        assert "CACHED" in build_with("http://two:2")
        assert "proxy=http://three:3=http://two:2" in build_with(
            "http://two:2", "--no-cache", "--build-arg", "HTTP_PROXY=http://three:3"
        )
        build_with(first, "--no-cache", "--provenance", "mode=max", "-o", f"type=oci,dest={tmp_path}/out.tar")
        inspected = sampan.ok("inspect", "p") + sampan.ok("history", "--no-trunc", "p")
        assert SECRET not in inspected and "one:1" not in inspected
        (client / "config.json").unlink()
        assert holders(*engine_places(sampan), tmp_path / "out.tar") == []
    finally:
        sampan.close()
        sampan.engine.stop()
