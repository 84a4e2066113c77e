"""The pure part of the metrics: which request is which action."""

from __future__ import annotations

import pytest

from sampan.engine.metrics import action_of


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/v1.47/containers/create", ("container", "create")),
        ("POST", "/containers/create", ("container", "create")),
        ("POST", "/v1.41/containers/abc/start", ("container", "start")),
        ("DELETE", "/v1.41/containers/abc", ("container", "delete")),
        ("GET", "/v1.41/containers/abc/changes", ("container", "changes")),
        ("POST", "/v1.41/commit", ("container", "commit")),
        ("POST", "/v1.41/networks/create", ("network", "create")),
        ("POST", "/v1.41/networks/abc/connect", ("network", "connect")),
        ("DELETE", "/v1.41/networks/abc", ("network", "delete")),
        ("GET", "/v1.41/containers/json", ("", "")),
        ("POST", "/v1.41/containers/abc/wait", ("", "")),
        ("POST", "/v1.41/containers/prune", ("", "")),
        ("GET", "/", ("", "")),
    ],
)
def test_requests_count_as_the_actions_that_dockers_metrics_name(
    method: str, path: str, action: tuple[str, str]
) -> None:
    assert action_of(method, path) == action
