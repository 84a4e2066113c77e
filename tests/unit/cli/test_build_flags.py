"""`build`: every flag of Docker's builders is known; what one asks for is done or refused, never ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.build.asking import beyond_classic
from sampan.cli.build.flags import FLAGS
from sampan.cli.build.result import Result
from sampan.cli.failure import UsageError
from sampan.cli.flags import parse
from sampan.cli.main import main

BUILDX = """add-host allow annotation attest build-arg build-context builder cache-from cache-to call cgroup-parent
check debug file iidfile label load metadata-file network no-cache no-cache-filter output platform progress provenance
pull push quiet sbom secret shm-size ssh tag target ulimit"""
CLASSIC = """add-host build-arg cache-from cgroup-parent compress cpu-period cpu-quota cpu-shares cpuset-cpus
cpuset-mems disable-content-trust file force-rm iidfile isolation label memory memory-swap network no-cache platform
pull quiet rm security-opt shm-size squash tag target ulimit"""
"""`docker buildx build --help` and `docker build --help` with DOCKER_BUILDKIT=0."""
ID = "sha256:" + "ab" * 32


def test_every_flag_of_dockers_builders_is_declared_once() -> None:
    names = [flag.name for flag in FLAGS]
    assert {*BUILDX.split(), *CLASSIC.split()} <= set(names)
    assert len(names) == len(set(names))


def test_a_flag_without_meaning_is_refused_before_anything_is_sent(
    engine_server: Any, fake_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    for arguments in (["--squash"], ["--isolation", "hyperv"]):
        assert main(["--host", f"unix://{fake_engine}", "build", *arguments, str(tmp_path)]) == 1
        assert f"{arguments[0]}" in (said := capsys.readouterr().err)
        assert "is not supported" in said
    assert engine_server.seen == []


def test_a_bad_progress_is_refused(fake_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", f"unix://{fake_engine}", "build", "--progress", "loud", "."]) == 125
    assert "expected auto, plain, tty, quiet, rawjson or none" in capsys.readouterr().err


def test_hosts_may_come_several_in_one() -> None:
    flags = parse(FLAGS, ["--add-host", "a:192.0.2.1,b=host-gateway", "--add-host", "c:[::1]"])[0]
    assert len(flags["add-host"]) == 3
    with pytest.raises(UsageError, match="bad format for add-host"):
        parse(FLAGS, ["--add-host", "a:192.0.2.1,b"])


def test_no_progress_says_nothing_of_a_build_that_succeeds(
    fake_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    command = ["--host", f"unix://{fake_engine}", "build", "-D", "--progress", "none", str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr() == ("", "")


def test_the_id_and_the_metadata_are_written_after_a_build(
    engine_server: Any, fake_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    engine_server.answers["POST", "/build"] = (200, {"aux": {"ID": ID}})
    ids, metadata = tmp_path / "id", tmp_path / "metadata.json"
    files = ["--iidfile", str(ids), "--metadata-file", str(metadata)]
    command = ["--host", f"unix://{fake_engine}", "buildx", "build", "-t", "one", "-t", "two", *files]
    assert main([*command, str(tmp_path)]) == 0, capsys.readouterr().err
    assert ids.read_text() == ID
    assert json.loads(metadata.read_text()) == {
        "containerimage.config.digest": ID,
        "containerimage.digest": ID,
        "image.name": "docker.io/library/one:latest,docker.io/library/two:latest",
    }
    # A build that fails leaves nothing of an earlier one.
    engine_server.answers["POST", "/build"] = (200, {"errorDetail": {"message": "no"}, "error": "no"})
    assert main([*command, str(tmp_path)]) == 1
    assert not ids.exists()
    assert not metadata.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_the_engine_says_of_the_result_is_the_metadata() -> None:
    result = Result()
    result.remember({"ID": ID})
    result.remember({"ExporterResponse": {"image.name": "docker.io/library/one:latest"}})
    assert result.metadata(["one"]) == {"image.name": "docker.io/library/one:latest"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["-o", "x"], "--output"),
        (["--secret", "id=a"], "--secret"),
        (["--provenance", "true"], "--provenance"),
        (["--provenance", "false", "--platform", "linux/arm64"], ""),
        (["--platform", "linux/amd64,linux/arm64"], "--platform with several platforms"),
        (["--cache-from", "image"], ""),
        (["--cache-from", "type=registry,ref=image"], "--cache-from type=…"),
        (["--no-cache-filter", "stage"], "--no-cache-filter"),
        (["-t", "x", "--memory", "64m", "--iidfile", "x", "--metadata-file", "y"], ""),
    ],
)
def test_what_another_engine_would_overlook_is_known(arguments: list[str], what: str) -> None:
    assert beyond_classic(parse(FLAGS, arguments)[0]) == what
