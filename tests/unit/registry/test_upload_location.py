from __future__ import annotations

import pytest

from sampan.errors import Invalid
from sampan.registry.answers import upload_location


@pytest.mark.parametrize(
    ("base", "target", "url"),
    [
        ("https://r.example/", "/v2/a/blobs/uploads/1", "https://r.example/v2/a/blobs/uploads/1"),
        ("https://r.example/", "https://store.example/1", "https://store.example/1"),
        ("http://r.example/", "http://store.example/1", "http://store.example/1"),
    ],
)
def test_an_upload_goes_where_the_registry_says(base: str, target: str, url: str) -> None:
    assert upload_location(base, target) == url


def test_an_upload_does_not_leave_tls() -> None:
    with pytest.raises(Invalid, match="without TLS"):
        upload_location("https://r.example/", "http://r.example/v2/a/blobs/uploads/1")
