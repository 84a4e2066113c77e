"""Volume plugins. Expected values: what dockerd 28.5 asks the same plugin, and what it answers its clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.volume_plugin import VolumePlugin

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
NAME = "sampan-test"


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One that sees no plugins but the tests' own, which no other engine sees."""
    directory = tmp_path_factory.mktemp("plugins")
    with EngineProcess(directory / "engine", options=("--plugin-dir", str(directory / "sockets"))) as engine:
        engine.cli("import", "-c", 'CMD ["sh"]', "-", BUSYBOX, stdin=busybox_tar())
        yield engine


@pytest.fixture
def plugin(own_engine: Any, tmp_path: Path) -> Iterator[VolumePlugin]:
    socket = own_engine.directory.parent / "sockets" / f"{NAME}.sock"
    with VolumePlugin(socket, tmp_path / "data") as plugin:
        yield plugin


@pytest.fixture
def sampan(own_engine: Any) -> Iterator[Engine]:
    yield Engine(own_engine)
    for what, remove in (("ps -aq", "rm -f"), ("volume ls -q", "volume rm")):
        names = own_engine.cli(*what.split()).stdout.split()
        assert not names or own_engine.cli(*remove.split(), *names)


class Engine:
    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.engine.cli(*arguments, check=False)

    def ok(self, *arguments: str) -> str:
        return self.engine.cli(*arguments).stdout.strip()


def refusal(done: Any) -> str:
    assert done.returncode != 0, done.stdout
    said: str = done.stderr
    return said


def test_a_plugins_volume_lives_as_any_other(sampan: Any, plugin: VolumePlugin, tmp_path: Path) -> None:
    sampan.ok("volume", "create", "-d", NAME, "-o", "a=b", "one")
    assert [name for name, _ in plugin.calls][-4:] == [
        "Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.Get", "VolumeDriver.Create",
    ]  # fmt: skip
    assert plugin.made("Create") == [{"Name": "one", "Opts": {"a": "b"}}]
    [shown] = json.loads(sampan.ok("volume", "inspect", "one"))
    assert {key: shown[key] for key in ("Driver", "Scope", "Mountpoint", "Options", "Status")} == {
        "Driver": NAME, "Scope": "global", "Mountpoint": "", "Options": {"a": "b"}, "Status": {"options": {"a": "b"}},
    }  # fmt: skip
    assert NAME in json.loads(sampan.ok("info", "-f", "{{json .Plugins.Volume}}"))
    sampan.ok("run", "-d", "--name", "user", "-v", "one:/v", BUSYBOX, "sleep", "600")
    sampan.ok("run", "--rm", "-v", "one:/v", BUSYBOX, "sh", "-c", "echo text > /v/file")
    assert (tmp_path / "data/one/file").read_text() == "text\n"
    assert sampan.ok("exec", "user", "cat", "/v/file") == "text"
    ids = [body["ID"] for body in plugin.made("Mount")]
    assert len(set(ids)) == 2 and [body["ID"] for body in plugin.made("Unmount")] == ids[1:]
    [mount] = json.loads(sampan.ok("inspect", "-f", "{{json .Mounts}}", "user"))
    assert (mount["Driver"], mount["Source"]) == (NAME, str(tmp_path / "data/one"))
    assert "volume is in use" in refusal(sampan.run("volume", "rm", "one"))
    assert (
        refusal(sampan.run("volume", "create", "one"))
        .strip()
        .endswith(f"create one: driver '{NAME}' already has volume 'one': volume name must be unique")
    )
    # A new volume is filled from the image, mounted for that alone.
    sampan.ok("create", "--name", "filled", "--volume-driver", NAME, "-v", "two:/etc", BUSYBOX)
    assert (tmp_path / "data/two/passwd").exists() and plugin.mounted["two"] == set()
    sampan.ok("rm", "-f", "user", "filled")
    assert plugin.mounted["one"] == set()
    sampan.ok("volume", "rm", "one", "two")
    assert plugin.volumes == {}


def test_volumes_that_only_the_plugin_knows_are_listed_used_and_removed(
    sampan: Any, plugin: VolumePlugin, tmp_path: Path
) -> None:
    (tmp_path / "data/theirs").mkdir(parents=True)
    plugin.volumes = {"theirs": {}, "others": {}}
    listed = sampan.ok("volume", "ls", "--filter", f"driver={NAME}", "--format", "{{.Name}} {{.Driver}}")
    assert sorted(listed.splitlines()) == [f"others {NAME}", f"theirs {NAME}"]
    assert sampan.ok("volume", "inspect", "-f", "{{.CreatedAt}}", "others") == "0001-01-01T00:00:00Z"
    sampan.ok("run", "--rm", "-v", "theirs:/v", BUSYBOX, "touch", "/v/here")
    assert (tmp_path / "data/theirs/here").exists() and plugin.made("Create") == []
    sampan.ok("volume", "rm", "others", "theirs")
    assert plugin.volumes == {}


def test_a_plugin_without_volumes_is_asked_once(sampan: Any, own_engine: Any, tmp_path: Path) -> None:
    socket = own_engine.directory.parent / "sockets/stranger.sock"
    with VolumePlugin(socket, tmp_path / "data") as stranger:
        stranger.implements = ["NetworkDriver"]
        for _ in range(2):
            assert sampan.ok("volume", "ls", "-q") == ""
        assert stranger.calls == [("Plugin.Activate", {})]
        refused = refusal(sampan.run("volume", "create", "-d", "stranger", "one"))
        assert 'plugin "stranger" does not implement "VolumeDriver"' in refused
        # It says something else now: whoever asks for it by name gets it.
        stranger.implements = ["VolumeDriver"]
        sampan.ok("volume", "create", "-d", "stranger", "one")
        sampan.ok("volume", "rm", "one")


def test_what_a_plugin_refuses_is_told_in_its_words_and_nothing_is_left(
    sampan: Any, plugin: VolumePlugin, tmp_path: Path
) -> None:
    missing = refusal(sampan.run("volume", "create", "-d", "nosuch", "one"))
    assert 'create one: error looking up volume plugin nosuch: plugin "nosuch" not found' in missing
    plugin.refuse = {"Create": "no more volumes"}
    assert "create one: no more volumes" in refusal(sampan.run("volume", "create", "-d", NAME, "one"))
    assert sampan.ok("volume", "ls", "-q") == ""
    plugin.refuse = {"Mount": "no disk today"}
    sampan.ok("volume", "create", "-d", NAME, "one")
    failed = sampan.run("run", "--name", "tried", "-v", "one:/v", BUSYBOX)
    assert "error while mounting volume '': no disk today" in refusal(failed)
    sampan.ok("rm", "tried")
    plugin.refuse = {}
    (tmp_path / "data/one").rmdir()
    # A client that waits for the container's removal would wait for ever.
    failed = sampan.run("run", "--rm", "-v", "one:/v", BUSYBOX)
    assert "data/one' to rootfs at '/v': no such file or directory" in refusal(failed)
    assert sampan.ok("ps", "-aq") == ""
    plugin.refuse = {"Remove": "not now"}
    assert "remove one: not now" in refusal(sampan.run("volume", "rm", "one"))
    assert sampan.ok("volume", "ls", "-q") == "one"
    plugin.refuse = {}
    plugin.__exit__()
    assert f"error looking up volume plugin {NAME}" in refusal(
        sampan.run("run", "--rm", "-v", "one:/v", BUSYBOX)
    )
    assert sampan.ok("volume", "ls", "-q") == "one"
    plugin.__enter__()
    sampan.ok("volume", "rm", "one")


def test_a_killed_engine_lets_go_of_a_plugins_volume_later(sampan: Any, plugin: VolumePlugin) -> None:
    sampan.ok("volume", "create", "-d", NAME, "one")
    sampan.ok("run", "-d", "--name", "user", "-v", "one:/v", BUSYBOX, "sleep", "600")
    sampan.engine.kill()
    sampan.engine.start()
    assert len(plugin.mounted["one"]) == 1
    sampan.ok("rm", "-f", "user")
    assert plugin.mounted["one"] == set()
    sampan.ok("volume", "rm", "one")
