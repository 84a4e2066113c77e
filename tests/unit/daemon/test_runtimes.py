"""Which OCI runtimes there are, from flags and the configuration file."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.daemon.runtimes import check_default, parse_runtimes
from sampan.errors import Invalid


def test_a_runtime_is_a_name_and_a_program_with_arguments() -> None:
    assert parse_runtimes(["mine=/bin/sh"])["mine"] == ("/bin/sh",)
    file = {"mine": {"path": "sh", "runtimeArgs": ["--debug"]}}
    command = parse_runtimes(file)["mine"]
    assert command[0].endswith("/sh")
    assert command[1:] == ("--debug",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["mine"], "invalid runtime argument: mine"),
        (["mine=/bin/sh", "mine=/bin/cat"], "runtime 'mine' already exists"),
        (["sampan=/bin/sh"], "runtime name 'sampan' is reserved"),
        (["mi ne=/bin/sh"], "invalid runtime name"),
        (["mine=/nosuch/runtime"], "runtime mine: /nosuch/runtime is not an executable file"),
        ({"mine": "/bin/sh"}, "invalid runtime 'mine'"),
        ({"mine": {"runtimeArgs": []}}, "invalid runtime 'mine'"),
    ],
)
def test_a_runtime_that_cannot_be_is_refused(value: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse_runtimes(value)


def test_the_default_runtime_must_be_there() -> None:
    assert check_default("sampan", {}) == "sampan"
    assert check_default("mine", {"mine": ("/bin/sh",)}) == "mine"
    with pytest.raises(Invalid, match="specified default runtime 'nosuch' does not exist"):
        check_default("nosuch", {})
