"""The life of a container as pure rules: which change is allowed in which status, and the state after it.

created -> running -> exited -> running ...
             | ^          restarting: between two runs of the restart policy
           paused         removing, dead: on the way out
"""

from __future__ import annotations

from msgspec.structs import replace

from sampan.engine.model import ContainerRecord, Health, State
from sampan.errors import Conflict

STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def check_start(record: ContainerRecord) -> bool:
    """False when it runs already (nothing to do). Raises `Conflict` when it can't be started."""
    status = record.state.status
    if status == "paused":
        raise Conflict("cannot start a paused container, try unpause instead")
    if status in ("removing", "dead") or record.removing:
        raise Conflict("container is marked for removal and cannot be started")
    return status != "running"


def check_running(record: ContainerRecord) -> None:
    """Raises `Conflict` unless there is a process."""
    if not record.running:
        raise Conflict(f"Container {record.id} is not running")


def check_exec(record: ContainerRecord) -> None:
    """Raises `Conflict` unless a further process can be started in it."""
    if record.state.status == "restarting":
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    check_running(record)
    if record.state.status == "paused":
        raise Conflict(f"Container {record.name} is paused, unpause the container before exec")


def check_pause(record: ContainerRecord) -> None:
    if record.state.status == "restarting":
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    check_running(record)
    if record.state.status == "paused":
        raise Conflict(f"Container {record.id} is already paused")


def check_unpause(record: ContainerRecord) -> None:
    if record.state.status != "paused":
        raise Conflict(f"Container {record.id} is not paused")


def check_remove(record: ContainerRecord, *, force: bool) -> None:
    status = record.state.status
    if record.removing:
        raise Conflict(f"removal of container {record.name} is already in progress")
    if force or status not in ("running", "paused", "restarting"):
        return
    if status == "paused":
        advice = "Unpause and then stop the container before attempting removal or force remove"
    else:
        advice = "Stop the container before attempting removal or force remove"
    raise Conflict(f"You cannot remove a {status} container {record.id}. {advice}")


def started(state: State, pid: int, start_time: int, at: str) -> State:
    return replace(
        state,
        status="running",
        pid=pid,
        start_time=start_time,
        exit_code=0,
        error="",
        oom_killed=False,
        started_at=at,
        # What earlier runs' checks said stays in the log, as with Docker.
        health=None if state.health is None else Health(log=state.health.log),
    )


def exited(state: State, exit_code: int, at: str, *, oom_killed: bool = False, error: str = "") -> State:
    return replace(
        state,
        status="exited",
        pid=0,
        start_time=0,
        exit_code=exit_code,
        finished_at=at,
        oom_killed=oom_killed,
        error=error,
        health=_not_checked(state.health),
    )


def start_failed(state: State, exit_code: int, error: str) -> State:
    """A container that could not be started keeps its status (created, exited), and the reason."""
    status = "created" if state.status == "created" else "exited"
    return replace(state, status=status, pid=0, start_time=0, exit_code=exit_code, error=error)


def paused(state: State) -> State:
    return replace(state, status="paused", health=_not_checked(state.health))


def _not_checked(health: Health | None) -> Health | None:
    """What can't be checked is not healthy, as with Docker; the log stays."""
    return None if health is None else replace(health, status="unhealthy")


def unpaused(state: State) -> State:
    return replace(state, status="running")


def restarting(state: State) -> State:
    """Waiting for the restart policy's delay."""
    return replace(state, status="restarting")
