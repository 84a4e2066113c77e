"""Broken registries, from the command line to the disk: a clear error, nothing half-made, the next try works."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

NOISE = 3 << 20


@dataclass
class Published:
    """An image that is in the registry and nowhere else. Its last layer is `size` bytes at `blob` there."""

    repository: str
    name: str
    manifest: dict[str, Any]
    blob: Path

    @property
    def layer(self) -> dict[str, Any]:
        layer: dict[str, Any] = self.manifest["layers"][-1]
        return layer


@pytest.fixture
def published(sampan: Any, session_registry: Any, tmp_path: Path) -> Iterator[Published]:
    (tmp_path / "noise").write_bytes(os.urandom(NOISE))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY noise /noise\n")
    repository = f"bad/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    name = f"{session_registry.host}/{repository}:1"
    sampan.ok("build", "-q", "-t", name, str(tmp_path))
    sampan.ok("push", name)
    sampan.ok("rmi", name)
    sampan.ok("builder", "prune", "-af")
    request = urllib.request.Request(
        f"{session_registry.url}/v2/{repository}/manifests/1",
        headers={
            "Accept": "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        manifest = json.load(answer)
    digest = manifest["layers"][-1]["digest"].removeprefix("sha256:")
    yield Published(
        repository, name, manifest, session_registry.blobs / "sha256" / digest[:2] / digest / "data"
    )
    sampan.run("rmi", "-f", name)


def refused(sampan: Any, name: str) -> str:
    """A pull that fails, and leaves nothing to be seen; its message."""
    done = sampan.run("pull", name)
    assert done.returncode == 1
    assert sampan.ok("images", "-q", name) == ""
    assert sampan.run("run", "--pull", "never", "--rm", name, "true").returncode == 125
    message: str = done.stderr
    return message


def succeeds(sampan: Any, name: str) -> None:
    sampan.ok("pull", name)
    assert sampan.ok("run", "--rm", name, "sh", "-c", "wc -c < /noise") == str(NOISE)


def test_a_blob_with_other_bytes_is_refused(sampan: Any, published: Published) -> None:
    good = published.blob.read_bytes()
    published.blob.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    message = refused(sampan, published.name)
    assert published.layer["digest"] in message
    published.blob.write_bytes(good)
    succeeds(sampan, published.name)


def test_a_truncated_blob_is_refused(sampan: Any, published: Published) -> None:
    good = published.blob.read_bytes()
    published.blob.write_bytes(good[: len(good) // 2])
    message = refused(sampan, published.name)
    assert published.layer["digest"][:19] in message
    published.blob.write_bytes(good)
    succeeds(sampan, published.name)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_manifest_with_a_wrong_size_is_refused(
    sampan: Any, session_registry: Any, published: Published, difference: int
) -> None:
    layers = [
        *published.manifest["layers"][:-1],
        {**published.layer, "size": published.layer["size"] + difference},
    ]
    body = json.dumps({**published.manifest, "layers": layers}).encode()
    request = urllib.request.Request(
        f"{session_registry.url}/v2/{published.repository}/manifests/wrong",
        data=body,
        method="PUT",
        headers={"Content-Type": published.manifest["mediaType"]},
    )
    urllib.request.urlopen(request, timeout=10).close()
    message = refused(sampan, published.name.removesuffix("1") + "wrong")
    assert published.layer["digest"] in message and "bytes" in message
    succeeds(sampan, published.name)


def test_a_connection_that_breaks_in_the_middle_is_taken_up_again(
    sampan: Any, slow_proxy: Any, published: Published
) -> None:
    slow_proxy.budget, slow_proxy.cuts = NOISE // 2, 1
    succeeds(sampan, f"{slow_proxy.host}/{published.repository}:1")
    assert slow_proxy.reached.is_set()
    # An attempt loses what was under way in buffers; what had been written down is not loaded again.
    assert any(line.lower().startswith("range:") for line in slow_proxy.requests)
    sampan.ok("rmi", f"{slow_proxy.host}/{published.repository}:1")


def test_a_registry_that_always_breaks_off_is_an_error_and_the_next_pull_resumes(
    sampan: Any, slow_proxy: Any, published: Published
) -> None:
    name = f"{slow_proxy.host}/{published.repository}:1"
    slow_proxy.budget, slow_proxy.cuts = 2 << 20, 1000
    message = refused(sampan, name)
    assert slow_proxy.host in message
    slow_proxy.budget, slow_proxy.cuts = None, 0
    slow_proxy.requests.clear()
    succeeds(sampan, name)
    assert any(line.lower().startswith("range:") for line in slow_proxy.requests)
    sampan.ok("rmi", name)


def test_what_is_not_a_registry_is_an_error(sampan: Any) -> None:
    done = sampan.run("pull", "127.0.0.1:1/nothing/here:1")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr and "refused" in done.stderr
    done = sampan.run("pull", "library/UPPER")
    assert done.returncode == 1
    assert "invalid reference format: repository name" in done.stderr and "must be lowercase" in done.stderr


def test_an_unknown_tag_is_told_in_dockers_words(
    sampan: Any, session_registry: Any, published: Published
) -> None:
    name = f"{session_registry.host}/{published.repository}"
    assert f"manifest for {name}:none not found: manifest unknown: manifest unknown" in refused(
        sampan, f"{name}:none"
    )
    unknown = refused(sampan, f"{session_registry.host}/no/such:1")
    assert "not found" in unknown
