"""What is kept of a step's inputs, within which bounds, and what it is compared with."""

from __future__ import annotations

import msgspec
import pytest

from sampan.build.solver import inputs
from sampan.build.solver.explain import StepInputs, explain
from sampan.build.solver.inputs import InputsStore, bounded


class _Table(dict[str, bytes]):
    def put(self, key: str, body: bytes) -> None:
        self[key] = body

    def delete(self, key: str) -> None:
        del self[key]

    def items(self, prefix: str = "") -> list[tuple[str, bytes]]:  # type: ignore[override]
        return [(key, body) for key, body in super().items() if key.startswith(prefix)]


def _step(**changes: object) -> StepInputs:
    return msgspec.structs.replace(StepInputs("app", "RUN make", "p", "debian (1)"), **changes)


def test_earlier_steps_of_the_same_word_come_newest_first() -> None:
    store = InputsStore(_Table())
    store.store("a", _step(args={"V": "1"}), now=1)
    store.store("b", _step(args={"V": "2"}), now=3)
    store.store("c", _step(instruction="COPY a b"), now=2)
    assert [one.args for one in store.earlier(_step(), 9)] == [{"V": "2"}, {"V": "1"}]
    assert [one.args for one in store.earlier(_step(), 3)] == [{"V": "1"}]
    assert explain(_step(args={"V": "3"}), store.earlier(_step(), 9)) == ("argument changed: V",)


def test_a_row_that_cannot_be_read_is_passed_over() -> None:
    table = _Table({"RUN:x": b"rubbish", "RUN:y": b""})
    store = InputsStore(table)
    assert store.earlier(_step(), 9) == []
    store.trim()


def test_the_oldest_rows_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_ROWS", 8)
    table = _Table()
    store = InputsStore(table)
    for number in range(9):
        store.store(f"{number}", _step(), now=number)
    store.trim()
    assert sorted(table) == [f"RUN:{number}" for number in range(3, 9)]
    monkeypatch.setattr(inputs, "MAX_BYTES", sum(map(len, table.values())) - 1)
    store.trim()
    assert 0 < len(table) < 6 and "RUN:8" in table


def test_of_too_many_files_directories_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_FILES", 4)
    files = {f"d{top}/e{low}/f": "1" for top in range(2) for low in range(4)}
    assert bounded({"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
    before, after = bounded(files), bounded({**files, "d1/e2/f": "2"})
    assert set(before) == {"d0", "d1"}
    assert before["d0"] == after["d0"] and before["d1"] != after["d1"]
    many = {f"{number}": "1" for number in range(9)}
    assert bounded(many).keys() == {"(all files)"}
    assert bounded(many) != bounded({**many, "0": "2"})
