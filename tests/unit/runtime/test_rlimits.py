from __future__ import annotations

import resource

import pytest

from sampan.errors import Invalid
from sampan.runtime.rlimits import early_limit, set_early

_UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("present", "hard", "expected"),
    [
        ((10, 20), 30, (10, 30)),
        ((10, 20), _UNLIMITED, (10, _UNLIMITED)),
        ((10, 20), 5, (10, 20)),
        ((10, _UNLIMITED), 5, (10, _UNLIMITED)),
    ],
)
def test_only_a_hard_limit_is_raised_beforehand(
    present: tuple[int, int], hard: int, expected: tuple[int, int]
) -> None:
    assert early_limit(present, hard) == expected


def test_a_limit_that_would_hurt_is_not_lowered_beforehand() -> None:
    before = resource.getrlimit(resource.RLIMIT_STACK)
    set_early("RLIMIT_STACK", 4096, 8192)
    assert resource.getrlimit(resource.RLIMIT_STACK) == before


def test_unknown_and_contradictory_limits_are_refused() -> None:
    with pytest.raises(Invalid, match="invalid rlimit type 'RLIM_INFINITY'"):
        set_early("RLIM_INFINITY", 1, 1)
    with pytest.raises(Invalid, match="soft limit 9 is above the hard limit 8"):
        set_early("RLIMIT_STACK", 9, 8)
