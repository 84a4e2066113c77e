"""The mounts of RUN in a user namespace, and in a container that another OCI runtime makes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import _make
from tests.integration.engine.test_user_namespaces import remapping_prefix

pytestmark = pytest.mark.root

STEPS = (
    "FROM busybox AS one\nRUN echo of a stage > /a\n"
    "FROM busybox\n"
    "RUN --mount=type=secret,id=token,uid=7 stat -c 'secret %a %u %g' /run/secrets/token && cat /run/secrets/token\n"
    "RUN --mount=type=cache,target=/k,uid=5 stat -c 'cache %u' /k && touch /k/x && stat -c 'inside %u' /k/x\n"
    "RUN --mount=target=/c stat -c 'context %u' /c/f && cat /c/f\n"
    "RUN --mount=target=/c,rw echo changed > /c/f && cat /c/f\n"
    "RUN --mount=from=one,target=/c cat /c/a && stat -c 'stage %u' /c/a\n"
    "RUN --mount=from=one,target=/c,rw echo over it > /c/a && cat /c/a\n"
    "RUN --mount=type=tmpfs,target=/t touch /t/x && stat -c 'tmpfs %u' /t/x\n"
)
SEEN = [
    "secret 400 7 0",
    "4711",
    "cache 5",
    "inside 0",
    "context 0",
    "of the context",
    "changed",
    "of a stage",
]
SEEN += ["stage 0", "over it", "tmpfs 0"]


@pytest.fixture(params=["user namespace", "crun"])
def other(request: pytest.FixtureRequest) -> Iterator[Any]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-mounts-"))
    directory.chmod(0o711)  # the root of a user namespace is nobody here
    try:
        if request.param == "crun":
            options: dict[str, Any] = {
                "options": ("--add-runtime", "crun=/usr/bin/crun", "--default-runtime", "crun")
            }
        else:
            options = {
                "options": ("--userns-remap", "nobody:nogroup"),
                "prefix": remapping_prefix(directory),
            }
        sampan = _make(directory / "engine", **options)
        try:
            yield sampan
        finally:
            sampan.close()
            sampan.engine.stop()
    finally:
        shutil.rmtree(directory)


def test_every_mount_is_there_with_the_steps_own_ids(other: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STEPS)
    (context / "f").write_text("of the context\n")
    (tmp_path / "token").write_text("4711\n")
    done = other.run(
        "build", "--progress", "plain", "--secret", f"id=token,src={tmp_path}/token", str(context)
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    lines = [
        line.split(" ", 2)[2] for line in said.splitlines() if line.startswith("#") and line.count(" ") > 1
    ]
    assert [line for line in lines if line in SEEN] == SEEN
    assert (context / "f").read_text() == "of the context\n"
