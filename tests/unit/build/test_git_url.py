"""Addresses of Git repositories, as Docker's documentation of ADD and of build contexts writes them."""

from __future__ import annotations

import pytest

from sampan.build.fetch.git_checkout import checked_name
from sampan.build.fetch.git_url import GitSource, GitUrl, is_git, parse_git, parse_submodule
from sampan.errors import Invalid

_HTTPS = GitUrl("https", "h.example", "/u/r.git")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("https://h/r.git", True),
        ("https://h/r.git#v1:docs", True),
        ("https://h/r.git?ref=v1", True),
        ("http://h/r.git", True),
        ("git://h/r", True),
        ("ssh://git@h/r", True),
        ("git@h:u/r.git", True),
        ("user.name@h:r", True),
        ("https://h/r", False),
        ("https://h/f?x=r.git", False),
        ("https://h/f#r.git", False),
        ("github.com/u/r", False),
        ("./git@h:r", False),
        ("dir/git@h:r", False),
        ("file:///r.git", False),
        ("ext::sh -c id", False),
        ("-oProxyCommand=x@h:r", False),
        ("/abs/r.git", False),
        ("r.git", False),
    ],
)
def test_a_repository_is_told_from_a_file(text: str, known: bool) -> None:
    assert is_git(text) is known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h.example/u/r.git", GitSource(_HTTPS)),
        ("https://h.example/u/r.git#v0.14.1:docs", GitSource(_HTTPS, "v0.14.1", "docs")),
        ("https://h.example/u/r.git#:a/./b//c/", GitSource(_HTTPS, "", "a/b/c")),
        ("https://h.example/u/r.git#baz/qux:quux/quuz", GitSource(_HTTPS, "baz/qux", "quux/quuz")),
        ("https://h.example/u/r.git?ref=v1&subdir=d", GitSource(_HTTPS, "v1", "d")),
        ("https://h.example/u/r.git?tag=v1", GitSource(_HTTPS, "refs/tags/v1")),
        ("https://h.example/u/r.git?branch=main", GitSource(_HTTPS, "refs/heads/main")),
        (
            "https://h.example/u/r.git?commit=abc&submodules=0",
            GitSource(_HTTPS, checksum="abc", submodules=False),
        ),
        ("https://h.example/u/r.git?keep-git-dir", GitSource(_HTTPS, keep_git_dir=True)),
        ("https://h.example/u/r.git?mtime=commit#x", GitSource(_HTTPS, "x", commit_time=True)),
        ("git@h.example:u/r.git#main", GitSource(GitUrl("ssh", "h.example", "u/r.git", user="git"), "main")),
        ("ssh://git@h:2222/r", GitSource(GitUrl("ssh", "h", "/r", 2222, "git"))),
        ("git://h/r", GitSource(GitUrl("git", "h", "/r"))),
        (
            "https://u:p%40x@h.example/u/r.git",
            GitSource(GitUrl("https", "h.example", "/u/r.git", user="u", password="p@x")),
        ),
    ],
)
def test_an_address_says_what_is_wanted(text: str, expected: GitSource) -> None:
    assert parse_git(text) == expected


def test_contexts_know_github_without_a_scheme() -> None:
    assert parse_git("github.com/u/r#v1", context=True) == GitSource(
        GitUrl("https", "github.com", "/u/r"), "v1"
    )


def test_no_password_is_told() -> None:
    source = parse_git("https://user:sec@ret@h/r.git#main")
    assert source.url.password == "sec@ret"
    assert source.url.remote == "https://h/r.git"
    with pytest.raises(Invalid) as caught:
        parse_git("https://user:sec@ret@h/r.git?nonsense=1")
    assert "ret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # CVE-2026-33748: a subdirectory that climbs.
        ("https://h/r.git#main:../../etc", "leads out"),
        ("https://h/r.git#main:a/../../b", "leads out"),
        ("https://h/r.git?subdir=../x", "leads out"),
        ("https://h/r.git#main:%2e%2e/x", "leads out"),
        ("https://h/r.git#--upload-pack=x", "invalid git ref"),
        ("https://h/r.git?ref=-x", "invalid git ref"),
        ("https://h/r.git#a b", "invalid git ref"),
        ("https://h/r.git#a..b", "invalid git ref"),
        ("https://h/r.git?ref=a&ref=b", "multiple values"),
        ("https://h/r.git?ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("https://h/r.git?subdir=a#:b", "subdir conflicts"),
        ("https://h/r.git?ref=", "has no value"),
        ("https://h/r.git?exec=x", 'unexpected query "exec"'),
        ("https://h/r.git?checksum=xyz", "invalid checksum"),
        ("https://h/r.git?submodules=maybe", "invalid submodules value"),
        ("https://h/r.git?mtime=never", "invalid mtime value"),
        ("https://h/r.git?fetch-by-commit=1&commit=abc", "full id"),
        ("ssh://-oProxyCommand=id/r", "host is not one"),
        ("ssh://h%0aevil/r", "invalid git address|control"),
        ("ssh://-x@h/r", "invalid git address"),
        ("ssh://h/", "invalid git address"),
        ("git@h:-x", "invalid git address"),
        ("https://h:99999/r.git", "invalid git address"),
        ("file:///etc/r.git", "no address"),
        ("ext::sh -c id", "no address"),
        ("https://h/" + "a" * 9000 + ".git", "no address"),
    ],
)
def test_an_address_that_could_do_harm_is_refused(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse_git(text)


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("../other.git", "https://h.example/u/other.git"),
        ("./sub", "https://h.example/u/r.git/sub"),
        ("https://else/x.git", "https://else/x.git"),
        ("git@else:x.git", "ssh://git@else/~/x.git"),
    ],
)
def test_a_submodule_may_be_relative(text: str, remote: str) -> None:
    assert parse_submodule(text, _HTTPS).remote == remote


@pytest.mark.parametrize(
    "text",
    [
        "ext::sh -c id",
        "file:///etc",
        "/etc",
        "-x",
        "--upload-pack=x",
        "../../../..",
        "ftp://h/r",
        "a\nb",
        "https://h/r?x",
    ],
)
def test_a_submodule_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_submodule(text, _HTTPS)


@pytest.mark.parametrize("name", [b"", b".", b"..", b".git", b".GIT", b"a/b", b"a\0b", b"x" * 256])
def test_a_name_that_leads_elsewhere_is_refused(name: bytes) -> None:
    with pytest.raises(Invalid, match="unsafe name"):
        checked_name(name)
