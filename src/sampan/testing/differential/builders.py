"""The builders that are compared: each takes a base image, builds a directory, and gives its images as one archive."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sampan.testing.docker_engine import DOCKER

BUILD_SECONDS = 600
NEWEST = "SAMPAN_NEWEST_DOCKER"
"""A command that is the newest docker's command line (`/path/to/enter docker`), and sees the temporary directory."""


@dataclass(frozen=True)
class Built:
    """`ok`: an image was made. `output`: everything that the build said."""

    ok: bool
    output: str


@dataclass(frozen=True)
class Builder:
    """`build` stands before its options, `-t TAG`, `-f FILE` and the context; `load` takes a file after it.

    `save` takes `-o FILE` (`{file}`) and the tags.
    """

    name: str
    build_command: Sequence[str]
    load_command: Sequence[str]
    save_command: Sequence[str]
    remove_command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    prefix: str = "sampan-differential"

    def tag(self, case: str) -> str:
        return f"{self.prefix}/{self.name}-{case}:latest"

    def load(self, archive: Path) -> None:
        """Raises RuntimeError."""
        done = self._run([*self.load_command, str(archive)])
        if not done.ok:
            raise RuntimeError(f"{self.name}: {done.output}")

    def build(self, case: str, context: Path, options: Sequence[str]) -> Built:
        return self._run([*self.build_command, *options, "-t", self.tag(case), str(context)])

    def save(self, cases: Sequence[str], to: Path) -> None:
        """Raises RuntimeError."""
        done = self._run([*self.save_command, str(to), *map(self.tag, cases)])
        if not done.ok:
            raise RuntimeError(f"{self.name}: {done.output}")

    def remove(self, cases: Sequence[str]) -> None:
        self._run([*self.remove_command, *map(self.tag, cases)])

    def _run(self, command: Sequence[str]) -> Built:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=dict(self.environment), timeout=BUILD_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return Built(False, f"not done after {BUILD_SECONDS} s: {(error.output or b'')[-2000:]!r}")
        return Built(done.returncode == 0, done.stdout.decode("utf-8", "replace"))


def sampan(environment: Mapping[str, str]) -> Builder:
    command = (sys.executable, "-m", "sampan.cli.main")
    return _dockerlike("sampan", command, environment, ("--progress", "plain"))


def classic(environment: Mapping[str, str]) -> Builder:
    """Debian's docker.io with the builder that it has had from the beginning."""
    return _dockerlike("classic", (DOCKER,), {**environment, "DOCKER_BUILDKIT": "0"}, ("--force-rm",))


def embedded(environment: Mapping[str, str]) -> Builder:
    """The BuildKit inside Debian's docker.io."""
    return _dockerlike(
        "embedded", (DOCKER,), {**environment, "DOCKER_BUILDKIT": "1"}, ("--progress", "plain")
    )


def newest() -> Builder | None:
    """The newest Docker's BuildKit, where `SAMPAN_NEWEST_DOCKER` says how to call it."""
    command = shlex.split(os.environ.get(NEWEST, ""))
    if not command:
        return None
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_BUILDKIT"}
    return _dockerlike("newest", command, environment, ("--progress", "plain", "--provenance=false"))


def _dockerlike(
    name: str, command: Sequence[str], environment: Mapping[str, str], options: Sequence[str]
) -> Builder:
    return Builder(
        name,
        (*command, "build", *options),
        (*command, "load", "-q", "-i"),
        (*command, "save", "-o"),
        (*command, "rmi", "-f"),
        environment,
    )


def buildah(directory: Path) -> Builder:
    """Debian's buildah, with storage of its own."""
    place = ("--root", f"{directory}/storage", "--runroot", f"{directory}/run", "--storage-driver", "overlay")
    podman = ("podman", *place)
    return Builder(
        "buildah",
        ("buildah", *place, "bud", "--format", "docker", "--isolation", "chroot", "--pull-never"),
        (*podman, "load", "-q", "-i"),
        (*podman, "save", "-q", "--format", "docker-archive", "--multi-image-archive", "-o"),
        (*podman, "rmi", "-f"),
        dict(os.environ),
        "localhost/sampan-differential",
    )
