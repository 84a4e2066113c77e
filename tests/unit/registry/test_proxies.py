"""Proxies of the engine: which requests go through which (by Go's httpproxy), and what is said of one that fails."""

from __future__ import annotations

import base64
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sampan.build.fetch.http import download
from sampan.errors import Unavailable, Unsupported
from sampan.oci.reference import parse_reference
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.registry.pools import Pools
from sampan.registry.proxies import Proxies, masked, proxies_of


@pytest.mark.parametrize(
    ("excluded", "url", "proxied"),
    [
        ("", "http://example.com/", True),
        ("", "http://localhost:80/", False),
        ("", "http://127.0.0.1/", False),
        ("", "http://127.0.0.2:5000/", False),
        ("", "http://[::1]:5000/", False),
        ("example.com", "http://example.com/", False),
        ("example.com", "http://www.example.com/", False),
        ("example.com", "http://otherexample.com/", True),
        (".example.com", "http://example.com/", True),
        ("*.example.com", "http://www.example.com/", False),
        ("EXAMPLE.com, other", "http://example.com/", False),
        ("example.com:8080", "http://example.com/", True),
        ("example.com:80", "http://example.com/", False),
        ("10.0.0.0/8", "http://10.2.3.4:5000/", False),
        ("10.0.0.0/8", "http://11.2.3.4/", True),
        ("10.0.0.1:5000", "http://10.0.0.1:5000/", False),
        ("10.0.0.1:5000", "http://10.0.0.1/", True),
        ("[fd00::1]:5000", "http://[fd00::1]:5000/", False),
        ("fd00::/8", "http://[fd00::1]/", False),
        ("*", "https://example.com/", False),
        ("no/thing,,:80", "http://example.com/", True),
    ],
)
def test_what_is_excluded_goes_straight(excluded: str, url: str, proxied: bool) -> None:
    proxies = Proxies("http://plain.test:3128", "http://safe.test:3128", excluded)
    wanted = "" if not proxied else "http://plain.test:3128"
    assert proxies.of(url) == wanted


def test_each_kind_of_address_has_its_own_proxy() -> None:
    proxies = Proxies(http="plain.test:3128")
    assert proxies.of("http://example.com/") == "http://plain.test:3128"
    assert proxies.of("https://example.com/") == ""
    assert proxies.of("git://example.com/x") == ""


def test_the_configuration_counts_before_the_environment() -> None:
    environment = {"HTTP_PROXY": "http://a:1", "https_proxy": "http://b:2", "NO_PROXY": "x"}
    assert proxies_of(Proxies(), environment) == Proxies("http://a:1", "http://b:2", "x")
    assert proxies_of(Proxies("http://own:1"), environment).http == "http://own:1"


def test_a_password_is_not_shown_and_other_kinds_of_proxy_are_refused() -> None:
    assert masked("http://me:secret@proxy:3128") == "http://xxxxx:xxxxx@proxy:3128"
    assert masked("proxy:3128") == "proxy:3128"
    with pytest.raises(Unsupported, match="socks5://proxy:1") as refused:
        Pools(Proxies(http="socks5://me:secret@proxy:1")).of("http://example.com/")
    assert "secret" not in str(refused.value)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, str]] = []
        """Method, target, login."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Proxy-Authorization", "")))
        if self.path == "http://files.test/moved":
            self.send_response(302)
            self.send_header("Location", "http://other.test/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Proxy-Authorization", "")))
        self.send_error(403, "Forbidden by policy")


@pytest.fixture
def proxy() -> Iterator[_Proxy]:
    server = _Proxy()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_and_where_it_leads_go_through_the_proxy_with_its_login(proxy: _Proxy) -> None:
    proxies = Proxies(http=f"http://me:p%40ss@{proxy.address}")
    with tempfile.TemporaryFile() as file:
        got = download("http://files.test/moved", file, lambda _: None, threading.Event(), proxies=proxies)
        assert file.read() == b"{}"
    assert got is not None
    login = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert proxy.asked == [
        ("GET", "http://files.test/moved", login),
        ("GET", "http://other.test/file", login),
    ]


def test_a_registry_is_asked_through_the_proxy(proxy: _Proxy) -> None:
    proxies = Proxies(f"http://{proxy.address}", f"http://{proxy.address}")
    client = RegistryClient("safe.test", RegistryConfig(proxies=proxies))
    try:
        with pytest.raises(Unavailable, match="proxyconnect tcp: 403 Forbidden"):
            client.resolve(parse_reference("safe.test/app:1"))
    finally:
        client.close()
    assert proxy.asked[0][:2] == ("CONNECT", "safe.test:443")


def test_a_proxy_that_is_not_there_is_told() -> None:
    proxies = Proxies(http="http://127.0.0.1:1")
    with tempfile.TemporaryFile() as file, pytest.raises(Unavailable) as failed:
        download("http://files.test/x", file, lambda _: None, threading.Event(), proxies=proxies)
    assert "proxyconnect tcp: dial tcp: connect: connection refused" in failed.value.message
