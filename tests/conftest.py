from __future__ import annotations

import os

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need root fail loudly when it is missing: a skipped suite would look like a passed one."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("needs root: run the tests with sudo", pytrace=False)
