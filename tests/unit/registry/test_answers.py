"""What registries and connections say, in words for people."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import urllib3
from urllib3.exceptions import HTTPError

from sampan.errors import Denied, Invalid, NotFound, Unavailable
from sampan.oci.reference import parse_reference
from sampan.registry import transport
from sampan.registry.answers import next_page, parse_tags, read_error, write_error
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.registry.failures import describe
from sampan.testing.misbehaving_registry import MisbehavingRegistry

REFERENCE = parse_reference("host:5000/team/app:1")


@contextmanager
def server(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """host:port of a server that treats its one connection so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection = listening.accept()[0]
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def failure_of(url: str) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(5)).request("GET", url)
    return caught.value


def answering(data: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: (connection.recv(4096), connection.sendall(data))


@pytest.mark.parametrize(
    ("scheme", "data", "words"),
    [
        ("http", b"", "EOF"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "unexpected EOF"),
        ("http", b"garbage\r\n\r\n", "malformed HTTP response"),
        ("https", b"HTTP/1.1 400 Bad\r\n\r\n", "http: server gave HTTP response to HTTPS client"),
        ("https", b"", "EOF"),
    ],
)
def test_a_server_that_does_not_speak_http_well_is_described_in_words(
    scheme: str, data: bytes, words: str
) -> None:
    with server(answering(data)) as host:
        assert describe(failure_of(f"{scheme}://{host}/"), host) == words


def test_a_connection_that_is_refused_says_where_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    assert describe(failure_of(f"http://{host}/"), host) == f"dial tcp {host}: connect: connection refused"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (20, "x509: certificate signed by unknown authority"),
        (10, "x509: certificate has expired or is not yet valid"),
        (62, "x509: certificate is not valid for registry.example.com"),
    ],
)
def test_a_certificate_that_is_not_good_says_why(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.verify_code = code
    shown = describe(urllib3.exceptions.SSLError(error), "registry.example.com:443")
    assert shown == f"tls: failed to verify certificate: {words}"


def test_an_unknown_name_says_which() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    failed = urllib3.exceptions.NameResolutionError(
        "nowhere.invalid", urllib3.connection.HTTPConnection("x"), error
    )
    failed.__cause__ = error
    assert describe(failed, "nowhere.invalid:443") == "dial tcp: lookup nowhere.invalid: no such host"


def test_error_answers_have_dockers_words() -> None:
    unknown = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
    error = read_error(404, unknown, "manifest for host:5000/team/app:1", REFERENCE)
    assert isinstance(error, NotFound)
    assert error.message == "manifest for host:5000/team/app:1 not found: manifest unknown: manifest unknown"
    denied = read_error(403, b"", "manifest for x", REFERENCE)
    assert isinstance(denied, Denied)
    assert denied.message == (
        "pull access denied for host:5000/team/app, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )
    assert write_error(403, b"<html>", "upload").message == (
        "denied: requested access to the resource is denied"
    )
    assert isinstance(write_error(502, b"", "upload"), Unavailable)
    assert isinstance(write_error(400, b"", "upload"), Invalid)


def test_tags_are_checked() -> None:
    assert parse_tags(b'{"name":"x","tags":["a","b"]}') == ("a", "b")
    assert parse_tags(b'{"name":"x","tags":null}') == ()
    for bad in (b'{"tags":["../x"]}', b'{"tags":["a b"]}', b"[]", b'{"tags":[1]}'):
        with pytest.raises(Invalid):
            parse_tags(bad)


@pytest.mark.parametrize(
    ("link", "page"),
    [
        ('</v2/team/app/tags/list?last=b&n=2>; rel="next"', "/v2/team/app/tags/list?last=b&n=2"),
        ("<?last=b>; rel=next", "/v2/team/app/tags/list?last=b"),
        ('<http://elsewhere/v2/other/tags/list?last=b>; rel="next"', "/v2/team/app/tags/list?last=b"),
        ('</x>; rel="prev"', ""),
        ("", ""),
    ],
)
def test_the_next_page_of_a_list_is_on_the_same_registry(link: str, page: str) -> None:
    assert next_page(link, "https://host:5000/mirror/v2/team/app/tags/list") == page


def test_a_connection_that_always_breaks_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)
    with MisbehavingRegistry() as registry:
        host = registry.host
    client = RegistryClient(host, RegistryConfig())
    with pytest.raises(Unavailable) as caught:
        client.resolve(parse_reference(f"{host}/x:1"))
    assert caught.value.message == f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'


def test_a_registrys_words_do_not_control_the_terminal() -> None:
    body = (
        b'{"errors":[{"code":"X\\u001b[31m","message":"one\\u001b]0;title\\u0007\\r\\ntwo'
        + b"x" * 5000
        + b'"}]}'
    )
    for error in (read_error(404, body, "manifest for x", REFERENCE), write_error(403, body, "push of x")):
        assert "one ]0;title   two" in error.message
        assert error.message.isprintable()
        assert len(error.message) < 1200
