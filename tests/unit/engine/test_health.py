"""The rules of health checks, and of restarts because of them."""

from __future__ import annotations

import pytest

from sampan.engine import restart
from sampan.engine.config import RestartPolicy
from sampan.engine.health import OUTPUT_KEPT, Times, after_result, go_duration, kept_output, timed_out_text
from sampan.engine.model import Health, HealthResult
from sampan.errors import Invalid

_ALWAYS = RestartPolicy("always")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    # https://pkg.go.dev/time#Duration.String
    [
        (0, "0s"), (1, "1ns"), (1_500, "1.5µs"), (500_000_000, "500ms"), (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"), (3_600_000_000_000, "1h0m0s"), (3_661_000_000_001, "1h1m1.000000001s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


def test_a_long_output_is_cut_and_a_check_that_took_too_long_says_how_far_it_came() -> None:
    assert kept_output(b"x" * OUTPUT_KEPT) == "x" * 4096
    assert kept_output(b"x" * (OUTPUT_KEPT + 1)) == "x" * 4096 + "..."
    assert timed_out_text(1.5, "") == "Health check exceeded timeout (1.5s)"
    assert timed_out_text(90, "part") == "Health check exceeded timeout (1m30s): part"


def test_checks_come_more_often_in_the_start_period_until_one_succeeds() -> None:
    times = Times(interval=30, timeout=1, start_period=60, start_interval=2, retries=3)
    assert times.delay(Health(), 1) == 2
    assert times.delay(Health(), 61) == 30
    assert times.delay(Health("healthy"), 1) == 30
    failed = after_result(Health(), HealthResult("", "", 1, ""), times, running_for=59)
    assert (failed.status, failed.failing_streak, len(failed.log)) == ("starting", 0, 1)


@pytest.mark.parametrize(
    ("flag", "labels", "policy", "wanted"),
    [
        (True, {}, _ALWAYS, True),
        (None, {"sampan.restart-unhealthy": "true"}, _ALWAYS, True),
        (False, {"sampan.restart-unhealthy": "true"}, _ALWAYS, False),
        (None, {"sampan.restart-unhealthy": "false"}, _ALWAYS, False),
        (None, {}, _ALWAYS, False),
        (True, {}, RestartPolicy("no"), False),
    ],
)
def test_the_flag_then_the_label_asks_for_a_restart_of_the_unhealthy(
    flag: bool | None, labels: dict[str, str], policy: RestartPolicy, wanted: bool
) -> None:
    assert restart.restarts_unhealthy(policy, flag, restart.asked_by_label(labels)) is wanted


def test_a_wish_that_no_policy_fulfils_is_refused() -> None:
    for policy in (RestartPolicy(), RestartPolicy("no")):
        with pytest.raises(Invalid, match="--restart-unhealthy and restart policy 'no'"):
            restart.check_unhealthy(policy, True, {})
        with pytest.raises(Invalid, match="--restart-unhealthy and restart policy 'no'"):
            restart.check_unhealthy(policy, None, {"sampan.restart-unhealthy": "true"})
        restart.check_unhealthy(policy, False, {"sampan.restart-unhealthy": "true"})
    with pytest.raises(Invalid, match=r"invalid value 'maybe' of label sampan\.restart-unhealthy"):
        restart.check_unhealthy(_ALWAYS, None, {"sampan.restart-unhealthy": "maybe"})
    restart.check_unhealthy(RestartPolicy("on-failure", 3), True, {})


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (1, True), (2, False)])
def test_an_unhealthy_end_is_a_failure_and_is_counted_as_one(restarts: int, again: bool) -> None:
    decision = restart.after_exit(
        RestartPolicy("on-failure", 2),
        exit_code=0,
        restarts=restarts,
        stopped=False,
        ran_for=1,
        last_delay=0.4,
        unhealthy=True,
    )
    assert decision == (restart.Decision(True, 0.8) if again else restart.Decision(False))
