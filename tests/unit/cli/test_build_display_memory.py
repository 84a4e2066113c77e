"""What a display of a build keeps of a step that says much."""

from __future__ import annotations

import base64

import pytest

from sampan.cli.build.show import Display
from sampan.cli.build.steps import TAIL


@pytest.mark.parametrize("mode", ["plain", "rawjson", "quiet"])
def test_output_that_was_shown_is_not_kept(mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    display = Display(mode, {})
    step = {"digest": "sha256:1", "name": "[1/1] RUN yes", "started": "2026-01-01T00:00:00Z"}
    display.feed({"vertexes": [step]})
    line = base64.b64encode(b"abcdefgh" * 100 + b"\n").decode()
    for _ in range(1000):
        display.feed({"logs": [{"vertex": "sha256:1", "stream": 1, "data": line}]})
    (kept,) = display.steps.started
    assert len(kept.fresh) == 0
    assert len(kept.tail) <= TAIL
    assert ("abcdefgh" in capfd.readouterr().err) == (mode == "plain")
