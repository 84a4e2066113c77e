"""How volume plugins are found. Places and forms: Docker's documentation of legacy plugins ("Docker Plugin API")."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sampan.engine.model import NEVER, VolumeRecord
from sampan.engine.volumes.plugins import Address, Plugin, PluginDirectories, PluginDriver, parse_address
from sampan.errors import Internal, Invalid, NotFound, Unavailable


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


class TcpPlugin:
    """Answers on a port of the loopback interface; `answers`: raw, by method."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {"Plugin.Activate": b'{"Implements":["VolumeDriver"]}'}
        self.bodies: list[object] = []
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                plugin.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(plugin.answers.get(self.path.removeprefix("/"), b"{}"))

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def tcp(tmp_path: Path) -> Iterator[TcpPlugin]:
    plugin = TcpPlugin()
    (tmp_path / "far.spec").write_text(f"tcp://127.0.0.1:{plugin.server.server_port}\n")
    thread = threading.Thread(target=plugin.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield plugin
    finally:
        plugin.server.shutdown()
        thread.join()
        plugin.server.server_close()


def test_a_plugin_is_reached_over_tcp_and_its_answers_are_bounded(
    tcp: TcpPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = PluginDriver(Plugin("far", PluginDirectories((), (tmp_path,))))
    record = VolumeRecord("one", NEVER, "far", options={"a": "b"})
    driver.activate()
    tcp.answers["VolumeDriver.Get"] = b'{"Err":"no such volume"}'
    driver.create(record)
    assert tcp.bodies[-1] == {"Name": "one", "Opts": {"a": "b"}}
    tcp.answers["VolumeDriver.Mount"] = b'{"Mountpoint":"/mnt/one"}'
    assert driver.mount(record, "user") == Path("/mnt/one")
    assert tcp.bodies[-1] == {"Name": "one", "ID": "user"}
    for place in (b"relative", b"/mnt\\u0000/one", b""):
        tcp.answers["VolumeDriver.Mount"] = b'{"Mountpoint":"%s"}' % place
        with pytest.raises(Internal, match="gives no place for volume one"):
            driver.mount(record, "user")
    for place in (b"/", b"//", b"/mnt/.."):
        tcp.answers["VolumeDriver.Mount"] = b'{"Mountpoint":"%s"}' % place
        with pytest.raises(Internal, match="gives the host's root directory as the place of volume one"):
            driver.mount(record, "user")
    for odd in (b"[" * 100_000, b"\xff\xfe", b"null"):
        tcp.answers["VolumeDriver.List"] = odd
        assert driver.volumes() == {}
    monkeypatch.setattr("sampan.engine.volumes.plugins._MAX_ANSWER", 1000)
    tcp.answers["VolumeDriver.List"] = b" " * 1001
    with pytest.raises(Internal, match="more than 1000 bytes"):
        driver.volumes()


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nX-Odd: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_plugin_that_answers_byte_by_byte_is_not_waited_for_longer_than_another(
    beginning: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.engine.volumes.plugins._LOOK_SECONDS", 0.3)
    left = threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "slow.sock"))
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client, pytest.raises(OSError):
                client.sendall(beginning)
                # An end, should nobody hang up: 20 seconds of bytes, each sooner than a time-out.
                for _ in range(400):
                    client.sendall(b" ")
                    threading.Event().wait(0.05)
            left.set()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable, match=r"contacting plugin slow for .*: connection timed out"):
            PluginDriver(Plugin("slow", PluginDirectories((tmp_path,), ()))).volumes()
        assert left.wait(10)
        thread.join()
