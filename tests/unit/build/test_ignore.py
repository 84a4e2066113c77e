"""`.dockerignore`: expected values from Docker's documentation and Go's filepath.Match."""

from __future__ import annotations

import time

import pytest

from sampan.errors import Invalid
from sampan.oci.ignore import IgnoreRules, compile_match


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("# comment\n*/temp*", "somedir/temporary.txt", True),
        ("*/temp*", "somedir/temp", True),
        ("*/temp*", "somedir/subdir/temporary.txt", False),
        ("*/*/temp*", "somedir/subdir/temporary.txt", True),
        ("temp?", "tempa", True),
        ("temp?", "temp", False),
        ("**/*.go", "a.go", True),
        ("**/*.go", "a/b/c.go", True),
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README.md", "CHANGES.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
        ("*\n!a", "a", False),
        ("*\n!a", "b", True),
        ("*\n!a/b", "a/b/c", False),
        ("*\n!a/b", "a/c", True),
        ("node_modules/", "node_modules/x/y", True),
        ("/foo/bar", "foo/bar", True),
        ("foo/bar", "foo", False),
        ("./foo", "foo", True),
        ("foo/../bar", "bar", True),
        ("  spaced  ", "spaced", True),
        ("**", "anything/at/all", True),
        ("build/**", "build", False),
        ("build/**", "build/x/y", True),
        ("**/foo", "a/b/foo/below", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        (" # no comment", "# no comment", True),
        ("\ufeffbom", "bom", True),
        ("a.b", "axb", False),
        ("x\r\ny\r\n", "x", True),
    ],
)
def test_a_path_is_ignored_as_docker_says(text: str, path: str, ignored: bool) -> None:
    assert IgnoreRules(text).excludes(path) is ignored


def test_a_directory_is_skipped_whole_only_when_nothing_returns_from_it() -> None:
    rules = IgnoreRules("a\nb\n!b/c/keep\nd\n!**/x")
    assert rules.excludes("a") and not rules.prunes("a")  # `!**/x` could match a/x
    rules = IgnoreRules("a\nb\n!b/c/keep\n")
    assert rules.prunes("a")
    assert not rules.prunes("b")
    assert not rules.prunes("b/c")
    assert rules.prunes("b/d")
    assert not rules.prunes("elsewhere")


def test_what_the_client_must_send_stays_in() -> None:
    rules = IgnoreRules("*", keep=("Dockerfile", ".dockerignore"))
    assert not rules.excludes("Dockerfile")
    assert rules.excludes("other")


@pytest.mark.parametrize("text", ["!", "[a", "a[", "b\\", "[]a]", "[-x]"])
def test_a_malformed_pattern_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        IgnoreRules(text)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 100 + "*b", "a" * 255),
        ("**/a/" * 30 + "b", "a/" * 2000),
        ("**/*a*a*a*b/" * 20 + "c", ("a" * 200 + "/") * 20),
        ("*?" * 100 + "b", "a" * 255),
        ("**/" * 1000 + "b", "a/" * 2000),
        ("**" * 500 + "b", "a/" * 2000),
    ],
)
def test_a_pattern_made_to_be_slow_ends_soon(pattern: str, path: str) -> None:
    started = time.process_time()
    assert not IgnoreRules(pattern).excludes(path)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("**/a/**/b", "x/a/y/a/z/b", True),
        ("**/a*c/**/d", "abc/ac/x/d", True),
        ("a/**/b/**/c", "a/b/x/b/y/c", True),
        ("a/**/b/c", "a/b/b/c", True),
        ("*a*ab", "xaab", True),
        ("*a*ab", "xab", False),
        ("x**y", "x/q/y", True),
        ("x**y", "xy", True),
        ("**.o", "a/b.o", True),
        ("a**", "abc/d", True),
        ("***x", "a/bx", True),
        ("**/**/x", "x", True),
        (".", "a", False),
        ("*\n!.", "a", True),
    ],
)
def test_several_stars_find_every_way_to_match(pattern: str, path: str, ignored: bool) -> None:
    assert IgnoreRules(pattern).excludes(path) is ignored


# From the table of Go's path/filepath Match tests.
@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a???b", "abc", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[x\\-]", "z", False),
        ("*x", "xxx", True),
    ],
)
def test_wildcards_match_as_in_go(pattern: str, name: str, matches: bool) -> None:
    assert bool(compile_match(pattern).fullmatch(name)) is matches
