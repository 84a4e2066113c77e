"""What is said of a container to others: the runtime-spec's state, and times."""

from __future__ import annotations

import time
from typing import Any

from sampan.oci.spec import Spec


def hook_state(spec: Spec, container_id: str, bundle: str) -> dict[str, Any]:
    """The state of runtime.md, section "State", that hooks read."""
    state: dict[str, Any] = {
        "ociVersion": spec.oci_version,
        "id": container_id,
        "status": "creating",
        "pid": 0,
    }
    state["bundle"] = bundle
    if spec.annotations:
        state["annotations"] = spec.annotations
    return state


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds, UTC, of a Unix time in nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
