"""Challenges, and who gets credentials."""

from __future__ import annotations

import pytest

from sampan.errors import Invalid
from sampan.registry.auth import Challenge, basic_header, parse_challenge, parse_token, realm_belongs
from sampan.registry.config import Credentials


def test_a_bearer_challenge_gives_realm_service_and_scope() -> None:
    # The example of distribution's token specification.
    header = (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
        'scope="repository:samalba/my-app:pull,push"'
    )
    assert parse_challenge(header) == Challenge(
        "bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:samalba/my-app:pull,push"
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', Challenge("basic", "x")),
        ("basic", Challenge("basic")),
        (r'BEARER Realm="https://a/\"q\"", service=plain', Challenge("bearer", 'https://a/"q"', "plain")),
        ("Negotiate abc", None),
        ("", None),
    ],
)
def test_challenges_are_read_as_http_writes_them(header: str, expected: Challenge | None) -> None:
    assert parse_challenge(header) == expected


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("https://registry.example.com/token", "https://registry.example.com"),
        ("https://registry.example.com:8443/token", "https://registry.example.com:5000"),
        ("https://auth.docker.io/token", "https://registry-1.docker.io"),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com"),
        ("https://auth.example.com/token", "https://example.com"),
        ("http://127.0.0.1:6000/token", "http://127.0.0.1:5000"),
        ("https://auth.example.co.uk/token", "https://registry.example.co.uk"),
    ],
)
def test_a_token_service_of_the_registry_gets_the_credentials(realm: str, registry: str) -> None:
    assert realm_belongs(realm, registry)


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("https://evil.org/token", "https://registry.example.com"),
        ("https://example.com.evil.org/token", "https://registry.example.com"),
        ("https://evilexample.com/token", "https://registry.example.com"),
        ("https://registry.example.com@evil.org/token", "https://registry.example.com"),
        ("http://registry.example.com/token", "https://registry.example.com"),
        ("https://other.com/token", "https://registry.com"),
        ("https://evil.co.uk/token", "https://example.co.uk"),
        ("http://127.0.0.2/token", "http://127.0.0.1:5000"),
        ("file:///etc/passwd", "https://registry.example.com"),
        ("", "https://registry.example.com"),
    ],
)
def test_a_token_service_elsewhere_does_not(realm: str, registry: str) -> None:
    assert not realm_belongs(realm, registry)


def test_basic_credentials_are_encoded_as_rfc_7617_has_it() -> None:
    assert basic_header(Credentials("Aladdin", "open sesame")) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_a_token_answer_has_a_token_under_either_name() -> None:
    assert parse_token(b'{"token":"t","expires_in":300}').token == "t"
    assert parse_token(b'{"access_token":"a"}').access_token == "a"
    for bad in (b"{}", b"[]", b"<html>", b'{"token":5}'):
        with pytest.raises(Invalid):
            parse_token(bad)
