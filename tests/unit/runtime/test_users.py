from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.runtime.users import MAX_FILE, ResolvedUser, find_user, home_of, resolve_user

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
bob:x:1000:1001:Bob:/home/bob:/bin/sh
1234:x:77:77::/numeric:/bin/sh
broken:x:notanumber:1::/:
short:x
homeless:x:50:50
huge:x:99999999999:1::/:
"""
GROUP = """root:x:0:
staff:x:1001:
wheel:x:10:bob,alice
audio:x:29:alice,bob
other:x:30:bobby
777:x:42:
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ResolvedUser(0, 0, (0,), "/root")),
        ("root", ResolvedUser(0, 0, (0,), "/root")),
        ("0", ResolvedUser(0, 0, (0,), "/root")),
        ("bob", ResolvedUser(1000, 1001, (1001, 10, 29), "/home/bob")),
        ("1000", ResolvedUser(1000, 1001, (1001, 10, 29), "/home/bob")),
        ("4321", ResolvedUser(4321, 0, (0,), "/")),
        ("bob:audio", ResolvedUser(1000, 29, (29,), "/home/bob")),
        ("bob:5", ResolvedUser(1000, 5, (5,), "/home/bob")),
        ("4321:staff", ResolvedUser(4321, 1001, (1001,), "/")),
        ("bob:", ResolvedUser(1000, 1001, (1001, 10, 29), "/home/bob")),
        ("homeless", ResolvedUser(50, 50, (50,), "/")),
        ("2147483647", ResolvedUser(2147483647, 0, (0,), "/")),
    ],
)
def test_a_user_is_found_as_docker_finds_it(text: str, expected: ResolvedUser) -> None:
    assert find_user(text, PASSWD, GROUP) == expected


def test_a_name_of_digits_wins_over_the_number() -> None:
    assert find_user("1234", PASSWD, GROUP).uid == 77
    assert find_user("bob:777", PASSWD, GROUP).gid == 42


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
        ("bob:nosuch", "unable to find group nosuch: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("bob:99999999999999999999", "uids and gids must be in range 0-2147483647"),
        ("huge", "no matching entries in passwd file"),
        ("broken", "no matching entries in passwd file"),
    ],
)
def test_what_can_not_be_a_user_is_told_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        find_user(text, PASSWD, GROUP)


def rooted(directory: Path) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY)


def test_files_are_read_below_the_given_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("evil:x:0:0::/:\n")
    (root / "etc/passwd").symlink_to("../../passwd")
    descriptor = rooted(root)
    try:
        with pytest.raises(Invalid, match="unable to find user evil"):
            resolve_user(descriptor, "evil")
        (root / "passwd").write_text("inner:x:5:6::/inner:\n")
        assert resolve_user(descriptor, "inner") == ResolvedUser(5, 6, (6,), "/inner")
        assert home_of(descriptor, 5) == "/inner"
    finally:
        os.close(descriptor)


def test_an_image_without_user_files_knows_numbers_only(tmp_path: Path) -> None:
    descriptor = rooted(tmp_path)
    try:
        assert resolve_user(descriptor, "5:6") == ResolvedUser(5, 6, (6,), "/")
    finally:
        os.close(descriptor)


def test_a_fifo_or_a_huge_file_in_place_of_passwd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    descriptor = rooted(tmp_path)
    try:
        with pytest.raises(Invalid, match="not a regular file"):
            resolve_user(descriptor, "bob")
        (tmp_path / "etc/passwd").unlink()
        with (tmp_path / "etc/passwd").open("wb") as file:
            file.truncate(MAX_FILE + 1)
        with pytest.raises(Invalid, match="larger than"):
            resolve_user(descriptor, "bob")
    finally:
        os.close(descriptor)
