"""What another runtime says in its log, in the engine's errors."""

from __future__ import annotations

import json

import pytest

from sampan.errors import Internal
from sampan.runtime.failure import ExecFailed
from sampan.runtime.foreign_driver import failure_from_log


def log(*messages: tuple[str, str]) -> str:
    return "".join(
        json.dumps({"level": level, "msg": text, "time": "now"}) + "\n" for level, text in messages
    )


RUNC = "runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("said", "message", "code"),
    [
        (f'{RUNC}exec: "x": executable file not found in $PATH', 'exec: "x": executable file not found in $PATH', 127),
        ("executable file `x` not found in $PATH: No such file or directory",
         'exec: "x": executable file not found in $PATH', 127),
        (f'{RUNC}exec: "x": stat x: no such file or directory', 'exec: "x": stat x: no such file or directory', 127),
        (f'{RUNC}exec: "x": permission denied', 'exec: "x": permission denied', 126),
        ("open executable: Operation not permitted", 'exec: "x": permission denied', 126),
        ('exec failed: unable to start container process: exec: "x": is a directory', 'exec: "x": is a directory', 126),
    ],
)  # fmt: skip
def test_a_program_that_cannot_be_executed_has_runcs_words_and_a_shells_code(
    said: str, message: str, code: int
) -> None:
    """What runc 1.1 and crun 1.8 really say."""
    error = failure_from_log(log(("warning", "something"), ("error", said)), "x")
    assert isinstance(error, ExecFailed)
    assert (error.message, error.exit_code) == (message, code)


def test_any_other_failure_is_told_as_it_is() -> None:
    error = failure_from_log(
        "no json\n" + log(("error", "first"), ("error", "cgroups: no space"), ("info", "x")), "y"
    )
    assert isinstance(error, Internal)
    assert error.message == "cgroups: no space"


def test_a_runtime_that_says_nothing_has_no_reason() -> None:
    assert failure_from_log("", "x") is None
    assert failure_from_log(log(("info", "made")), "x") is None
