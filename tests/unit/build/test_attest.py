"""Statements about builds: forms as BuildKit writes them (compared with BuildKit 0.25's output), SPDX by its text."""

from __future__ import annotations

import base64
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sampan.build.attest.options import parse_attests
from sampan.build.attest.packages import (
    Distribution,
    Package,
    apk_packages,
    distribution,
    dpkg_packages,
    npm_package,
    python_package,
)
from sampan.build.attest.provenance import Facts, Material, Step, Wanted, predicate, wanted
from sampan.build.attest.scan import scan
from sampan.build.attest.spdx import document
from sampan.build.attest.statement import attestation, package_url
from sampan.errors import Invalid, Unsupported
from sampan.oci.digest import Digest
from sampan.oci.reference import parse_reference
from sampan.storage.removal import remove_tree

DIGEST = Digest("sha256:" + "ab" * 32)
FACTS = Facts(
    invocation="161fmv7",
    started="2026-01-02T03:04:05Z",
    finished="2026-01-02T03:04:06Z",
    platform="linux/amd64",
    entry_point="Dockerfile",
    args={"build-arg:A": "private", "label:x": "y", "target": "app"},
    secrets={"token": False, "key": True},
    materials=(Material("pkg:docker/debian@12?platform=linux%2Famd64", {"sha256": "cd" * 32}),),
    dockerfile=b"FROM debian:12\n",
    steps=(Step("FROM debian:12", None), Step("RUN make", DIGEST)),
)


def _predicate(**attributes: str) -> Any:
    return json.loads(json.dumps(predicate(FACTS, wanted(attributes))))


def test_a_statement_names_its_subjects_by_package_urls() -> None:
    name = package_url(parse_reference("reg/y").with_default_tag(), "linux/amd64")
    made = attestation("https://slsa.dev/provenance/v0.2", {"a": 1}, DIGEST, [name])
    assert json.loads(made.statement) == {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [
            {"name": "pkg:docker/reg/y@latest?platform=linux%2Famd64", "digest": {"sha256": "ab" * 32}}
        ],
        "predicate": {"a": 1},
    }


def test_version_0_2_has_buildkits_members() -> None:
    found = _predicate(mode="max")
    assert found["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert found["builder"] == {"id": ""}
    assert found["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert found["invocation"]["parameters"]["args"] == {
        "build-arg:A": "private",
        "label:x": "y",
        "target": "app",
    }
    assert found["invocation"]["parameters"]["secrets"] == [{"id": "key"}, {"id": "token", "optional": True}]
    assert found["invocation"]["environment"] == {"platform": "linux/amd64"}
    assert found["materials"] == [
        {"uri": "pkg:docker/debian@12?platform=linux%2Famd64", "digest": {"sha256": "cd" * 32}}
    ]
    info = found["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]["infos"][0]
    assert base64.b64decode(info["data"]) == b"FROM debian:12\n"
    assert found["buildConfig"]["steps"][1]["layer"] == {"sha256": "ab" * 32}


@pytest.mark.parametrize("version", ["v0.2", "v1"])
def test_the_least_mode_tells_no_values_no_secrets_and_no_dockerfile(version: str) -> None:
    text = json.dumps(_predicate(mode="min", version=version))
    assert "private" not in text
    assert "token" not in text
    assert base64.b64encode(b"FROM debian").decode()[:8] not in text
    assert '"target": "app"' in text


def test_leaving_something_out_is_told() -> None:
    assert _predicate(mode="min")["metadata"]["completeness"]["parameters"] is False
    assert _predicate(mode="max")["metadata"]["completeness"]["parameters"] is True


def test_version_1_has_its_own_form() -> None:
    found = _predicate(mode="max", version="v1")
    assert found["buildDefinition"]["externalParameters"]["configSource"] == {"path": "Dockerfile"}
    assert found["runDetails"]["metadata"]["invocationId"] == "161fmv7"
    assert found["buildDefinition"]["resolvedDependencies"][0]["digest"] == {"sha256": "cd" * 32}


def test_a_context_from_elsewhere_is_the_source_and_a_material() -> None:
    fetched = replace(FACTS, source=Material("https://host/r.git#v1", {"sha1": "ef" * 20}), locals=())
    found = json.loads(json.dumps(predicate(fetched, wanted({}))))
    assert found["invocation"]["configSource"] == {
        "entryPoint": "Dockerfile",
        "uri": "https://host/r.git#v1",
        "digest": {"sha1": "ef" * 20},
    }
    assert found["materials"][-1] == {"uri": "https://host/r.git#v1", "digest": {"sha1": "ef" * 20}}
    assert "locals" not in found["invocation"]["parameters"]


@pytest.mark.parametrize("wrong", [{"mode": "all"}, {"version": "v3"}, {"colour": "red"}])
def test_wrong_wishes_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        wanted(wrong)


def test_only_installed_debian_packages_count() -> None:
    text = (
        "Package: base-files\nStatus: install ok installed\nArchitecture: amd64\nVersion: 12.4+deb12u5\n"
        "Description: x\n Package: not-a-field\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: noversion\nStatus: install ok installed\n"
    )
    found = list(dpkg_packages(text, "debian", "/var/lib/dpkg/status"))
    assert [one.url for one in found] == ["pkg:deb/debian/base-files@12.4%2Bdeb12u5?arch=amd64"]


def test_alpine_python_and_node_packages_are_read() -> None:
    apk = list(
        apk_packages("P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nF:lib\n", "alpine", "/lib/apk/db/installed")
    )
    assert [(one.url, one.license) for one in apk] == [("pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64", "MIT")]
    python = python_package("Metadata-Version: 2.1\nName: My_Pkg.Name\nVersion: 1.0\n\nName: body\n", "x")
    assert python is not None
    assert python.url == "pkg:pypi/my-pkg-name@1.0"
    node = npm_package('{"name": "@scope/thing", "version": "2.0.0", "license": {"type": "MIT"}}', "x")
    assert node is not None
    assert node.url == "pkg:npm/%40scope/thing@2.0.0"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"name": 1, "version": 2}', "[" * 100_000, '{"name": "", "version": "1"}']
)
def test_a_package_json_that_is_none_is_left_out(text: str) -> None:
    assert npm_package(text, "x") is None


def test_a_document_has_what_spdx_requires() -> None:
    packages = [
        Package("deb", "a/b\x07", "1", "debian", license="GPL-2.0-only; DROP"),
        Package("npm", "c", "2", "@s"),
    ]
    made = document("app:latest", "2026-01-02T03:04:05Z", packages, Distribution("debian", "12"))
    text = json.loads(json.dumps(made))
    assert text["spdxVersion"] == "SPDX-2.3"
    assert text["dataLicense"] == "CC0-1.0"
    assert text["creationInfo"]["creators"] == ["Tool: sampan"]
    ids = [one["SPDXID"] for one in text["packages"]]
    assert len(set(ids)) == 3
    for one in ids:
        assert one.startswith("SPDXRef-")
        assert set(one.removeprefix("SPDXRef-")) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
        )
    assert text["packages"][1]["licenseDeclared"] == "NOASSERTION"
    assert text["packages"][2]["name"] == "@s/c"
    assert {one["relationshipType"] for one in text["relationships"]} == {"DESCRIBES", "CONTAINS"}
    assert (
        document("app:latest", "2026-01-02T03:04:05Z", packages[::-1], Distribution("debian", "12")) == made
    )


def test_a_root_is_looked_through_without_leaving_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "status").write_text("Package: host\nVersion: 1\n")
    root = tmp_path / "root"
    site = root / "usr/lib/python3/dist-packages/flask-3.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Name: Flask\nVersion: 3.0\n")
    module = root / "app/node_modules/left-pad"
    module.mkdir(parents=True)
    (module / "package.json").write_text('{"name": "left-pad", "version": "1.3.0"}')
    (root / "app/package.json").write_text('{"name": "the-app", "version": "9"}')
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(outside / "status")
    (root / "var/lib/loop").symlink_to("..")
    os.mkfifo(root / "usr/lib/os-release")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packages, system = scan(fd, threading.Event())
    finally:
        os.close(fd)
    assert [one.url for one in packages] == ["pkg:npm/left-pad@1.3.0", "pkg:pypi/flask@3.0"]
    assert system == Distribution("debian", "12")


@pytest.fixture
def hostile_root(tmp_path: Path) -> Iterator[Path]:
    """Nested deeper than a path can be long and than Python can recurse, with names that are no text."""
    root = tmp_path / "hostile"
    root.mkdir()
    inner = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("dd", dir_fd=inner)
        inner, outer = os.open("dd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=inner), inner
        os.close(outer)
    os.close(inner)
    yield root
    remove_tree(root)


def test_a_hostile_root_gives_a_document_all_the_same(hostile_root: Path) -> None:
    site = os.fsencode(hostile_root) + b"/p\xff\n\x1b[2J.dist-info"
    os.mkdir(site)
    Path(os.fsdecode(site + b"/METADATA")).write_bytes(b"Name: a\xff\x1b]0;x\x07b\nVersion: 1\xe2\x80\xae\n")
    names = {"\\ud800": "half", "\\u202e@x/y\\u001b[2J": "turned", "n" * 100_000: "long", "/": "empty"}
    for name, folder in names.items():
        (hostile_root / f"node_modules/{folder}").mkdir(parents=True)
        text = f'{{"name": "{name}", "version": "\\udfff1", "license": "\\ud800"}}'
        (hostile_root / f"node_modules/{folder}/package.json").write_text(text)
    (hostile_root / "node_modules/pipe").mkdir()
    os.mkfifo(hostile_root / "node_modules/pipe/package.json")
    folder = hostile_root / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xfe")).write_text("Package: d\nVersion: 1\n")
    fd = os.open(hostile_root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packages, system = scan(fd, threading.Event())
    finally:
        os.close(fd)
    text = json.dumps(document("x", "2026-01-02T03:04:05Z", packages, system), ensure_ascii=False)
    text.encode()  # no halves of surrogate pairs
    assert all(char.isprintable() for char in text) and {"pypi", "npm", "deb"} == {
        one.kind for one in packages
    }
    assert [one.name for one in packages if one.kind == "pypi"] == ["a\ufffd]0;xb"]


@pytest.mark.parametrize("line", ["a:b\n", "P\n", "\n", "%d:\n", " \n", "a" * 70_000 + "\n"])
def test_a_database_of_a_package_manager_takes_little_memory(line: str) -> None:
    text = "".join(line % number if "%" in line else line for number in range((1 << 20) // len(line)))
    tracemalloc.start()
    try:
        assert list(dpkg_packages(text, "", "x")) == list(apk_packages(text, "", "x")) == []
        assert tracemalloc.get_traced_memory()[1] < 256 << 10
    finally:
        tracemalloc.stop()


def test_absurdly_many_packages_end_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.build.attest.scan.MAX_TOLD", 5000)
    (tmp_path / "lib/apk/db").mkdir(parents=True)
    (tmp_path / "lib/apk/db/installed").write_text(
        "".join(f"P:{'p' * 1000}{number}\nV:1\n\n" for number in range(10))
    )
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(Invalid, match="more than 5000 characters"):
            scan(fd, threading.Event())
    finally:
        os.close(fd)


def test_a_distribution_without_a_name_is_none() -> None:
    assert distribution("nonsense\n=\n") == Distribution()


def test_wishes_are_read_as_buildx_has_them() -> None:
    found = parse_attests(["type=provenance,mode=max,builder-id=me", "type=sbom"])
    assert found.provenance == Wanted("max", builder_id="me")
    assert found.sbom
    assert not parse_attests(["type=provenance", "type=provenance,disabled=true", "type=sbom,false"])
    assert parse_attests(["type=provenance,true"]).provenance == Wanted()


@pytest.mark.parametrize(
    "wrong", ["", "type=x", "mode=max", "type=sbom,x=y", "type=provenance,maybe", "type=sbom,generator=z"]
)
def test_wrong_attestations_are_refused(wrong: str) -> None:
    with pytest.raises((Invalid, Unsupported)):
        parse_attests([wrong])
