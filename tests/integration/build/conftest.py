from __future__ import annotations

from pathlib import Path

import pytest

from sampan.testing.build_bench import BuildBench


@pytest.fixture
def bench(tmp_path: Path) -> BuildBench:
    return BuildBench(tmp_path)
