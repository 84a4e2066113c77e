"""Dockerfiles with errors, and contexts that are not what they should be, through the command line."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import docker.errors
import pytest

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("lines", "line", "column", "expected"),
    [
        (["FROM busybox", "RUNN echo hi"], 2, 1, "unknown instruction: RUNN"),
        (["FROM busybox", "", "  COPY onlyone"], 3, 3, "COPY requires at least two arguments"),
        (["FROM busybox", 'ENV A="unclosed'], 2, 7, "quote"),
        (["FROM busybox", "EXPOSE seventy"], 2, 1, "expected: a number or a range"),
        (["RUN true"], 1, 1, "FROM"),
        (["FROM busybox", "HEALTHCHECK SOMETIMES"], 2, 13, "HEALTHCHECK"),
        (["FROM busybox", "COPY --form=first /x /x"], 2, 6, "form"),
    ],
)
def test_an_error_names_file_line_column_text_and_what_was_expected(
    sampan: Any, tmp_path: Path, lines: list[str], line: int, column: int, expected: str
) -> None:
    (tmp_path / "Dockerfile").write_text("\n".join(lines) + "\n")
    done = sampan.run("build", "-t", "bad:1", str(tmp_path))
    assert done.returncode == 1
    assert f"Dockerfile, line {line}" in done.stderr or f"Dockerfile:{line}" in done.stderr
    assert f"column {column}" in done.stderr or f"Dockerfile:{line}:{column}" in done.stderr
    assert lines[line - 1].strip() in done.stderr
    assert expected.lower() in done.stderr.lower()
    assert sampan.ok("images", "-q", "bad") == ""


def test_an_empty_or_missing_dockerfile_and_context(sampan: Any, tmp_path: Path) -> None:
    missing = sampan.run("build", str(tmp_path / "nowhere"))
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    without = sampan.run("build", str(tmp_path))
    assert without.returncode == 1
    assert "Dockerfile" in without.stderr
    (tmp_path / "Dockerfile").write_text("# only a comment\n")
    empty = sampan.run("build", str(tmp_path))
    assert empty.returncode == 1
    assert "Dockerfile" in empty.stderr and "no instructions" in empty.stderr


def test_what_can_not_be_copied_or_found_fails_the_build(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN touch /kept\nCOPY nosuch /x\n")
    copied = sampan.run("build", "-t", "bad:1", str(tmp_path))
    assert copied.returncode == 1
    assert "nosuch" in copied.stderr
    (tmp_path / "Dockerfile").write_text("FROM 127.0.0.1:1/no/such:1\n")
    based = sampan.run("build", str(tmp_path))
    assert based.returncode == 1
    assert "127.0.0.1:1" in based.stderr
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 9\n")
    failed = sampan.run("build", str(tmp_path))
    assert failed.returncode == 9
    assert "returned a non-zero code: 9" in failed.stderr
    assert sampan.ok("images", "-q", "bad") == ""


def _archive(*entries: tuple[str, bytes, str]) -> io.BytesIO:
    """Entries: name, type, link target or content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
            else:
                entry.linkname = text
                archive.addfile(entry)
    out.seek(0)
    return out


DOCKERFILE = ("Dockerfile", tarfile.REGTYPE, "FROM busybox\nCOPY . /ctx/\n")


def hostile(target: Path) -> dict[str, io.BytesIO]:
    """Archives that would write, or read, `target` outside of where they are unpacked."""
    up = "../" * 20
    return {
        "dots": _archive(DOCKERFILE, (f"{up}{target}", tarfile.REGTYPE, "evil")),
        "absolute": _archive(DOCKERFILE, (str(target), tarfile.REGTYPE, "evil")),
        "through a symlink": _archive(
            DOCKERFILE,
            ("way", tarfile.SYMTYPE, str(target.parent)),
            (f"way/{target.name}", tarfile.REGTYPE, "evil"),
        ),
        "through a relative symlink": _archive(
            DOCKERFILE,
            ("way", tarfile.SYMTYPE, f"{up}{target.parent}"),
            (f"way/{target.name}", tarfile.REGTYPE, "evil"),
        ),
        "hard link": _archive(
            DOCKERFILE, ("way", tarfile.LNKTYPE, f"{up}etc/passwd"), ("way", tarfile.REGTYPE, "evil")
        ),
        "hard link to a symlink's target": _archive(
            DOCKERFILE, ("s", tarfile.SYMTYPE, "/etc/passwd"), ("way", tarfile.LNKTYPE, "s")
        ),
    }


KINDS = sorted(hostile(Path("/tmp/x")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_build_context_writes_and_reads_nothing_outside(
    sampan: Any, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    passwd = Path("/etc/passwd").read_bytes()
    try:
        sampan.api.images.build(fileobj=hostile(target)[kind], custom_context=True, tag="hostile:1")
    except (docker.errors.BuildError, docker.errors.APIError) as error:
        assert "internal error" not in str(error)
    else:
        inside = sampan.ok("run", "--rm", "hostile:1", "sh", "-c", "cat /ctx/way 2>/dev/null; true")
        assert "root:x:0:0:root:/root:/bin/bash" not in inside
        sampan.ok("rmi", "hostile:1")
    assert not target.exists()
    assert Path("/etc/passwd").read_bytes() == passwd
    assert os.listdir(sampan.engine.root / "builds") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_archive_copied_into_a_container_stays_inside(
    sampan: Any, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    passwd = Path("/etc/passwd").read_bytes()
    container = sampan.api.containers.create("busybox", "true")
    try:
        container.put_archive("/tmp", hostile(target)[kind])
    except docker.errors.APIError as error:
        assert error.status_code < 500
    assert not target.exists()
    assert Path("/etc/passwd").read_bytes() == passwd


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_root_file_system_is_refused_or_stays_inside(
    sampan: Any, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    passwd = Path("/etc/passwd").read_bytes()
    done = sampan.run("import", "-", "hostile:1", stdin=hostile(target)[kind].getvalue())
    assert "internal error" not in done.stderr
    if done.returncode == 0:
        sampan.ok("create", "--name", "looked", "hostile:1", "x")
        sampan.run("cp", "looked:/way", str(tmp_path / "out"))
        sampan.ok("rm", "looked")
        sampan.ok("rmi", "hostile:1")
        out = tmp_path / "out"
        assert not (out.is_file() and not out.is_symlink() and out.read_bytes() == passwd)
    else:
        assert sampan.ok("images", "-q", "hostile") == ""
    assert not target.exists()
    assert Path("/etc/passwd").read_bytes() == passwd


@pytest.mark.parametrize("damage", ["not a tar", "cut", "empty", "manifest climbs"])
def test_an_image_archive_that_is_damaged_is_refused(sampan: Any, tmp_path: Path, damage: str) -> None:
    sampan.ok("tag", "busybox", "todamage:1")
    sampan.ok("save", "-o", str(tmp_path / "image.tar"), "todamage:1")
    sampan.ok("rmi", "todamage:1")
    data = (tmp_path / "image.tar").read_bytes()
    climbing = (
        '[{"Config":"../../../../etc/passwd","RepoTags":["todamage:1"],"Layers":["../../../../etc/passwd"]}]'
    )
    bad = {
        "not a tar": os.urandom(10240),
        "cut": data[: len(data) // 3],
        "empty": b"",
        "manifest climbs": _archive(("manifest.json", tarfile.REGTYPE, climbing)).getvalue(),
    }[damage]
    done = sampan.run("load", stdin=bad)
    assert done.returncode == 1
    assert done.stderr.strip() and "internal error" not in done.stderr
    assert sampan.ok("images", "-q", "todamage") == ""
    assert sampan.ok("load", stdin=data) == "Loaded image: todamage:1"
    sampan.ok("rmi", "todamage:1")
