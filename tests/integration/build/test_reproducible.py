"""The same input gives the same image, on two engines and at two times."""

from __future__ import annotations

import gzip
import io
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
FROM --platform=$BUILDPLATFORM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin"]
FROM base AS tool
RUN mkdir -p /opt/tool && echo made > /opt/tool/file && ln /opt/tool/file /opt/tool/link && hostname > /opt/tool/host \\
    && umask > /opt/tool/umask && env | sort > /opt/tool/env && cp /etc/hosts /opt/tool/hosts && mkdir /opt/tool/dir
FROM base AS final
WORKDIR /srv/app
COPY <<TEXT /srv/app/text
a here-document
TEXT
COPY --from=tool /opt/tool /opt/tool
COPY . .
LABEL a=b
FROM scratch AS files
WORKDIR /made/here
COPY --from=tool /opt /opt
ADD packed.tar.gz /unpacked/
COPY --link src /linked/src
FROM final
"""
COPIES = """\
FROM dated
WORKDIR /made/here
COPY --from=busybox /etc /opt/etc
ADD packed.tar.gz /unpacked/
COPY --link src /linked/src
COPY src/main.py /srv/new/
"""
"""Nothing in it is of the time of the build."""


def _context(directory: Path, second: int) -> Path:
    """Files whose times are those of a fresh clone."""
    directory.mkdir()
    shutil.copy("/bin/busybox", directory / "busybox")
    (directory / "src").mkdir()
    (directory / "src/main.py").write_text("print(1)\n")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        directory_of = tarfile.TarInfo("deep")
        directory_of.type, directory_of.mode, directory_of.mtime = tarfile.DIRTYPE, 0o755, 1_800_000_000
        archive.addfile(directory_of)
        member = tarfile.TarInfo("deep/file")
        member.size, member.mtime = 3, 1_900_000_000
        archive.addfile(member, io.BytesIO(b"abc"))
        member.name = "not/listed/file"
        archive.addfile(member, io.BytesIO(b"abc"))
    (directory / "packed.tar.gz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    for name in ("busybox", "src/main.py", "src"):
        os.utime(directory / name, (second, second))
    return directory


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


def _copied(engine: Any, context: Path) -> list[str]:
    """The layers of a build that runs nothing, without an epoch."""
    base = b"FROM busybox\nLABEL a=b\n"
    engine.ok("build", "-t", "dated", "--build-arg", "SOURCE_DATE_EPOCH=1500000000", "-", stdin=base)
    (context / "Dockerfile").write_text(COPIES)
    engine.ok("build", "-t", "copied", str(context))
    layers: list[str] = json.loads(engine.ok("image", "inspect", "-f", "{{json .RootFS.Layers}}", "copied"))
    return layers


def _elsewhere(tmp_path: Path) -> tuple[Path, list[str]]:
    """A directory, and a way to start an engine in it, that would show in what a careless one makes."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    os.chown(directory, 0, 50)
    directory.chmod(0o2775)
    changes = (
        "hostname elsewhere; umask 077; export TZ=Asia/Tokyo LC_ALL=C LANG=C HTTP_PROXY=http://192.0.2.9:1"
    )
    return directory / "engine2", ["unshare", "--uts", "sh", "-c", f'{changes}; exec "$@"', "sh"]


def test_two_engines_at_two_times_give_the_same_bytes(
    make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    built = []
    places: list[tuple[Path, list[str]]] = [(tmp_path / "engine1", []), _elsewhere(tmp_path)]
    for number, (place, prefix) in enumerate(places):
        engine = make_sampan(place, prefix=prefix)
        try:
            context = _context(tmp_path / f"context{number}", 1_700_000_000 + number * 1000)
            engine.ok("build", "-t", "same", "--reproducible", str(context))
            saved, archive = tmp_path / f"saved{number}.tar", tmp_path / f"archive{number}.tar"
            engine.ok("save", "-o", str(saved), "same")
            platforms = ("--target", "files", "--platform", "linux/arm64,linux/amd64", "-t", "same:files")
            engine.ok("build", "--reproducible", *platforms, "-o", f"type=oci,dest={archive}", str(context))
            built.append(
                (
                    engine.ok("image", "inspect", "-f", "{{.ID}}", "same").strip(),
                    _members(saved),
                    archive.read_bytes(),
                    _copied(engine, _context(tmp_path / f"copied{number}", 1_700_000_000)),
                )
            )
        finally:
            engine.close()
            engine.engine.stop()
    assert built[0][0] == built[1][0]
    assert built[0][1] == built[1][1]
    assert built[0][2] == built[1][2]
    # Without an epoch what is copied is the same too; only histories tell the time.
    assert built[0][3] == built[1][3]
    assert len(built[0][3]) == 6


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


def test_stages_that_run_at_the_same_time_leave_no_order_in_caches(sampan: Any, tmp_path: Path) -> None:
    stages = [f"FROM busybox AS s{number}\nRUN echo {number} > /s{number}\n" for number in range(6)]
    copies = [f"COPY --from=s{number} /s{number} /\n" for number in range(6)]
    text = "".join((*stages, "FROM busybox\n", *copies)).encode()
    found = set()
    for number in range(4):
        cache, name = tmp_path / f"cache{number}", tmp_path / f"id{number}"
        to = ("--cache-to", "type=inline", "--cache-to", f"type=local,dest={cache},mode=max")
        sampan.ok("build", "--no-cache", "--reproducible", "--iidfile", str(name), *to, "-", stdin=text)
        found.add((name.read_text(), (cache / "index.json").read_bytes()))
    assert len(found) == 1
