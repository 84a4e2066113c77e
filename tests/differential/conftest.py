"""The same command lines on Debian's docker (the oracle) and on sampan, and what they show compared.

A case is data (`sampan.testing.differential.case.Case`): a sentence, and command lines each of which says what
of it is compared. The files are the themes. `make differential AGAINST=docker` runs docker against docker: what
fails then is a case's fault. Nothing here is skipped: what is missing fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampan.testing.differential.case import Case
from sampan.testing.differential.run import Side, run_case
from sampan.testing.docker_engine import DOCKER, DockerProcess
from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar

AGAINST_ITSELF = os.environ.get("SAMPAN_DIFFERENTIAL_AGAINST") == "docker"
COMPATIBILITY = Path(__file__).parents[2] / "docs/compatibility.md"

# An image with everything an image can ask of a container; each engine builds it for itself.
RICH = """\
FROM busybox
LABEL org.example.kind=rich org.example.empty=
ENV GREETING="hello world" EMPTY=
RUN mkdir -p /data/sub /work && echo one > /data/one && chown -R 1:1 /data && chmod 750 /data
WORKDIR /work
VOLUME /data
EXPOSE 80 53/udp
USER 1:1
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1h CMD true
ONBUILD ENV LATER=1
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id"]
"""

# In a command line `{state}` stands for this template.
STATE = "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.RestartCount}} [{{.State.Error}}]"

# JSON fields that no case compares: they tell of the side, not of the container.
IGNORED = {
    "*Pid": "a process of the moment",
    "*SandboxKey": "each engine's own directory layout",
    "*.LogPath": "each engine's own directory layout",
    "*.ResolvConfPath": "each engine's own directory layout",
    "*.HostnamePath": "each engine's own directory layout",
    "*.HostsPath": "each engine's own directory layout",
    "*.GraphDriver.Data": "each engine's own directory layout",
    # The row "Fields of newer APIs" of docs/compatibility.md.
    "*.GwPriority": "newer than 20.10",
    "*.DNSNames": "newer than 20.10",
    "[[]].EnableIPv4": "newer than 20.10",
    "*KernelMemory": "gone since 24.0",
    "*KernelMemoryTCP": "gone since 24.0",
    "*BlkioDevice*": "null becomes [] with newer clients",
    "*.Aliases": "newer ones don't have the id",
    "*.VolumeOptions.DriverConfig": "{} with 20.10's client, absent with newer ones",
    "*.Container": "an image's; gone since 26.0",
    "*.ContainerConfig": "an image's; gone since 26.0",
    # The row "Runtime and Docker's own version" there.
    "Runtime": "each engine's own",
    "*.Runtime": "each engine's own",
    "*.DockerVersion": "each engine's own",
}


# Docker's client says this or does not, as its two requests happen to end.
CHANCE = {r'time="[^"]*" level=error msg="error waiting for container: context canceled"\n': ""}

# What sampan's side has in addition, on purpose, in the middle of much else: the row "Masked paths".
DELIBERATE = {
    r'"/proc/interrupts", ?': "",
    r', ?"/sys/devices/virtual/powercap"': "",
    r'\n\s*"/proc/interrupts",': "",
    r',\n\s*"/sys/devices/virtual/powercap"': "",
    r"(?m)^/(proc/interrupts|sys/devices/virtual/powercap) .*\n": "",
}


@contextlib.contextmanager
def _directory(name: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"differential-{name}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _docker() -> Iterator[DockerProcess]:
    with _directory("docker") as directory:
        engine = DockerProcess(directory / "engine")
        engine.start()
        try:
            engine.cli("import", "-c", 'CMD ["sh"]', "-", "busybox:latest", stdin=busybox_tar())
            yield engine
        finally:
            engine.stop()


@contextlib.contextmanager
def _sampan() -> Iterator[EngineProcess]:
    with _directory("sampan") as directory, EngineProcess(directory / "engine") as engine:
        engine.cli("import", "-c", 'CMD ["sh"]', "-", "busybox:latest", stdin=busybox_tar())
        yield engine


@pytest.fixture(scope="session")
def oracle() -> Iterator[DockerProcess]:
    with _docker() as engine:
        yield engine


def _six(other: str) -> str:
    """The beginning of IPv6 addresses for networks that cases make: of 10.240, fd00:240."""
    return f"fd00:{other.partition('.')[2]}"


def _side(name: str, engine: DockerProcess | EngineProcess, place: Path, other: str) -> Side:
    """Our name becomes the oracle's; addresses, directories and control groups become names for them.

    `other` is the beginning of addresses for networks that cases make.
    """
    docker = isinstance(engine, DockerProcess)
    command = DOCKER if docker else str(Path(sys.executable).with_name("sampan"))
    texts = {
        f"{command}:": "docker:",
        f"'{command} ": "'docker ",
        engine.bridge: "<bridge>",
        engine.cgroup_parent: "<cgroup parent>",
        str(engine.directory / ("data" if docker else "root") / "volumes"): "<volumes>",
        str(engine.directory): "<engine>",
        engine.subnet.rpartition(".")[0]: "<net>",
        other: "<other net>",
        _six(other): "<net6>",
        "sampan: ": "docker: ",
        "'sampan ": "'docker ",
        '"sampan ': '"docker ',
        "Usage:  sampan ": "Usage:  docker ",
    }
    environment = {**engine.environment, "FROM_HERE": "value from here", "LANG": "C.UTF-8"}
    engine.cli("build", "-q", "-t", "rich", "-", stdin=RICH.encode())
    patterns = CHANCE if docker else DELIBERATE
    return Side(
        name,
        command,
        environment,
        place,
        texts,
        {"net": other, "net6": _six(other), "state": STATE},
        patterns,
    )


@pytest.fixture(scope="session")
def sides(oracle: DockerProcess) -> Iterator[tuple[Side, Side]]:
    with _directory("cases") as place, _docker() if AGAINST_ITSELF else _sampan() as engine:
        yield (
            _side("docker", oracle, place / "docker", "10.240"),
            _side("sampan", engine, place / "sampan", "10.241"),
        )


def _clean(side: Side) -> None:
    """What the cases of one file left: containers, networks and volumes go; the images stay."""
    for listing, removing in (
        ("ps -aq", "rm -fv"),
        ("network ls -q --filter type=custom", "network rm"),
        ("volume ls -q", "volume rm -f"),
    ):
        line = f'names=$({side.command} {listing}); [ -z "$names" ] || {side.command} {removing} $names'
        subprocess.run(["sh", "-c", line], env=dict(side.environment), capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def _tidied(sides: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    yield sides
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_clean, sides))


@pytest.fixture
def agree(_tidied: tuple[Side, Side]) -> Callable[[Case], None]:
    """Both sides show the same; where the case names a deliberate difference, they must not."""

    def check(case: Case) -> None:
        report = run_case(case, *_tidied, IGNORED)
        wrong = report.broken
        if case.deliberate and not AGAINST_ITSELF:
            wrong += (
                [] if report.found else [f"no difference any more: remove deliberate={case.deliberate!r}"]
            )
        else:
            wrong += report.found
        if wrong and case.pending:
            pytest.xfail("; ".join([case.pending, *wrong]))
        if wrong:
            pytest.fail("\n".join([case.name, *wrong]), pytrace=False)

    return check
