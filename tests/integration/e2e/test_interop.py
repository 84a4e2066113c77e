"""Images travel between sampan and the real docker, podman and skopeo."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM busybox
RUN echo app:x:1000:1000::/:/bin/sh >> /etc/passwd && mkdir -p /srv/app && echo built > /srv/app/file && rm /etc/group
COPY --chown=app . /srv/app/
ENV GREETING=hello
WORKDIR /srv/app
USER app
ENTRYPOINT ["sh", "-c"]
CMD ["echo $GREETING $(id -un) $(cat file copied) $(test -e /etc/group || echo gone)"]
"""
# podman asks for more open files than a process without CAP_SYS_RESOURCE may have.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
EXPECTED = "hello app built copied gone"


def call(*command: str, env: dict[str, str] | None = None, timeout: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def dockerd() -> Iterator[dict[str, str]]:
    """Debian's engine without a network; the environment for its client."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-dockerd-"))
    process = subprocess.Popen(
        ["dockerd", "--data-root", f"{directory}/root", "--exec-root", f"{directory}/exec", "--bridge", "none",
         "--iptables=false", "--ip-masq=false", "-H", f"unix://{directory}/sock", "--pidfile", f"{directory}/pid"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        seen = b""
        while b"API listen on" not in seen:
            ready, _, _ = select.select([process.stderr], [], [], 60)
            chunk = os.read(process.stderr.fileno(), 65536) if ready else b""  # type: ignore[union-attr]
            assert chunk, f"dockerd did not start: {seen.decode()}"
            seen += chunk
        yield {**os.environ, "DOCKER_HOST": f"unix://{directory}/sock", "DOCKER_CONFIG": str(directory)}
    finally:
        process.terminate()
        process.communicate(timeout=60)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def podman() -> Iterator[list[str]]:
    """The command line of a podman with storage of its own."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-podman-"))
    command = ["podman", "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--storage-driver", "vfs",
               "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--log-level", "error"]  # fmt: skip
    try:
        yield command
    finally:
        subprocess.run([*command, "rmi", "-af"], capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def image(sampan: Any, tmp_path: Path) -> Iterator[Path]:
    """An image made by sampan, saved; it has a whiteout, a user, an owner and a working directory."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "copied").write_text("copied\n")
    (context / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    sampan.ok("build", "-t", "interop:1", str(context))
    assert sampan.ok("run", "--rm", "interop:1") == EXPECTED
    archive = tmp_path / "image.tar"
    sampan.ok("save", "-o", str(archive), "interop:1")
    yield archive
    sampan.run("rmi", "-f", "interop:1")


def test_docker_runs_what_sampan_built_and_the_other_way_round(
    sampan: Any, image: Path, dockerd: dict[str, str], tmp_path: Path
) -> None:
    assert call("/usr/bin/docker", "load", "-i", str(image), env=dockerd) == "Loaded image: interop:1"
    ran = call("/usr/bin/docker", "run", "--rm", "--network", "none", "interop:1", env=dockerd)
    assert ran == EXPECTED
    identity = call("/usr/bin/docker", "image", "inspect", "-f", "{{.Id}}", "interop:1", env=dockerd)
    assert identity == sampan.ok("image", "inspect", "-f", "{{.Id}}", "interop:1")

    context = tmp_path / "theirs"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM interop:1\nUSER root\nRUN rm file && echo theirs > file\nUSER app\n"
    )
    theirs = {**dockerd, "DOCKER_BUILDKIT": "0"}
    call("/usr/bin/docker", "build", "--network", "none", "-t", "theirs:1", str(context), env=theirs)
    call("/usr/bin/docker", "save", "-o", str(tmp_path / "theirs.tar"), "theirs:1", env=dockerd)
    assert sampan.ok("load", "-i", str(tmp_path / "theirs.tar")) == "Loaded image: theirs:1"
    assert sampan.ok("run", "--rm", "theirs:1") == EXPECTED.replace("built", "theirs")
    sampan.ok("rmi", "theirs:1")


def test_podman_runs_what_sampan_built_and_the_other_way_round(
    sampan: Any, image: Path, podman: list[str], tmp_path: Path
) -> None:
    call(*podman, "load", "-i", str(image))
    assert (
        call(*podman, "run", "--rm", "--network", "none", *LIMITS, "docker.io/library/interop:1") == EXPECTED
    )
    for format in ("oci-archive", "docker-archive"):
        archive = tmp_path / f"{format}.tar"
        call(*podman, "save", "--format", format, "-o", str(archive), "docker.io/library/interop:1")
        sampan.run("rmi", "-f", "interop:1")
        assert "interop:1" in sampan.ok("load", "-i", str(archive))
        assert sampan.ok("run", "--rm", "interop:1") == EXPECTED


def test_skopeo_copies_an_archive_of_sampans(image: Path, tmp_path: Path) -> None:
    call("skopeo", "copy", "--insecure-policy", f"docker-archive:{image}", f"oci:{tmp_path}/layout:x")
    assert '"sha256:' in call("skopeo", "inspect", f"oci:{tmp_path}/layout:x")
