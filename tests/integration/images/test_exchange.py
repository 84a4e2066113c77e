"""Images exchanged as archives with Docker, Podman, skopeo and buildah, both ways."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sampan.oci.image import ContainerDefaults, History, ImageConfig, RootFS
from sampan.oci.reference import parse_reference
from sampan.storage.archive import load_archive, save_archive
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata

pytestmark = pytest.mark.root

START_SECONDS = 40


def run(*command: str | Path, input: bytes | None = None) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, input=input)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout.decode()


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    """The command line of a dockerd of our own, without networks."""
    root = tmp_path_factory.mktemp("dockerd")
    socket = f"unix://{root}/d.sock"
    with open(root / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", root / "data", "--exec-root", root / "exec", "-H", socket]
            + ["--pidfile", root / "pid", "--bridge", "none", "--iptables=false", "--storage-driver", "vfs"],
            stdout=log,
            stderr=log,
        )
    try:
        docker = ("docker", "-H", socket)
        wait_for(daemon, docker, root / "log")
        yield docker
    finally:
        daemon.terminate()
        daemon.wait(20)
        shutil.rmtree(root, ignore_errors=True)


def wait_for(daemon: subprocess.Popen[bytes], docker: Sequence[str], log: Path) -> None:
    pause = threading.Event()
    for _ in range(START_SECONDS * 10):
        assert daemon.poll() is None, log.read_text()
        if subprocess.run([*docker, "version"], capture_output=True).returncode == 0:
            return
        pause.wait(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def podman() -> Iterator[Sequence[str]]:
    with tempfile.TemporaryDirectory(prefix="p") as root:  # podman wants short paths
        yield ("podman", "--root", f"{root}/d", "--runroot", f"{root}/r", "--storage-driver", "vfs")


class Store:
    def __init__(self, root: Path) -> None:
        self.metadata = Metadata(root)
        self.images = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), self.metadata)

    def load(self, path: Path) -> dict[str, Image]:
        """Images by the names they were loaded under ("" for none)."""
        with open(path, "rb") as file:
            return {
                name.familiar: image
                for image, names in load_archive(self.images, file)
                for name in names or [parse_reference("none")]
            }

    def save(self, image: Image, name: str, path: Path, form: str = "docker") -> Path:
        with open(path, "wb") as file:
            save_archive(self.images, [(image, parse_reference(name))], file, form=form)  # type: ignore[arg-type]
        return path

    def write_layers(self, image: Image) -> list[int]:
        return [self.images.layers.size(diff_id) for diff_id in image.diff_ids]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    yield made
    made.metadata.close()


@pytest.fixture
def image(store: Store) -> Image:
    first = tar_of({"bin/": None, "bin/tool": b"#!/bin/sh\n" * 300, "empty": b""})
    second = tar_of({"bin/.wh.tool": b"", "etc/": None, "etc/conf": b"x" * 200_000})
    layers = [ingest_tar(store.images, [raw]).diff_id for raw in (first, second)]
    return store.images.create(
        ImageConfig(
            "amd64",
            "linux",
            RootFS(tuple(layers)),
            ContainerDefaults(cmd=("/bin/tool",), env=("A=1",), labels={"l": "v"}),
            created="2024-01-01T00:00:00Z",
            history=(History(created_by="one"), History(created_by="two")),
        )
    )


def tar_of(members: dict[str, bytes | None]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_docker_loads_what_is_saved_and_its_own_archive_is_loaded_back(
    store: Store, image: Image, docker: Sequence[str], tmp_path: Path
) -> None:
    assert run(*docker, "load", "-i", store.save(image, "me/app:1", tmp_path / "out.tar")).strip() == (
        "Loaded image: me/app:1"
    )
    (shown,) = json.loads(run(*docker, "inspect", "me/app:1"))
    assert shown["Id"] == image.id
    assert shown["RootFS"]["Layers"] == list(image.diff_ids)
    assert shown["Config"]["Cmd"] == ["/bin/tool"]
    # A build of its own on top, with the same layer twice (a link in the archive).
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_bytes(b"content" * 1000)
    os.utime(tmp_path / "context/file", (1_700_000_000, 1_700_000_000))
    dockerfile = b"FROM me/app:1\nCOPY file /a\nCOPY file /b\nENV B=2\n"
    (tmp_path / "context/Dockerfile").write_bytes(dockerfile)
    run(*docker, "build", "-q", "-t", "built:1", tmp_path / "context")
    run(*docker, "save", "-o", tmp_path / "docker.tar", "built:1", "me/app:1")
    other = Store(tmp_path / "other")
    loaded = other.load(tmp_path / "docker.tar")
    assert loaded["me/app:1"].id == image.id
    assert loaded["built:1"].id == run(*docker, "inspect", "--format", "{{.Id}}", "built:1").strip()
    assert other.write_layers(loaded["built:1"]) == [3000, 200_000, 7000, 7000]
    # And what was Docker's goes back to Docker unchanged.
    run(*docker, "rmi", "built:1")
    run(*docker, "load", "-i", other.save(loaded["built:1"], "built:1", tmp_path / "again.tar"))
    assert run(*docker, "inspect", "--format", "{{.Id}}", "built:1").strip() == loaded["built:1"].id
    other.metadata.close()


def test_an_ambiguous_prefix_of_an_id_is_an_unknown_image_for_docker_too(
    store: Store, docker: Sequence[str]
) -> None:
    for number in range(17):  # seventeen ids: two begin with the same digit
        run(*docker, "import", "-", f"many:{number}", input=tar_of({f"f{number}": b""}))
    ids = run(*docker, "images", "-q", "--no-trunc").split()
    first = [one.removeprefix("sha256:")[0] for one in set(ids)]
    twice = next(digit for digit in first if first.count(digit) > 1)
    refused = subprocess.run([*docker, "rmi", twice], capture_output=True, text=True)
    assert refused.stderr.strip() == f"Error response from daemon: No such image: {twice}:latest"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_what_is_saved_and_its_own_archives_are_loaded_back(
    store: Store, image: Image, podman: Sequence[str], tmp_path: Path, form: str
) -> None:
    path = store.save(image, "me/app:1", tmp_path / "out.tar", form.removesuffix("-archive"))
    assert run(*podman, "load", "-i", path).strip() == "Loaded image: docker.io/me/app:1"
    (shown,) = json.loads(run(*podman, "image", "inspect", "me/app:1"))
    assert f"sha256:{shown['Id']}" == image.id
    run(*podman, "save", "--format", form, "-o", tmp_path / "podman.tar", "me/app:1")
    other = Store(tmp_path / "other")
    loaded = other.load(tmp_path / "podman.tar")
    assert {name: one.id for name, one in loaded.items()} == {"me/app:1": image.id}
    other.metadata.close()


@pytest.mark.parametrize("source", ["docker", "oci"])
@pytest.mark.parametrize("target", ["docker-archive", "oci-archive"])
def test_skopeo_copies_from_what_is_saved_to_what_is_loaded(
    store: Store, image: Image, tmp_path: Path, source: str, target: str
) -> None:
    path = store.save(image, "me/app:1", tmp_path / "out.tar", source)
    run(
        "skopeo", "copy", "--format", "oci" if target == "oci-archive" else "v2s2",
        f"{source}-archive:{path}" + (":me/app:1" if source == "docker" else ""),
        f"{target}:{tmp_path}/skopeo.tar:me/other:2",
    )  # fmt: skip
    other = Store(tmp_path / "other")
    ((name, loaded),) = other.load(tmp_path / "skopeo.tar").items()
    assert name == "me/other:2"
    assert loaded.diff_ids == image.diff_ids
    assert loaded.config.defaults == image.config.defaults
    other.metadata.close()


def test_buildah_takes_what_is_saved_and_a_zstd_layout_of_skopeos_is_loaded(
    store: Store, image: Image, tmp_path: Path
) -> None:
    path = store.save(image, "me/app:1", tmp_path / "out.tar", "oci")
    buildah = ("buildah", "--root", f"{tmp_path}/b", "--runroot", f"{tmp_path}/br", "--storage-driver", "vfs")
    run(*buildah, "pull", "-q", f"oci-archive:{path}")
    run(
        "skopeo", "copy", "--dest-compress-format", "zstd", "--dest-compress",
        f"oci-archive:{path}", f"oci-archive:{tmp_path}/zstd.tar:me/zstd:1",
    )  # fmt: skip
    other = Store(tmp_path / "other")
    loaded = other.load(tmp_path / "zstd.tar")["me/zstd:1"]
    assert loaded.diff_ids == image.diff_ids
    other.metadata.close()
