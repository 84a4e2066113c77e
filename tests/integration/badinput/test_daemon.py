"""Daemons that can't be: a second one on the same root, nonsense as configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


def daemon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sampan.cli.main", "daemon", *arguments],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_second_daemon_on_the_same_root_or_run_directory_is_refused(sampan: Any, tmp_path: Path) -> None:
    engine = sampan.engine
    sampan.ok("run", "-d", "--name", "witness", "busybox", "sleep", "1000")
    places = [
        ["--root", str(engine.root), "--run", str(tmp_path / "run"), "-H", f"unix://{tmp_path}/sock"],
        ["--root", str(tmp_path / "root"), "--run", str(engine.run_dir), "-H", f"unix://{tmp_path}/sock"],
        ["--root", str(engine.root), "--run", str(engine.run_dir), "-H", engine.host],
    ]
    for place in places:
        done = daemon(*place, "--bridge", "smptsecond", "--bip", "10.199.7.1/24")
        assert done.returncode != 0
        assert "another sampan daemon" in done.stderr and str(engine.pid) in done.stderr
        assert "Traceback" not in done.stderr
        assert sampan.ok("exec", "witness", "echo", "alive") == "alive"
    assert (
        "smptsecond" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "malformed JSON"),
        ("[]", "expected a JSON object"),
        ('{"nosuch": 1}', "unknown key 'nosuch'"),
        ('{"bip": "not an address"}', "not an address"),
        ('{"insecure-registries": 7}', "insecure-registries"),
        ('{"hosts": ["gopher://x"]}', "gopher"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, content: str, message: str) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(content)
    done = daemon(
        "--config-file", str(config), "--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = daemon("--root", str(tmp_path / "file"), "--run", str(tmp_path / "run"), "-H", f"unix://{tmp_path}/sock",
                  "--bridge", "smptthird", "--bip", "10.199.8.1/24")  # fmt: skip
    assert done.returncode != 0
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr
