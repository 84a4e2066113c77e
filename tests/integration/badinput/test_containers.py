"""Bad input to container commands: exit codes and messages that name the flag and the value.

`container_refusals.txt` holds what docker.io 20.10.24 (Debian 12, its command line against its dockerd) answered
to each line; the hexadecimal ids in it are `<id>`. What sampan says otherwise on purpose is in `OWN`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
RECORDED = Path(__file__).with_name("container_refusals.txt")
# (command line, exit code, a part of the message)
OWN = (
    ("create --restart on-failure:x busybox", 125,
     "invalid restart policy format: maximum retry count must be an integer"),
    ("create --restart-unhealthy busybox", 1,
     "conflicting options: --restart-unhealthy and restart policy 'no'"),
    ("create -l sampan.restart-unhealthy=yes --restart always busybox", 1,
     "invalid value 'yes' of label sampan.restart-unhealthy: expected true or false"),
    ("create --log-opt foo=bar busybox", 1, "unknown log opt 'foo' for json-file log driver"),
    ("create --network nonex busybox", 1, "network nonex not found"),
    ("create --storage-opt size=1G busybox", 1, "--storage-opt is supported only for overlay over xfs"),
    ("create --gpus all busybox", 1, "GPUs are not supported yet"),
    ("create --sysctl kernel.panic=1 busybox", 125, "sysctl 'kernel.panic=1' is not allowed"),
    ("create --pull foo busybox", 1,
     "invalid pull option: 'foo': must be one of \"always\", \"missing\" or \"never\""),
    ("create --pull never nonexistent:1", 1, "No such image: nonexistent:1"),
    ("create --pull never --platform linux/s390x busybox", 1,
     "does not match the specified platform: wanted linux/s390x, actual: linux/"),
    ("create --platform foo busybox", 1, '"foo": unknown operating system or architecture'),
    ("create --platform a/b/c/d busybox", 1, "'a/b/c/d' is an invalid platform"),
    ("run --detach-keys ctrl-1 busybox", 1, "invalid detach keys (ctrl-1): Unknown character: 'ctrl-1'"),
    ("run --cidfile no/such/file busybox", 125,
     "failed to create the container ID file: open no/such/file: no such file or directory"),
    ("run --rm busybox nonexistent", 127, 'exec: "nonexistent": executable file not found in $PATH'),
    ("run --rm busybox /etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ("exec running nonexistent", 127, 'exec: "nonexistent": executable file not found in $PATH'),
    ("exec -w rel running true", 126, "Cwd must be an absolute path"),
    ("rm -l nonexistent/alias", 1, "No such container: nonexistent"),
    ("stop -t foo running", 125, 'invalid argument "foo" for "-t, --timeout" flag'),
)  # fmt: skip


def recorded() -> list[Any]:
    """(command line, exit code, message) of every block of the file."""
    blocks = RECORDED.read_text().strip().split("\n\n$ ")
    found = []
    for block in blocks[1:]:
        line, code, message = block.split("\n", 2)
        found.append(pytest.param(line, int(code), message.strip(), id=line))
    return found


class Place:
    def __init__(self, sampan: Any, directory: Path) -> None:
        self._engine = sampan.engine
        self._directory = directory

    def run(self, line: str) -> tuple[int, str]:
        """Exit code, and what was said on standard error (else on standard output), in Docker's name."""
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli.main", *shlex.split(line)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._engine.environment,
            cwd=self._directory,
            timeout=60,
        )
        text = re.sub(r"\bsampan\b(?!\.)", "docker", done.stderr.strip() or done.stdout.strip())
        return done.returncode, re.sub(r"\b[0-9a-f]{64}\b", "<id>", text)


@pytest.fixture(scope="module")
def place(shared_sampan: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("refused")
    (directory / "bad.env").write_text("A B=1\n")
    (directory / "file").touch()
    ok = shared_sampan.ok
    ok("create", "--name", "stopped", BUSYBOX, "true")
    ok("create", "--rm", "--name", "auto", BUSYBOX, "true")
    ok("run", "-d", "--name", "running", BUSYBOX, "sleep", "1000")
    ok("run", "-d", "--name", "paused", BUSYBOX, "sleep", "1000")
    ok("pause", "paused")
    try:
        yield Place(shared_sampan, directory)
    finally:
        shared_sampan.clean()


@pytest.mark.parametrize(("line", "code", "message"), recorded())
def test_a_refusal_is_dockers(place: Place, line: str, code: int, message: str) -> None:
    status, text = place.run(line)
    assert status == code
    # Advice of our own may follow on lines of its own.
    assert text == message or text.startswith(f"{message}\n")


@pytest.mark.parametrize(("line", "code", "part"), OWN)
def test_a_refusal_of_our_own_names_the_value(place: Place, line: str, code: int, part: str) -> None:
    status, text = place.run(line)
    assert status == code
    assert part in text


def test_no_refusal_has_left_anything(place: Place, shared_sampan: Any) -> None:
    names = shared_sampan.ok("ps", "-a", "--format", "{{.Names}}").split()
    assert sorted(names) == ["auto", "paused", "running", "stopped"]
    assert place.run("volume ls -q") == (0, "")
