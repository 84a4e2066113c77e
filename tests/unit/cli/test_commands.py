"""Whole commands against canned answers: exit codes, messages, few requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.commands import bootstrap
from sampan.cli.commands.cp import base_name, plan_destination, split_place
from sampan.cli.failure import Failure
from sampan.cli.main import main


@pytest.fixture
def run(fake_engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("SAMPAN_DEBUG", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(["--host", f"unix://{fake_engine}", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_a_detached_run_needs_two_requests(run: Any, engine_server: Any) -> None:
    status, out, _ = run("run", "-d", "--name", "x", "busybox", "true")
    assert (status, out) == (0, "f" * 64 + "\n")
    methods = [(method, path) for method, path, _ in engine_server.seen]
    assert methods == [
        ("POST", "/v1.47/containers/create?name=x"),
        ("POST", f"/v1.47/containers/{'f' * 64}/start"),
    ]
    body = json.loads(engine_server.seen[0][2])
    assert (body["AttachStdout"], body["AttachStderr"]) == (False, False)


def test_an_older_engine_is_spoken_to_in_its_version(run: Any, engine_server: Any) -> None:
    refusal = "client version 1.47 is too new. Maximum supported API version is 1.41"
    answers = iter([(400, {"message": refusal}), (200, [])])

    class Once(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return next(answers)

    engine_server.answers = Once()
    assert run("ps", "-q") == (0, "", "")
    assert [path.split("/")[1] for _, path, _ in engine_server.seen] == ["v1.47", "v1.41"]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127),
        ("stat /x: no such file or directory: unknown", 127),
        ("exec: /etc/passwd: permission denied", 126),
        ("driver failed programming external connectivity", 125),
    ],
)
def test_a_start_that_fails_gives_dockers_exit_codes(
    run: Any, engine_server: Any, message: str, status: int
) -> None:
    engine_server.answers[("POST", f"/containers/{'f' * 64}/start")] = (400, {"message": message})
    code, _, err = run("run", "-d", "busybox", "x")
    assert code == status
    assert err == f"sampan: Error response from daemon: {message}.\n"


def test_the_exit_code_is_asked_for_again_when_the_engine_was_replaced(
    engine_server: Any, fake_engine: Path
) -> None:
    from sampan.cli.commands.run import exit_status
    from sampan.client.address import parse_address
    from sampan.client.api import Client

    engine_server.answers[("POST", "/containers/c/wait")] = (200, {"StatusCode": 5})
    client = Client(parse_address(f"unix://{fake_engine}"))
    broken = client._open()  # the request's answer will never come
    broken._sock.shutdown(2)
    assert exit_status(client, broken, "c") == 5
    engine_server.answers[("POST", "/containers/c/wait")] = (404, {"message": "No such container: c"})
    broken = client._open()  # the request's answer will never come
    broken._sock.shutdown(2)
    assert exit_status(client, broken, "c") == 125


def test_warnings_of_a_create_go_to_standard_error(run: Any, engine_server: Any) -> None:
    engine_server.answers[("POST", "/containers/create")] = (201, {"Id": "f" * 64, "Warnings": ["careful"]})
    assert run("create", "busybox") == (0, "f" * 64 + "\n", "WARNING: careful\n")


def test_a_cidfile_is_written_once(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "id"
    assert run("create", "--cidfile", str(path), "busybox")[0] == 0
    assert path.read_text() == "f" * 64
    status, _, err = run("run", "--cidfile", str(path), "busybox")
    assert status == 125 and "container ID file found" in err


def test_a_failed_create_leaves_no_cidfile(run: Any, engine_server: Any, tmp_path: Path) -> None:
    engine_server.answers[("POST", "/containers/create")] = (409, {"message": "Conflict."})
    assert run("run", "--cidfile", str(tmp_path / "id"), "busybox")[0] == 125
    assert not (tmp_path / "id").exists()


def test_an_unknown_command_is_named(run: Any) -> None:
    assert run("foo") == (1, "", "sampan: 'foo' is not a sampan command.\nSee 'sampan --help'\n")
    assert "'biuld' is not a sampan command. (did you mean build?)\n" in run("biuld", ".")[2]
    status, out, err = run("buildx", "bake")
    assert (status, out) == (1, "")
    assert err.startswith("sampan: 'buildx bake' is not a sampan command.\n\nUsage:  sampan buildx COMMAND\n")


def test_help_is_printed_for_every_command(run: Any) -> None:
    from sampan.cli.catalog import COMMANDS, GROUPS

    lines = [[name] for name in COMMANDS if name != "daemon"]
    lines += [[group, name] for group, found in GROUPS.items() for name in found.entries]
    for line in lines:
        status, out, err = run(*line, "--help")
        assert (status, err) == (0, "") and out.startswith(f"Usage:  sampan {' '.join(line)}"), line
    assert "Management Commands:" in run("--help")[1]
    assert "Usage:  sampan volume COMMAND" in run("volume")[1]


def test_a_missing_engine_is_reported_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-m", "sampan.cli.main", "-H", f"unix://{tmp_path}/none.sock", "ps"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot connect to the Docker daemon at unix://{tmp_path}/none.sock.")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(fake_engine: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-I", "-m", "sampan.cli.main", "-H", f"unix://{fake_engine}", "ps"],
        stdout=write_end,
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("c:/x", ("c", "/x")),
        ("./a:b", ("", "./a:b")),
        ("/a:b", ("", "/a:b")),
        ("file", ("", "file")),
        ("-", ("", "-")),
        ("c:", ("c", "")),
    ],
)
def test_cp_tells_containers_from_paths(text: str, place: tuple[str, str]) -> None:
    assert split_place(text) == place


@pytest.mark.parametrize(
    ("exists", "target_is_directory", "source_is_directory", "target", "result"),
    [
        (True, True, False, "d", ("d", "")),
        (True, False, False, "d/f", ("d", "f")),
        (False, False, False, "d/new", ("d", "new")),
        (False, False, True, "d/new/", ("d", "new")),
        (False, False, True, "new", (".", "new")),
    ],
)
def test_cp_decides_where_things_go(
    exists: bool, target_is_directory: bool, source_is_directory: bool, target: str, result: tuple[str, str]
) -> None:
    planned = plan_destination(
        exists=exists,
        target_is_directory=target_is_directory,
        source_is_directory=source_is_directory,
        target=target,
        name="src",
    )
    assert planned == result


def test_cp_refuses_a_directory_over_a_file() -> None:
    with pytest.raises(Failure, match="cannot copy directory"):
        plan_destination(
            exists=True, target_is_directory=False, source_is_directory=True, target="f", name="s"
        )
    assert base_name("/a/b/") == "b" and base_name("/a/.") == "."


def test_a_bootstrap_takes_the_hosts_apt_settings_and_leaves_none() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:3142";\nAcquire::https::CAInfo "/etc/ca.pem";\n'
        'Acquire::Languages "none";\nAcquire::http "";\nDir::State "var";\n'
    )
    assert bootstrap.host_apt_settings(dump) == (
        'Acquire::http::Proxy "http://p:3142";\nAcquire::https::CAInfo "/etc/ca.pem";\n'
    )
    recipe = bootstrap.Recipe("debian", "bookworm-slim", "", "")
    command = bootstrap.command_line(recipe, "mmdebstrap", "minbase", ["curl"], "/tmp/host.conf")
    setup = next(item for item in command if item.startswith("--setup-hook="))
    hooks = "\n".join(item for item in command if item.startswith("--customize-hook="))
    assert "/tmp/host.conf" in setup and "00-bootstrap-host" in setup
    assert 'rm -f "$1/etc/apt/apt.conf.d/00-bootstrap-host"' in hooks
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in command and "--include=curl" in command
    assert recipe.sources == [
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://deb.debian.org/debian-security bookworm-security main",
    ]


def test_only_debian_and_ubuntu_can_be_bootstrapped() -> None:
    with pytest.raises(Failure, match="cannot bootstrap 'alpine'"):
        bootstrap.Recipe("alpine", "3", "", "")
    assert bootstrap.Recipe("ubuntu", "24.04", "", "").suite == "noble"


def test_a_missing_mmdebstrap_comes_with_the_way_to_install_it(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run("image", "bootstrap", "debian:bookworm")
    assert status == 1 and "apt-get install mmdebstrap" in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_defect(fake_engine: Path, closed: str) -> None:
    command = f"{sys.executable} -m sampan.cli.main --host unix://{fake_engine} ps -q {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_an_engine_that_can_not_change_ports_is_not_believed(run: Any, engine_server: Any) -> None:
    engine_server.answers[("POST", "/containers/web/update")] = (200, {"Warnings": None})  # as a dockerd says
    status, out, err = run("update", "--publish-add", "8080:80", "web")
    assert (status, out) == (1, "")
    assert err == "The engine can not change the published ports of web: it is not sampan's\n"
    engine_server.answers[("POST", "/containers/web/update")] = (
        200,
        {"Warnings": None, "PortsChanged": True},
    )
    assert run("update", "--publish-rm", "[::1]:8080:80/udp", "web") == (0, "web\n", "")
    sent = json.loads(engine_server.seen[-1][2])
    assert sent == {"PublishRemove": {"80/udp": [{"HostIp": "::1", "HostPort": "8080"}]}}
