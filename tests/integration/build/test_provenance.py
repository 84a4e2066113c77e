"""Provenance names everything that came from elsewhere, whether it was fetched now or found in the cache."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.git_server import GitServer, git

pytestmark = pytest.mark.root

DOCKERFILE = """FROM busybox
ARG WORD
ADD URL/file /file
ADD URL/added.git#main /added
RUN --mount=type=secret,id=optional --mount=type=secret,id=needed,required=true cat /run/secrets/needed | wc -c
COPY --from=named n /n
COPY a /a
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GitServer]:
    made = GitServer(tmp_path / "site")
    try:
        yield made
    finally:
        made.close()


def _statements(archive: Path) -> dict[str, Any]:
    """By the platform of the image that each is about: the predicate."""
    found: dict[str, Any] = {}
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> Any:
            file = tar.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            return json.load(file)

        top = tar.extractfile("index.json")
        assert top is not None
        index = blob(json.load(top)["manifests"][0]["digest"])
        images = {one["digest"]: one["platform"] for one in index["manifests"]}
        for one in index["manifests"]:
            about = one.get("annotations", {}).get("vnd.docker.reference.digest")
            if about:
                platform = f"{images[about]['os']}/{images[about]['architecture']}"
                found[platform] = blob(blob(one["digest"])["layers"][0]["digest"])["predicate"]
    return found


def _built(sampan: Any, tmp_path: Path, *arguments: str, stdin: bytes | None = None) -> dict[str, Any]:
    archive = tmp_path / "out.tar"
    sampan.ok("build", "-o", f"type=oci,dest={archive}", *arguments, stdin=stdin, timeout=120)
    return _statements(archive)


def test_materials_are_told_by_cold_and_warm_builds(sampan: Any, site: GitServer, tmp_path: Path) -> None:
    site.files["/file"] = b"content"
    added = site.repository("added.git", {"x": "x"})
    context = site.repository("r.git", {"Dockerfile": DOCKERFILE.replace("URL", site.url), "a": "a"})
    base = sampan.ok("image", "inspect", "-f", "{{.ID}}", "busybox").removeprefix("sha256:")
    (tmp_path / "needed").write_text("s3cret-value")
    (tmp_path / "named").mkdir()
    (tmp_path / "named/n").write_text("n")
    arguments = (
        *(
            "--secret",
            f"id=needed,src={tmp_path}/needed",
            "--build-arg",
            "WORD=spoken",
            "--add-host",
            "a:192.0.2.1",
        ),
        *("--build-context", f"named={tmp_path}/named", "--provenance"),
    )
    address = f"{site.url}/r.git#main"
    commits = [git(folder, "rev-parse", "HEAD").strip() for folder in (added, context)]
    materials = [
        {"uri": "pkg:docker/busybox@latest?platform=linux%2Famd64", "digest": {"sha256": base}},
        {"uri": f"{site.url}/added.git#main", "digest": {"sha1": commits[0]}},
        {"uri": f"{site.url}/file", "digest": {"sha256": hashlib.sha256(b"content").hexdigest()}},
        {"uri": address, "digest": {"sha1": commits[1]}},
    ]
    for _ in ("cold", "warm"):
        told = _built(sampan, tmp_path, *arguments, "mode=max", address)["linux/amd64"]
        assert told["materials"] == materials
        assert told["invocation"]["configSource"] == {**materials[3], "entryPoint": "Dockerfile"}
        parameters = told["invocation"]["parameters"]
        assert parameters["locals"] == [{"name": "named"}]
        assert parameters["secrets"] == [{"id": "needed"}, {"id": "optional", "optional": True}]
        assert parameters["args"] == {
            "add-hosts": "a=192.0.2.1", "build-arg:WORD": "spoken", "context:named": "local:named",
        }  # fmt: skip
        assert "s3cret-value" not in json.dumps(told)
        assert str(tmp_path) not in json.dumps(told)
    told = _built(sampan, tmp_path, *arguments, "mode=min", address)["linux/amd64"]
    assert told["materials"] == materials
    assert told["invocation"]["parameters"]["args"] == {
        "add-hosts": "a=192.0.2.1", "context:named": "local:named",
    }  # fmt: skip
    assert told["metadata"]["completeness"]["parameters"] is False
    assert not {"secrets", "ssh"} & told["invocation"]["parameters"].keys()


def test_each_platform_has_the_materials_of_its_own(sampan: Any, tmp_path: Path) -> None:
    for name in ("amd64", "arm64"):
        sampan.ok(
            "build",
            "--platform",
            f"linux/{name}",
            "-t",
            f"base-{name}",
            "-",
            stdin=b"FROM scratch\nLABEL a=b\n",
        )
    text = b"ARG TARGETARCH\nFROM base-$TARGETARCH\nCOPY --from=busybox /etc/group /\n"
    told = _built(
        sampan, tmp_path, "--platform", "linux/amd64,linux/arm64", "--provenance", "true", "-", stdin=text
    )
    for name in ("amd64", "arm64"):
        uris = [one["uri"] for one in told[f"linux/{name}"]["materials"]]
        assert uris == [
            f"pkg:docker/base-{name}@latest?platform=linux%2F{name}",
            "pkg:docker/busybox@latest?platform=linux%2Famd64",
        ]
        assert told[f"linux/{name}"]["invocation"]["environment"] == {"platform": "linux/amd64"}


def test_a_dockerfile_behind_a_url_or_from_here_is_told(sampan: Any, site: GitServer, tmp_path: Path) -> None:
    site.files["/Dockerfile.txt"] = b"FROM busybox\nLABEL a=b\n"
    address = f"{site.url}/Dockerfile.txt"
    told = _built(sampan, tmp_path, "--provenance", "version=v1", address)["linux/amd64"]["buildDefinition"]
    assert told["externalParameters"]["configSource"]["uri"] == address
    assert told["resolvedDependencies"][-1] == {
        "uri": address, "digest": {"sha256": hashlib.sha256(site.files["/Dockerfile.txt"]).hexdigest()},
    }  # fmt: skip
    assert "locals" not in told["externalParameters"]["request"]
    site.repository("r.git", {"a": "of the repository"})
    address = f"{site.url}/r.git"
    text = b"FROM busybox\nCOPY a /a\n"
    told = _built(sampan, tmp_path, "--provenance", "true", "-f", "-", address, stdin=text)["linux/amd64"]
    assert told["invocation"]["parameters"]["locals"] == [{"name": "dockerfile"}]
    assert told["invocation"]["configSource"]["uri"] == address
