"""One build for several platforms: an index in the store, in archives and on a registry, as skopeo sees it too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BOTH = "linux/amd64,linux/arm64"
DOCKERFILE = """FROM --platform=$BUILDPLATFORM busybox AS make
ARG TARGETARCH
RUN echo "for $TARGETARCH on $(uname -m)" > /result
FROM scratch
ARG TARGETPLATFORM
COPY --from=make /result /result
LABEL platform=$TARGETPLATFORM
CMD ["/result"]
"""


def built(sampan: Any, *arguments: str, text: str = DOCKERFILE) -> str:
    done = sampan.run("build", *arguments, "-", stdin=text.encode(), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def skopeo(*arguments: str) -> Any:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else done.stdout


def platforms(index: dict[str, Any]) -> list[str]:
    return [f"{one['platform']['os']}/{one['platform']['architecture']}" for one in index["manifests"]]


def inspect(sampan: Any, name: str, *arguments: str) -> dict[str, Any]:
    return json.loads(sampan.ok("image", "inspect", *arguments, name))[0]  # type: ignore[no-any-return]


def test_an_index_goes_through_a_registry(sampan: Any, session_registry: Any, tmp_path: Path) -> None:
    name, metadata = f"{session_registry.host}/platforms/app:1", tmp_path / "metadata.json"
    annotation = ["--annotation", "index:org.example.about=all", "--annotation", "manifest[linux/arm64]:a=b"]
    built(
        sampan, "--platform", BOTH, "-t", name, "--push", "--metadata-file", str(metadata), "--iidfile",
        str(tmp_path / "id"), *annotation,
    )  # fmt: skip
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    assert (tmp_path / "id").read_text() == digest
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}@{digest}".replace(":1@", "@"))
    assert raw["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert raw["annotations"] == {"org.example.about": "all"}
    assert platforms(raw) == BOTH.split(",")
    for architecture in ("amd64", "arm64"):
        config = skopeo(
            "inspect", "--config", "--tls-verify=false", "--override-arch", architecture, f"docker://{name}"
        )
        assert (config["architecture"], config["config"]["Labels"]["platform"]) == (
            architecture,
            f"linux/{architecture}",
        )
    # Everything is there: skopeo copies all of it, checking digests.
    copy = f"{tmp_path}/copy.tar"
    skopeo(
        "copy",
        "--all",
        "--src-tls-verify=false",
        f"docker://{name}",
        f"oci-archive:{copy}:localhost/copied:1",
    )
    assert "Loaded image: localhost/copied:1" in sampan.ok("load", "-i", copy)
    assert inspect(sampan, "localhost/copied:1", "--platform", "linux/arm64")["Architecture"] == "arm64"
    sampan.ok("rmi", "localhost/copied:1")
    # And back again: one platform, then the other beside it; the name means the one pulled last.
    sampan.ok("rmi", name)
    assert sampan.run("image", "inspect", digest).returncode != 0
    sampan.ok("pull", name)
    assert inspect(sampan, name)["Architecture"] == "amd64"
    sampan.ok("pull", "--platform", "linux/arm64", name)
    assert inspect(sampan, name)["Architecture"] == "arm64"
    assert inspect(sampan, name, "--platform", "linux/amd64")["Architecture"] == "amd64"
    again = f"{session_registry.host}/platforms/again:1"
    sampan.ok("tag", name, again)
    sampan.ok("push", again)
    assert skopeo("inspect", "--tls-verify=false", f"docker://{again}")["Digest"] == digest
    sampan.ok("rmi", name, again)


def test_the_store_keeps_all_platforms_under_one_name(sampan: Any, tmp_path: Path) -> None:
    before = sampan.ok("images", "-a", "--format", "{{.Repository}}:{{.Tag}}").split()
    built(sampan, "--platform", BOTH, "-t", "both:1", "-t", "both:2")
    listed = sampan.ok("images", "-a", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(one for one in listed if one.startswith("both")) == ["both:1", "both:2"]
    assert listed.count("<none>:<none>") == before.count("<none>:<none>")
    own, other = inspect(sampan, "both:1"), inspect(sampan, "both:1", "--platform", "linux/arm64")
    assert (own["Architecture"], other["Architecture"]) == ("amd64", "arm64")
    history = sampan.ok("history", "--platform", "linux/arm64", "--format", "{{.CreatedBy}}", "both:1")
    assert "LABEL platform=linux/arm64" in history
    refused = sampan.run("image", "inspect", "--platform", "linux/s390x", "both:1")
    assert refused.returncode == 1
    # A container of a certain platform is of that image.
    sampan.ok("tag", other["Id"], "foreign:1")
    warned = sampan.run("create", "foreign:1")
    assert "platform (linux/arm64) does not match the detected host platform (linux/amd64)" in warned.stderr
    sampan.ok("rm", warned.stdout.strip())
    sampan.ok("rmi", "foreign:1")
    created = sampan.ok("create", "--platform", "linux/arm64", "both:1")
    assert json.loads(sampan.ok("inspect", created))[0]["Image"] == other["Id"]
    sampan.ok("rm", created)
    # A build stands on the image for its own platform.
    built(sampan, "--platform", "linux/arm64", "-t", "child", text="FROM both:1\nLABEL child=yes\n")
    assert inspect(sampan, "child")["Config"]["Labels"] == {"platform": "linux/arm64", "child": "yes"}
    archive = tmp_path / "both.tar"
    sampan.ok("save", "-o", str(archive), "both:1")
    whole = skopeo("inspect", "--raw", f"oci-archive:{archive}")
    assert platforms(whole) == BOTH.split(",")
    assert skopeo("inspect", "--config", f"docker-archive:{archive}")["architecture"] == "amd64"
    manifests = {one["ID"] for one in _manifests(sampan, "both:1")}
    assert manifests == {one["digest"] for one in whole["manifests"]}
    sampan.ok("rmi", "both:1", "child")
    assert inspect(sampan, "both:2", "--platform", "linux/arm64")["Id"] == other["Id"]
    deleted = sampan.ok("rmi", "both:2")
    assert f"Deleted: {own['Id']}" in deleted
    assert f"Deleted: {other['Id']}" in deleted
    assert "Loaded image: both:1" in sampan.ok("load", "-i", str(archive))
    assert inspect(sampan, "both:1")["Id"] == own["Id"]
    assert inspect(sampan, "both:1", "--platform", "linux/arm64")["Id"] == other["Id"]
    sampan.ok("rmi", "both:1")
    sampan.ok("load", "--platform", "linux/arm64", "-i", str(archive))
    assert inspect(sampan, "both:1")["Id"] == other["Id"]
    sampan.ok("rmi", "both:1")


def _manifests(sampan: Any, name: str) -> list[dict[str, Any]]:
    found = sampan.api.api._result(
        sampan.api.api._get(sampan.api.api._url("/images/{0}/json", name), params={"manifests": "1"}),
        json=True,
    )
    return list(found["Manifests"])


def test_files_of_several_platforms_go_to_a_directory_each(sampan: Any, tmp_path: Path) -> None:
    built(sampan, "--platform", BOTH, "-o", str(tmp_path / "out"))
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("result")} == {
        "out/linux_amd64/result": "for amd64 on x86_64\n",
        "out/linux_arm64/result": "for arm64 on x86_64\n",
    }
    archive = tmp_path / "oci.tar"
    built(sampan, "--platform", BOTH, "-t", "x", "--output", f"type=oci,dest={archive}")
    assert platforms(skopeo("inspect", "--raw", f"oci-archive:{archive}")) == BOTH.split(",")
    done = sampan.run(
        "build", "--platform", BOTH, "--output", f"type=docker,dest={archive}", "-", stdin=DOCKERFILE.encode()
    )
    assert "does not currently support exporting manifest lists" in done.stderr


def test_a_base_image_of_another_platform_is_not_taken_for_the_wanted_one(sampan: Any) -> None:
    done = sampan.run(
        "build", "--platform", "linux/arm64", "-", stdin=b"FROM busybox\nLABEL a=b\n", timeout=120
    )
    assert done.returncode != 0
    assert "does not match the specified platform: wanted linux/arm64, actual: linux/amd64" in done.stderr


def test_a_cache_has_the_steps_of_all_platforms(sampan: Any, session_registry: Any) -> None:
    text = DOCKERFILE.replace("echo", "echo cached")
    cache = f"type=registry,ref={session_registry.host}/platforms/cache"
    arguments = ["--progress", "plain", "--platform", BOTH, "-t", "cached"]
    assert "CACHED" not in shown(sampan, *arguments, "--cache-to", f"{cache},mode=max", text=text)
    sampan.ok("rmi", "cached")
    sampan.ok("builder", "prune", "-af")
    again = shown(sampan, *arguments, "--cache-from", cache, text=text)
    assert again.count("CACHED") == 4  # RUN and COPY for both
    sampan.ok("rmi", "cached")


def shown(sampan: Any, *arguments: str, text: str) -> str:
    done = sampan.run("build", *arguments, "-", stdin=text.encode(), timeout=120)
    assert done.returncode == 0, done.stderr
    return str(done.stderr + done.stdout)


def test_platforms_are_built_at_the_same_time(sampan: Any) -> None:
    both = "[ -e /meet/amd64 ] && [ -e /meet/arm64 ]"
    text = f"""FROM --platform=$BUILDPLATFORM busybox AS make
ARG TARGETARCH
RUN --mount=type=cache,target=/meet,id=platforms-meet touch /meet/$TARGETARCH; n=0; \\
    until {both}; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done
FROM scratch
COPY --from=make /etc/passwd /
"""
    done = shown(sampan, "--progress", "plain", "--platform", BOTH, "--output", "type=cacheonly", text=text)
    for architecture in ("amd64", "arm64"):
        assert f"[linux/{architecture} make 2/2] RUN" in done
    assert done.count("load build definition from Dockerfile") == 1
