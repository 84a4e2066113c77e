"""Where a build's result goes: files, archives, registries; judged by tar, skopeo and docker-registry."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

DOCKERFILE = """FROM scratch AS files
COPY <<one /dir/one
first
one
COPY --chmod=755 <<two /two
second
two
FROM busybox
RUN mkdir /made && echo text > /made/file && ln -s file /made/link && chmod 4755 /made/file
CMD ["cat", "/made/file"]
"""


def build(sampan: Any, *arguments: str, text: str = DOCKERFILE) -> subprocess.CompletedProcess[str]:
    return sampan.run("build", *arguments, "-", stdin=text.encode(), timeout=120)  # type: ignore[no-any-return]


def built(sampan: Any, *arguments: str, text: str = DOCKERFILE) -> str:
    done = build(sampan, *arguments, text=text)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def skopeo(*arguments: str) -> Any:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else done.stdout


def layout(archive: Path) -> dict[str, Any]:
    """index.json, its first manifest and that one's configuration."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        index = read("index.json")
        manifest = read("blobs/sha256/" + index["manifests"][0]["digest"].removeprefix("sha256:"))
        return {"index": index, "manifest": manifest, "names": tar.getnames()}


def test_files_come_as_a_directory_or_as_a_tar_and_leave_no_image(sampan: Any, tmp_path: Path) -> None:
    before = sampan.ok("images", "-aq")
    out = tmp_path / "out"
    built(sampan, "--target", "files", "-o", str(out))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["dir", "dir/one", "two"]
    assert (out / "dir/one").read_text() == "first\n"
    assert (out / "two").stat().st_mode & 0o777 == 0o755
    # Once more into what is there: a link in the way is replaced and not followed, other files stay.
    (out / "kept").write_text("mine")
    (out / "two").unlink()
    (out / "two").symlink_to(tmp_path / "elsewhere")
    built(sampan, "--target", "files", "--output", f"type=local,dest={out}")
    assert (out / "kept").read_text() == "mine"
    assert (out / "two").read_text() == "second\n"
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(os.listdir(out)) == ["dir", "kept", "two"]
    tar = tmp_path / "files.tar"
    built(sampan, "-o", f"type=tar,dest={tar}")
    with tarfile.open(tar) as archive:
        assert archive.getmember("made/file").mode == 0o4755
        assert archive.getmember("made/link").linkname == "file"
    done = subprocess.run(
        ["tar", "-tf", "-"],
        input=_raw(sampan, "--target", "files", "-o", "-"),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["dir/", "dir/one", "two"]
    assert sampan.ok("images", "-aq") == before


def _raw(sampan: Any, *arguments: str) -> bytes:
    process = sampan.start("build", *arguments, "-")
    out, err = process.communicate(DOCKERFILE.encode(), timeout=120)
    assert process.returncode == 0, err
    return bytes(out)


def test_archives_are_read_by_skopeo_and_by_us(sampan: Any, tmp_path: Path) -> None:
    oci, docker, metadata = tmp_path / "oci.tar", tmp_path / "docker.tar", tmp_path / "metadata.json"
    built(
        sampan, "-t", "out:1", "--metadata-file", str(metadata), "--annotation", "org.example.a=b",
        "--output", f"type=oci,dest={oci},compression=zstd,force-compression=true",
    )  # fmt: skip
    found = layout(oci)
    assert {one["mediaType"] for one in found["manifest"]["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    }
    assert found["manifest"]["annotations"] == {"org.example.a": "b"}
    entry = found["index"]["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/out:1"
    said = json.loads(metadata.read_text())
    assert said["containerimage.digest"] == entry["digest"]
    assert said["containerimage.descriptor"]["digest"] == entry["digest"]
    assert said["containerimage.config.digest"] == found["manifest"]["config"]["digest"]
    assert said["image.name"] == "docker.io/library/out:1"
    assert skopeo("inspect", "--config", f"oci-archive:{oci}")["config"]["Cmd"] == ["cat", "/made/file"]
    built(sampan, "-t", "out:2", "--output", f"type=docker,dest={docker},compression=uncompressed")
    assert skopeo("inspect", "--config", f"docker-archive:{docker}:out:2")["os"] == "linux"
    assert sampan.run("image", "inspect", "out:2").returncode != 0  # it went to the file only
    assert "Loaded image: out:2" in sampan.ok("load", "-i", str(docker))
    assert sampan.ok("run", "--rm", "out:2") == "text"
    directory = tmp_path / "layout"
    built(sampan, "--output", f"type=oci,dest={directory},tar=false,oci-mediatypes=true")
    assert skopeo("inspect", "--config", f"oci:{directory}")["architecture"] == "amd64"


def test_an_image_is_pushed_after_its_build(sampan: Any, session_registry: Any, tmp_path: Path) -> None:
    names = [f"{session_registry.host}/outputs/app:{tag}" for tag in ("1", "2")]
    metadata = tmp_path / "metadata.json"
    built(sampan, "-t", names[0], "-t", names[1], "--push", "--metadata-file", str(metadata))
    said = json.loads(metadata.read_text())
    for name in names:
        raw = skopeo("inspect", "--tls-verify=false", f"docker://{name}")
        assert raw["Digest"] == said["containerimage.digest"]
    assert said["image.name"] == ",".join(names)
    inspected = json.loads(sampan.ok("image", "inspect", names[0]))[0]
    assert inspected["Id"] == said["containerimage.config.digest"]
    assert inspected["RepoDigests"] == [f"{names[0].rpartition(':')[0]}@{said['containerimage.digest']}"]
    # Only there, in another compression, and by its digest alone.
    elsewhere = f"{session_registry.host}/outputs/other"
    spec = (
        f"type=image,name={elsewhere},push-by-digest=true,store=false,compression=zstd,force-compression=true"
        ",name-canonical=true"
    )
    built(sampan, "--output", spec, "--metadata-file", str(metadata))
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{elsewhere}@{digest}")
    assert raw["layers"][0]["mediaType"].endswith("+zstd")
    assert sampan.run("image", "inspect", elsewhere).returncode != 0
    # As Docker's documentation has it for builds on several machines, here without a registry.
    built(
        sampan, "--output", "type=image,name=canonical,name-canonical=true", "--metadata-file", str(metadata)
    )
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    inspected = json.loads(sampan.ok("image", "inspect", f"canonical@{digest}"))[0]
    assert f"canonical@{digest}" in inspected["RepoDigests"]


def test_an_output_that_fails_leaves_nothing_and_says_why(sampan: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = build(sampan, "-o", str(out), text="FROM busybox\nRUN exit 3\n")
    assert done.returncode != 0
    done = build(sampan, "--output", f"type=tar,dest={tmp_path}/no/../no.tar,nonsense=1")
    assert "unknown option 'nonsense' for output type tar" in done.stderr
    assert "tag is needed when pushing" in build(sampan, "--push").stderr
    assert "is not supported" in build(sampan, "--output", "type=ovf,dest=x").stderr
    refused = build(sampan, "-t", "127.0.0.1:1/nobody/home", "--push")
    assert refused.returncode != 0
    assert "127.0.0.1:1" in refused.stderr
    os.mkdir(tmp_path / "file.tar")
    assert "is a directory" in build(sampan, "--output", f"type=oci,dest={tmp_path}/file.tar").stderr
    assert sorted(os.listdir(tmp_path)) == ["file.tar"]


def test_an_engine_killed_while_it_delivers_leaves_no_half_and_the_next_build_is_whole(
    fresh_sampan: Any, tmp_path: Path
) -> None:
    text = "FROM busybox\nRUN head -c 20000000 /dev/urandom > /noise\n"
    out, context = tmp_path / "out.tar", tmp_path / "Dockerfile"
    context.write_text(text)
    outputs = ["--output", f"type=oci,dest={out}", "--output", "type=tar,dest=-"]
    with open(context, "rb") as source:
        process = fresh_sampan.start("build", "-", *outputs, stdin=source)
    assert process.stdout.read(1)  # the second output is on its way, and waits for us
    assert out.exists()
    fresh_sampan.engine.kill()
    process.stdout.read()
    assert process.wait(30) != 0
    assert b"Traceback" not in process.stderr.read()
    out.unlink()
    fresh_sampan.engine.start()
    # A client that goes away while it is given something does not hold the engine.
    with open(context, "rb") as source:
        process = fresh_sampan.start("build", "-", "-o", "-", stdin=source)
    assert process.stdout.read(1)
    process.kill()
    process.communicate(timeout=30)
    done = build(fresh_sampan, "--progress", "plain", "--output", f"type=oci,dest={out}", text=text)
    assert done.returncode == 0, done.stderr
    assert "CACHED" in done.stdout + done.stderr
    assert skopeo("inspect", "--raw", f"oci-archive:{out}")["schemaVersion"] == 2
    assert sorted(os.listdir(tmp_path)) == ["Dockerfile", "out.tar"]
