"""The same input gives the same image, on two engines and at two times."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin"]
FROM base AS tool
RUN mkdir -p /opt/tool && echo made > /opt/tool/file && ln /opt/tool/file /opt/tool/link && hostname > /opt/tool/host
FROM base
WORKDIR /srv/app
COPY <<TEXT /srv/app/text
a here-document
TEXT
COPY --from=tool /opt/tool /opt/tool
COPY . .
LABEL a=b
"""


def _context(directory: Path, second: int) -> Path:
    """Files whose times are those of a fresh clone."""
    directory.mkdir()
    shutil.copy("/bin/busybox", directory / "busybox")
    (directory / "src").mkdir()
    (directory / "src/main.py").write_text("print(1)\n")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    for path in (directory / "busybox", directory / "src/main.py", directory / "src"):
        os.utime(path, (second, second))
    return directory


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


def test_two_engines_at_two_times_give_the_same_image_digest(
    make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    built = []
    for number in (1, 2):
        engine = make_sampan(tmp_path / f"engine{number}")
        try:
            context = _context(tmp_path / f"context{number}", 1_700_000_000 + number * 1000)
            engine.ok("build", "-t", "same", "--reproducible", str(context))
            saved = tmp_path / f"saved{number}.tar"
            engine.ok("save", "-o", str(saved), "same")
            built.append((engine.ok("image", "inspect", "-f", "{{.ID}}", "same").strip(), _members(saved)))
        finally:
            engine.close()
    assert built[0][0] == built[1][0]
    assert built[0][1] == built[1][1]


def test_nothing_is_newer_than_the_epoch_and_older_files_keep_their_time(sampan: Any, tmp_path: Path) -> None:
    context = _context(tmp_path / "context", 1_600_000_000)
    sampan.ok("build", "-t", "dated", "--build-arg", "SOURCE_DATE_EPOCH=1650000000", str(context))
    inspected = json.loads(sampan.ok("image", "inspect", "dated"))[0]
    assert inspected["Created"].startswith("2022-04-15T05:20:00")
    times = sampan.ok(
        "run", "--rm", "dated", "stat", "-c", "%Y", "/srv/app/text", "/opt/tool/file", "/srv/app/src/main.py"
    ).split()
    assert times == ["1650000000", "1650000000", "1600000000"]


@pytest.mark.parametrize("wrong", ["yesterday", "-1", "1e9", "999999999999"])
def test_an_epoch_that_is_no_time_is_refused(sampan: Any, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    refused = sampan.run("build", "--build-arg", f"SOURCE_DATE_EPOCH={wrong}", str(tmp_path))
    assert refused.returncode == 1
    assert "invalid SOURCE_DATE_EPOCH" in refused.stderr
