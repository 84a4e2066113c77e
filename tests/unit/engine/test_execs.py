from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.execs import ExecCreate, Execs
from sampan.engine.model import ContainerRecord, State
from sampan.errors import NotFound


def _record(letter: str) -> ContainerRecord:
    return ContainerRecord(
        letter * 64,
        letter,
        "2026-01-01T00:00:00Z",
        "",
        "",
        (),
        ContainerConfig(),
        HostConfig(),
        state=State(status="running", pid=1),
    )


def test_execs_that_nobody_starts_do_not_add_up() -> None:
    records = {letter: _record(letter) for letter in "ab"}
    parts: Any = SimpleNamespace(
        store=SimpleNamespace(find=lambda name: SimpleNamespace(record=records[name])),
        announce=lambda *_: None,
    )
    others: Any = None
    execs = Execs(parts, others)
    kept = execs.create("b", ExecCreate(cmd=("true",)))
    created = [execs.create("a", ExecCreate(cmd=("true",))) for _ in range(300)]
    with pytest.raises(NotFound, match="No such exec instance"):
        execs.get(created[0])
    found = []
    for one in created:
        try:
            found.append(execs.get(one).id)
        except NotFound:
            continue
    assert found == created[-256:]
    assert execs.get(kept).id == kept
