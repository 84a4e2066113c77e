"""Provenance and bills of materials travel with the image, in BuildKit's form; skopeo and a registry look at them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.git_server import GitServer, git

pytestmark = pytest.mark.root

DOCKERFILE = """FROM busybox
ARG TOKEN
COPY status /var/lib/dpkg/status
COPY os-release /etc/os-release
RUN echo made > /made
"""
STATUS = "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2.13\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "status").write_text(STATUS)
    (directory / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    return directory


def _documents(archive: Path) -> dict[str, Any]:
    """Everything in an OCI archive that is JSON, by the digest's digits; and its index."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            data = file.read() if file is not None else b""
            if data.startswith(b"{"):
                found[member.name.rpartition("/")[2]] = json.loads(data)
    return found


def _statements(documents: dict[str, Any], index: Any) -> tuple[str, dict[str, Any]]:
    """The image manifest's digits, and its statements by predicate type."""
    image = next(one for one in index["manifests"] if one["platform"]["os"] == "linux")
    noted = next(
        one for one in index["manifests"] if "annotations" in one and one["platform"]["os"] == "unknown"
    )
    assert noted["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = documents[noted["digest"].removeprefix("sha256:")]
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        statement = documents[layer["digest"].removeprefix("sha256:")]
        assert statement["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"]
        found[statement["predicateType"]] = statement
    return image["digest"].removeprefix("sha256:"), found


def test_an_archive_carries_provenance_and_a_bill_of_materials(
    sampan: Any, context: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "out.tar"
    sampan.ok(
        *(
            "build",
            "-t",
            "reg/attested",
            "--provenance=mode=max",
            "--sbom=true",
            "--build-arg",
            "TOKEN=shown",
        ),
        *("-o", f"type=oci,dest={archive}", str(context)),
    )
    documents = _documents(archive)
    index = documents[documents["index.json"]["manifests"][0]["digest"].removeprefix("sha256:")]
    digits, statements = _statements(documents, index)
    for statement in statements.values():
        assert statement["subject"] == [
            {"name": "pkg:docker/reg/attested@latest?platform=linux%2Famd64", "digest": {"sha256": digits}}
        ]
    provenance = statements["https://slsa.dev/provenance/v0.2"]["predicate"]
    assert provenance["invocation"]["parameters"]["args"]["build-arg:TOKEN"] == "shown"
    base = sampan.ok("image", "inspect", "-f", "{{.ID}}", "busybox").removeprefix("sha256:")
    assert [one["digest"]["sha256"] for one in provenance["materials"]] == [base]
    names = [step["name"] for step in provenance["buildConfig"]["steps"]]
    assert any("echo made > /made" in name for name in names)
    bill = statements["https://spdx.dev/Document"]["predicate"]
    told = [one["externalRefs"][0]["referenceLocator"] for one in bill["packages"] if "externalRefs" in one]
    assert told == ["pkg:deb/debian/zlib1g@1%3A1.2.13?arch=amd64"]


def test_the_least_provenance_tells_no_argument_and_is_pushed_with_the_image(
    sampan: Any, context: Path, session_registry: Any
) -> None:
    name = f"{session_registry.host}/attested:1"
    sampan.ok("build", "-t", name, "--provenance=true", "--build-arg", "TOKEN=hidden", "--push", str(context))
    raw = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"],
        capture_output=True,
        check=True,
    ).stdout
    index = json.loads(raw)
    assert [one["platform"]["os"] for one in index["manifests"]] == ["linux", "unknown"]
    assert "hidden" not in raw.decode()
    sampan.ok("rmi", name)
    sampan.ok("pull", name)
    assert sampan.ok("run", "--rm", name, "cat", "/made") == "made"


@pytest.mark.parametrize("wrong", ["--attest=type=x", "--provenance=mode=all", "--sbom=generator=other"])
def test_wrong_attestations_end_the_build_before_it_begins(sampan: Any, context: Path, wrong: str) -> None:
    refused = sampan.run("build", wrong, str(context))
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert any(word in refused.stderr for word in ("attestation", "provenance", "generators"))


def test_files_have_their_statements_beside_them(sampan: Any, context: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY status /var/lib/dpkg/status\nCOPY os-release /etc/\n"
    )
    sampan.ok(
        "build", "--provenance", "mode=max", "--sbom", "true", "-o", str(out), str(context), timeout=120
    )
    provenance = json.loads((out / "provenance.json").read_text())
    bill = json.loads((out / "sbom.spdx.json").read_text())
    subjects = [
        {"name": name, "digest": {"sha256": hashlib.sha256((out / name).read_bytes()).hexdigest()}}
        for name in ("etc/os-release", "var/lib/dpkg/status")
    ]
    assert provenance["subject"] == bill["subject"] == subjects
    assert provenance["predicateType"].startswith("https://slsa.dev/provenance/")
    assert "zlib1g" in [one["name"] for one in bill["predicate"]["packages"]]


def test_what_came_from_elsewhere_is_named_with_its_digest_also_by_a_build_from_the_cache(
    sampan: Any, tmp_path: Path
) -> None:
    site = GitServer(tmp_path / "site")
    try:
        site.files["/data"] = b"data"
        site.repository("added.git", {"file": "one"})
        site.repository(
            "r.git",
            {
                "Dockerfile": f"FROM busybox\nADD {site.url}/data /\nADD {site.url}/added.git#main /added/\n"
                "RUN --mount=type=secret,id=token,required --mount=type=ssh true\n"
            },
        )
        token = tmp_path / "token"
        token.write_text("the secret's value")
        told = []
        for name in ("first", "second"):
            out = tmp_path / name
            sampan.ok(
                *("build", "--provenance", "mode=max", "-o", str(out), "--secret", f"id=token,src={token}"),
                f"{site.url}/r.git#main",
            )
            told.append(json.loads((out / "provenance.json").read_text())["predicate"])
        commits = {
            name: git(tmp_path / "site" / name, "rev-parse", "main") for name in ("added.git", "r.git")
        }
    finally:
        site.close()
    source = {"uri": f"{site.url}/r.git#main", "digest": {"sha1": commits["r.git"]}}
    for predicate in told:
        invocation = predicate["invocation"]
        assert invocation["configSource"] == {"entryPoint": "Dockerfile", **source}
        assert [one for one in predicate["materials"] if one["uri"].startswith("http")] == [
            {"uri": f"{site.url}/added.git#main", "digest": {"sha1": commits["added.git"]}},
            {"uri": f"{site.url}/data", "digest": {"sha256": hashlib.sha256(b"data").hexdigest()}},
            source,
        ]
        assert invocation["parameters"]["secrets"] == [{"id": "token"}]
        assert invocation["parameters"]["ssh"] == [{"id": "default", "optional": True}]
        assert "the secret's value" not in json.dumps(predicate)
