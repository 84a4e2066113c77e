"""How volume plugins are found. Places and forms: Docker's documentation of legacy plugins ("Docker Plugin API")."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sampan.engine.volumes.plugins import Address, Plugin, PluginDirectories, PluginDriver, parse_address
from sampan.errors import Invalid, NotFound, Unavailable


def test_sockets_come_before_descriptions(tmp_path: Path) -> None:
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    for directory in (sockets / "deep", specs):
        directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as deep:
        one.bind(str(sockets / "one.sock"))
        deep.bind(str(sockets / "deep/deep.sock"))
        (specs / "one.spec").write_text("tcp://localhost:1\n")
        (specs / "two.spec").write_text("tcp://localhost:8080\n")
        (specs / "three.json").write_text(
            '{"Name": "three", "Addr": "https://example.com:8443", "TLSConfig": '
            '{"InsecureSkipVerify": false, "CAFile": "/ca", "CertFile": "/cert", "KeyFile": "/key"}}'
        )
        (specs / "four.txt").write_text("tcp://localhost:1")
        found = PluginDirectories((sockets,), (specs, tmp_path / "missing"))
        assert sorted(found.names()) == ["deep", "one", "three", "two"]
        assert found.find("one") == Address("unix", str(sockets / "one.sock"))
        assert found.find("deep") == Address("unix", str(sockets / "deep/deep.sock"))
        assert found.find("two") == Address("tcp", "localhost:8080")
        assert found.find("three") == Address("https", "example.com:8443", ("/ca", "/cert", "/key"))
        for name in ("four", "../etc/two", "", "a/b"):
            assert found.find(name) is None


@pytest.mark.parametrize(
    "text", ["", "localhost:80", "ftp://x:1", "unix://", "tcp://", "unix:relative", "unix://[", "tcp://[::1"]
)
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="invalid plugin address"):
        parse_address(text)


def test_a_plugin_that_is_not_there_and_one_that_does_not_listen_are_told_apart(tmp_path: Path) -> None:
    plugin = Plugin("gone", PluginDirectories((tmp_path,), ()))
    with pytest.raises(NotFound, match='plugin "gone" not found'):
        plugin.call("Plugin.Activate")
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "gone.sock"))
    with pytest.raises(Unavailable, match="error while contacting plugin gone for Plugin"):
        plugin.call("Plugin.Activate")


def test_a_description_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "odd.spec").mkdir()
    (tmp_path / "bad.spec").write_text("unix://[")
    plugins = PluginDirectories((), (tmp_path,))
    with pytest.raises(Invalid, match=r"odd\.spec: is a directory"):
        plugins.find("odd")
    with pytest.raises(Invalid, match=r"bad\.spec: invalid plugin address"):
        plugins.find("bad")


@pytest.mark.parametrize(
    "odd", [5, "VolumeDriver", {"Name": "x"}, None, [1, None, {"Name": 3}, {"Other": 1}]]
)
def test_answers_of_another_form_than_dockers_are_no_volumes(
    odd: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Plugin("odd", PluginDirectories((tmp_path,), ()))
    monkeypatch.setattr(plugin, "call", lambda *_: {"Volumes": odd, "Implements": odd, "Volume": odd})
    driver = PluginDriver(plugin)
    assert driver.volumes() == ({"3": ""} if isinstance(odd, list) else {})
    with pytest.raises(NotFound, match="does not implement"):
        driver.activate()
