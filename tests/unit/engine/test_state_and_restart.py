"""The life of a container and its restart policies. Expected messages: dockerd's own answers."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sampan.engine import restart, state
from sampan.engine.config import ContainerConfig, HostConfig, RestartPolicy
from sampan.engine.model import NEVER, ContainerRecord, Health, State
from sampan.errors import Conflict, Invalid

ID = "ab" * 32


def record(status: str, *, removing: bool = False) -> ContainerRecord:
    return ContainerRecord(
        ID, "name", NEVER, "sha256:0", "image", (), ContainerConfig(), HostConfig(), state=State(status),
        removing=removing,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("check", "status", "message"),
    [
        (state.check_pause, "paused", f"Container {ID} is already paused"),
        (state.check_pause, "exited", f"Container {ID} is not running"),
        (state.check_unpause, "running", f"Container {ID} is not paused"),
        (state.check_exec, "exited", f"Container {ID} is not running"),
        (
            state.check_exec,
            "restarting",
            f"Container {ID} is restarting, wait until the container is running",
        ),
        (state.check_start, "paused", "cannot start a paused container, try unpause instead"),
    ],
)
def test_what_contradicts_the_state_is_a_conflict_in_dockers_words(
    check: object, status: str, message: str
) -> None:
    with pytest.raises(Conflict) as caught:
        check(record(status))  # type: ignore[operator]
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("running", "Stop the container before attempting removal or force remove"),
        ("paused", "Unpause and then stop the container before attempting removal or force remove"),
    ],
)
def test_what_runs_is_removed_by_force_only(status: str, advice: str) -> None:
    with pytest.raises(Conflict) as caught:
        state.check_remove(record(status), force=False)
    assert caught.value.message == f"You cannot remove a {status} container {ID}. {advice}"
    state.check_remove(record(status), force=True)


def test_a_removal_under_way_is_not_begun_again() -> None:
    with pytest.raises(Conflict, match="removal of container name is already in progress"):
        state.check_remove(record("exited", removing=True), force=True)


def test_starting_what_runs_changes_nothing() -> None:
    assert not state.check_start(record("running"))
    assert state.check_start(record("exited"))


def test_a_start_forgets_the_last_end_and_an_end_keeps_the_start() -> None:
    ended = state.exited(State(), 3, "2026-01-01T00:00:01Z", oom_killed=True)
    running = state.started(ended, 42, 1000, "2026-01-01T00:00:02Z")
    assert (running.status, running.pid, running.exit_code, running.oom_killed) == ("running", 42, 0, False)
    again = state.exited(running, 0, "2026-01-01T00:00:03Z")
    assert (again.pid, again.started_at) == (0, "2026-01-01T00:00:02Z")


def test_what_has_ended_is_not_healthy() -> None:
    running = replace(state.started(State(), 1, 1, NEVER), health=Health("healthy"))
    health = state.exited(running, 0, NEVER).health
    assert health is not None and health.status == "unhealthy"


def test_a_container_that_never_started_stays_created() -> None:
    assert state.start_failed(State(), 127, "why").status == "created"
    assert state.start_failed(State("exited"), 127, "why").status == "exited"


def decide(policy: RestartPolicy, **facts: object) -> restart.Decision:
    known = {"exit_code": 1, "restarts": 0, "stopped": False, "ran_for": 0.0, "last_delay": 0.0, **facts}
    return restart.after_exit(policy, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "facts", "expected"),
    [
        (RestartPolicy("no"), {}, False),
        (RestartPolicy("always"), {"exit_code": 0}, True),
        (RestartPolicy("unless-stopped"), {"exit_code": 0}, True),
        (RestartPolicy("always"), {"stopped": True}, False),
        (RestartPolicy("on-failure"), {"exit_code": 0}, False),
        (RestartPolicy("on-failure"), {"restarts": 1000}, True),
        (RestartPolicy("on-failure", 3), {"restarts": 2}, True),
        (RestartPolicy("on-failure", 3), {"restarts": 3}, False),
    ],
)
def test_each_policy_decides_as_docker_documents(
    policy: RestartPolicy, facts: dict[str, object], expected: bool
) -> None:
    assert decide(policy, **facts).restart is expected


def test_the_delay_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds() -> None:
    policy = RestartPolicy("always")
    delays, last = [], 0.0
    for _ in range(12):
        last = decide(policy, last_delay=last).delay
        delays.append(last)
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert decide(policy, last_delay=60.0, ran_for=10.0).delay == 0.1


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (RestartPolicy("foo"), "invalid restart policy 'foo'"),
        (RestartPolicy("no", 3), "maximum retry count cannot be used with restart policy 'no'"),
        (RestartPolicy("on-failure", -1), "maximum retry count cannot be negative"),
    ],
)
def test_a_bad_policy_is_refused_in_dockers_words(policy: RestartPolicy, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        restart.validate(policy)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("policy", "was_running", "stopped", "expected"),
    [
        ("always", False, True, True),
        ("unless-stopped", False, False, True),
        ("unless-stopped", False, True, False),
        ("on-failure", True, False, True),
        ("on-failure", False, False, False),
        ("no", True, False, False),
    ],
)
def test_at_the_engines_start_policies_decide_for_what_does_not_run(
    policy: str, was_running: bool, stopped: bool, expected: bool
) -> None:
    decision = restart.at_engine_start(
        RestartPolicy(policy), was_running=was_running, exit_code=255, manually_stopped=stopped
    )
    assert decision is expected
