"""Docker's `bridge: none`: an engine without a default bridge. The expected is what dockerd 20.10 and 28.5 do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.daemon.options import parse_options

pytestmark = pytest.mark.root

WITHOUT = ("--bridge", "none")


def test_without_a_default_bridge_containers_have_their_loopback_alone_until_there_is_one_again(
    make_sampan: Any, tmp_path: Path
) -> None:
    made = make_sampan(tmp_path / "engine", options=WITHOUT)
    engine = made.engine
    engine.bridge = parse_options(["--root", str(engine.root), *WITHOUT]).settings.instance
    device = Path("/sys/class/net", engine.bridge)

    def fails(*arguments: str) -> str:
        done = engine.cli(*arguments, check=False)
        assert done.returncode != 0
        return str(done.stderr)

    def restart(*options: str) -> None:
        engine.terminate()
        engine.options = options
        engine.start()

    try:
        assert sorted(made.ok("network", "ls", "--format", "{{.Name}}").split()) == ["host", "none"]
        assert not device.exists()
        for network in ("default", "bridge"):
            shown = made.ok("run", "--rm", "--network", network, "busybox", "ls", "/sys/class/net")
            assert shown.split() == ["lo"]
        made.ok("run", "-d", "--name", "web", "-p", "80", "busybox", "sleep", "600")
        settings = json.loads(made.ok("inspect", "web"))[0]["NetworkSettings"]
        assert settings["Ports"] == {} and settings["Networks"]["bridge"]["NetworkID"] == ""
        made.ok("network", "create", "own")
        made.ok("network", "connect", "own", "web")
        assert "eth0" in made.ok("exec", "web", "ls", "/sys/class/net")
        told = fails("run", "--rm", "--network", "own", "--add-host", "h:host-gateway", "busybox", "true")
        assert "unable to derive the IP value for host-gateway" in told
        assert "operation is not permitted on predefined bridge network" in fails(
            "network", "create", "bridge"
        )
        made.ok("build", "-q", "-", stdin=b"FROM busybox\nRUN test ! -e /sys/class/net/eth0\n")
        made.ok("stop", "-t", "0", "web")

        restart()
        assert "bridge" in made.ok("network", "ls", "--format", "{{.Name}}").split() and device.exists()
        made.ok("start", "web")
        settings = json.loads(made.ok("inspect", "web"))[0]["NetworkSettings"]
        assert settings["Networks"]["bridge"]["IPAddress"] and settings["Ports"]["80/tcp"]

        restart(*WITHOUT)
        assert device.exists(), "a container runs on it"
        made.ok("rm", "-f", "web")
        restart(*WITHOUT)
        assert not device.exists()
        assert "bridge" not in made.ok("network", "ls", "--format", "{{.Name}}").split()
    finally:
        engine.stop()
