"""The client's ssh agent in a build's step, with OpenSSH's own programs on both sides."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A context with ssh-add and its libraries, two keys, and an agent that has the first of them."""
    path = tmp_path_factory.mktemp("ssh")
    context = path / "context"
    for file in ("/usr/bin/ssh-add", *_libraries("/usr/bin/ssh-add")):
        place = context / "root" / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    for name in ("one", "two"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"key-{name}", "-f", str(path / name)],
            check=True,
        )
    socket = path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None and agent.stdout.readline()
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", str(path / "one")], env=environment, check=True)
        yield path
    finally:
        agent.terminate()
        agent.wait()


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def build(sampan: Any, site: Path, steps: str, *flags: str) -> Any:
    text = f"FROM busybox\nCOPY root /\n{steps}"
    (site / "context/Dockerfile").write_text(text)
    return sampan.run("build", "--progress", "plain", *flags, str(site / "context"))


def test_a_step_lists_and_uses_keys_but_can_not_change_the_agent(
    sampan: Any, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(site / "agent"))
    (site / "context/root/two").write_bytes((site / "two").read_bytes())
    (site / "context/root/two").chmod(0o600)
    done = build(
        sampan,
        site,
        "RUN --mount=type=ssh ssh-add -l && stat -c 'socket %a %u %g' $SSH_AUTH_SOCK && echo at $SSH_AUTH_SOCK\n"
        "RUN --mount=type=ssh ssh-add -D || ssh-add -q /two || ssh-add -x -q </dev/null || ssh-add -l\n"
        "USER 1000\n"
        "RUN --mount=type=ssh,id=files,uid=1000,mode=0600,required,target=/run/two SSH_AUTH_SOCK=/run/two ssh-add -L\n"
        "USER 0\n"
        "RUN --mount=type=ssh,id=none echo $SSH_AUTH_SOCK; test ! -e $SSH_AUTH_SOCK && ls /run/buildkit; echo none\n",
        "--ssh",
        "default",
        "--ssh",
        f"files={site}/two",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "key-one (ED25519)" in said and "socket 600 0 0" in said and "at /run/buildkit/ssh_agent.0" in said
    assert said.count("agent refused operation") == 2
    assert said.count("key-one (ED25519)") == 2  # the agent has it still
    assert (site / "two.pub").read_text().split()[1] in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ssh", "default"), "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
        (("--ssh", "a=/nowhere"), "stat /nowhere: no such file or directory"),
        (("--ssh", "a=/etc/hostname"), "failed to parse key"),
        ((), 'no SSH key "default" forwarded from the client'),
    ],
)
def test_an_agent_that_can_not_be_had_is_told(
    sampan: Any, site: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    done = build(sampan, site, "RUN --mount=type=ssh,required true\n", *flags)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr
