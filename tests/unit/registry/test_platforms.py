"""Choosing from an index."""

from __future__ import annotations

import pytest

from sampan.errors import Invalid, NotFound
from sampan.oci import media
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor, Index, Platform
from sampan.registry.platforms import choose, parse_platform


def entry(number: int, *platform: str | None) -> Descriptor:
    digest = Digest(f"sha256:{number:064x}")
    found = Platform(platform[1] or "", platform[0] or "", platform[2]) if platform else None
    return Descriptor(media.OCI_MANIFEST, digest, 1, found)


INDEX = Index(
    (
        entry(1, "linux", "amd64", None),
        entry(2, "linux", "arm", "v5"),
        entry(3, "linux", "arm", "v7"),
        entry(4, "linux", "arm64", "v8"),
        entry(5, "linux", "386", None),
        entry(6, "windows", "amd64", None),
        entry(7, "unknown", "unknown", None),
    )
)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("linux/amd64", 1), ("amd64", 1), ("linux/arm64", 4), ("linux/arm64/v8", 4), ("linux/arm/v7", 3),
        ("linux/arm", 3), ("linux/arm/v6", 2), ("linux/arm/v5", 2), ("linux/386", 5), ("windows/amd64", 6),
    ],
)  # fmt: skip
def test_the_best_manifest_that_the_platform_can_run_is_chosen(wanted: str, number: int) -> None:
    assert choose(INDEX, parse_platform(wanted)).digest == f"sha256:{number:064x}"


def test_no_match_is_reported_in_dockers_words() -> None:
    message = "no matching manifest for linux/s390x in the manifest list entries"
    with pytest.raises(NotFound, match=message):
        choose(INDEX, Platform("s390x", "linux"))


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "/amd64"])
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_platform(text)
