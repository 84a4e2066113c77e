"""`build`: where Dockerfile and context come from, and what the environment adds; refusals in buildx's words."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.cli.build.calls import question
from sampan.cli.build.result import Result, write_iidfile
from sampan.cli.build_context import is_remote, open_context
from sampan.cli.commands.build import _build_arguments
from sampan.cli.failure import Failure
from sampan.cli.main import main

REPOSITORY = "https://example.org/app.git#main:docker"


def _stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_a_context_behind_a_url_takes_a_dockerfile_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stdin(monkeypatch, b"FROM scratch\n")
    context = open_context(REPOSITORY, "-")
    assert context.body is not None
    assert (context.remote, context.dockerfile, b"".join(context.body)) == (
        REPOSITORY, "Dockerfile", b"FROM scratch\n",
    )  # fmt: skip
    own = tmp_path / "App.dockerfile"
    own.write_text("FROM busybox\n")
    context = open_context(REPOSITORY, str(own))
    assert context.body is not None
    assert (context.dockerfile, b"".join(context.body)) == ("App.dockerfile", b"FROM busybox\n")
    sent = question(REPOSITORY, str(own))
    assert (sent.name, sent.remote, sent.alone, b"".join(sent.body)) == (
        "App.dockerfile", REPOSITORY, True, b"FROM busybox\n",
    )  # fmt: skip
    context = open_context(REPOSITORY, "build/Dockerfile")
    assert (context.dockerfile, context.body) == ("build/Dockerfile", None)
    with pytest.raises(Failure, match="no such file or directory"):
        open_context(REPOSITORY, str(tmp_path / "absent"))


def test_only_our_engine_is_sent_a_dockerfile_for_a_url(
    fake_engine: Path, engine_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_server.answers["HEAD", "/_ping"] = (200, None)
    _stdin(monkeypatch, b"FROM scratch\n")
    assert main(["--host", f"unix://{fake_engine}", "build", "-f", "-", REPOSITORY]) == 1
    assert "needs sampan's engine" in capsys.readouterr().err
    assert not [path for _, path, _ in engine_server.seen if "/build?" in path]


@pytest.mark.parametrize(
    "place", ["ssh://git@example.org/app.git", "git@example.org:app.git", "github.com/a/b"]
)
def test_addresses_of_repositories_are_known(place: str) -> None:
    assert is_remote(place)


@pytest.mark.parametrize(
    ("place", "dockerfile", "words"),
    [
        ("-", "-", "can't use stdin for both build context and dockerfile"),
        ("-", "App.dockerfile", "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"),
    ],
)
def test_standard_input_can_be_one_thing_only(
    place: str, dockerfile: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stdin(monkeypatch, b"FROM scratch\n")
    with pytest.raises(Failure, match=words):
        open_context(place, dockerfile)


def test_a_dockerfile_that_is_none_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("-", str(tmp_path), REPOSITORY):
        _stdin(monkeypatch, b"#" * (9 << 20))
        with pytest.raises(Failure, match="too large"):
            open_context(place, "" if place == "-" else "-")


@pytest.mark.parametrize(
    ("environment", "given", "reproducible", "epoch"),
    [
        ("7", [], False, "7"),
        ("7", ["SOURCE_DATE_EPOCH=5"], True, "5"),
        ("7", ["SOURCE_DATE_EPOCH="], False, ""),
        ("7", ["SOURCE_DATE_EPOCH="], True, "0"),
        ("7", ["SOURCE_DATE_EPOCH"], False, "7"),
        ("", ["A=b"], True, "0"),
        ("", ["A=b"], False, None),
    ],
)
def test_the_epoch_that_was_given_counts_before_the_environments(
    environment: str, given: list[str], reproducible: bool, epoch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", environment)
    assert _build_arguments(given, reproducible=reproducible).get("SOURCE_DATE_EPOCH") == epoch


def test_files_have_no_image_in_the_metadata_and_an_empty_id(tmp_path: Path) -> None:
    result = Result()
    result.remember({"ID": "", "ExporterResponse": {}})
    assert result.metadata(["one"]) == {}
    write_iidfile(str(tmp_path / "id"), result)
    assert (tmp_path / "id").read_text() == ""
    with pytest.raises(Failure, match="server did not provide an image ID"):
        write_iidfile(str(tmp_path / "id"), Result())
    with pytest.raises(Failure, match=f"cannot write {tmp_path}/no/id: no such file or directory"):
        write_iidfile(str(tmp_path / "no" / "id"), result)
    classic = Result()
    classic.remember({"ID": "sha256:" + "ab" * 32})
    assert "image.name" in classic.metadata(["one"])
