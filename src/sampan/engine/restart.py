"""Restart policies as pure rules (Docker's "no", "always", "unless-stopped", "on-failure[:n]")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sampan.engine.config import RestartPolicy
from sampan.errors import Invalid

FIRST_DELAY = 0.1
"""Seconds before the first restart; each further one waits twice as long."""
LONGEST_DELAY = 60.0
RESET_AFTER = 10.0
"""Seconds of running after which the delay starts anew."""


UNHEALTHY_LABEL = "sampan.restart-unhealthy"
"""Says what --restart-unhealthy says, for those who can't give the flag: compose files, the docker client."""


@dataclass(frozen=True, slots=True)
class Decision:
    restart: bool
    delay: float = 0.0


def validate(policy: RestartPolicy) -> None:
    """Raises `Invalid` in Docker's words."""
    name, retries = policy.name, policy.maximum_retry_count
    if name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise Invalid(f"invalid restart policy '{name}'")
    if name in ("always", "unless-stopped", "no") and retries != 0:
        raise Invalid(f"maximum retry count cannot be used with restart policy '{name}'")
    if retries < 0:
        raise Invalid("maximum retry count cannot be negative")


def check_unhealthy(policy: RestartPolicy, flag: bool | None, labels: Mapping[str, str]) -> None:
    """Refuse a wish to restart unhealthy containers that no policy would fulfil. `labels`: a person's own.

    Raises `Invalid`.
    """
    label = labels.get(UNHEALTHY_LABEL)
    if label is not None and label not in ("true", "false"):
        raise Invalid(f"invalid value '{label}' of label {UNHEALTHY_LABEL}: expected true or false")
    wanted = flag if flag is not None else asked_by_label(labels)
    if wanted and policy.name in ("", "no"):
        raise Invalid(
            "conflicting options: --restart-unhealthy and restart policy 'no'",
            hint="it restarts by the container's policy: give --restart always, unless-stopped or on-failure",
        )


def asked_by_label(labels: Mapping[str, str]) -> bool:
    """Whether a person's own labels ask for it. An image's are not asked: images do not configure the engine."""
    return labels.get(UNHEALTHY_LABEL) == "true"


def restarts_unhealthy(policy: RestartPolicy, flag: bool | None, label: bool) -> bool:
    """Whether an unhealthy container is to be restarted: the flag decides, then the label (`asked_by_label`)."""
    wanted = flag if flag is not None else label
    return wanted and policy.name not in ("", "no")


def after_exit(
    policy: RestartPolicy,
    *,
    exit_code: int,
    restarts: int,
    stopped: bool,
    ran_for: float,
    last_delay: float,
    unhealthy: bool = False,
) -> Decision:
    """Whether to run again, and after how long.

    `restarts`: how often the policy restarted it so far; `stopped`: a person ended it; `unhealthy`: it was ended
    for that, which is a failure whatever its exit code; `ran_for` and `last_delay` in seconds (0: no restart before).
    """
    if stopped:
        return Decision(False)
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        wanted = (exit_code != 0 or unhealthy) and (limit == 0 or restarts < limit)
    else:
        wanted = policy.name in ("always", "unless-stopped")
    if not wanted:
        return Decision(False)
    if last_delay == 0 or ran_for >= RESET_AFTER:
        return Decision(True, FIRST_DELAY)
    return Decision(True, min(last_delay * 2, LONGEST_DELAY))


def at_engine_start(
    policy: RestartPolicy, *, was_running: bool, exit_code: int, manually_stopped: bool
) -> bool:
    """Whether a container that does not run is started when the engine starts.

    `was_running`: its process ended while no engine was there.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not manually_stopped
    return policy.name == "on-failure" and was_running and exit_code != 0
