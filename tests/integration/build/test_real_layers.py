"""Builds over real layers, overlay snapshots and the real runtime: what plain directories can't show."""

from __future__ import annotations

import io
import itertools
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sampan.build.errors import BuildCancelled, RunFailed
from sampan.build.events import BuildEvent, VertexLog
from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.solver.builder import Builder
from sampan.build.worker import EMPTY_LAYER, BaseImage, CacheWish, Report, RunRequest
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS, encode_image_config
from sampan.oci.reference import Reference
from sampan.oci.spec import Capabilities, Linux, Mount, Namespace, Process, Root, Spec
from sampan.runtime.launcher_client import LauncherClient
from sampan.runtime.messages import CreateRequest
from sampan.runtime.shim_client import ShimClient
from sampan.storage.layers import Layer, LayerStore
from sampan.storage.metadata import Metadata
from sampan.storage.snapshots import SnapshotStore
from sampan.testing.build_reader import BuildReader
from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

_KINDS = ("pid", "mount", "uts", "ipc", "network")
_POWERS = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID")


class RealWorker:
    """The least that makes a worker out of the real storage and launcher: no network, no pulling."""

    def __init__(self, directory: Path) -> None:
        (directory / "run").mkdir(parents=True)
        self._directory = directory
        self.layers = LayerStore(directory / "layers")
        self.snapshots = SnapshotStore(directory / "snapshots", self.layers)
        self.launcher = LauncherClient.start(
            directory / "run", [sys.executable, "-m", "sampan.daemon.launcher"]
        )
        self._numbers = itertools.count(1)
        self._bases: dict[str, BaseImage] = {}
        self.images: dict[Digest, ImageConfig] = {}

    def add_base(self, name: str, raw: bytes) -> None:
        with self.layers.ingest("application/vnd.oci.image.layer.v1.tar") as ingest:
            ingest.write(raw)
            layer = ingest.commit()
        config = ImageConfig("amd64", "linux", RootFS((layer.diff_id,)), config=ContainerDefaults())
        image_id = digest_of(encode_image_config(config))
        self._bases[name] = BaseImage(image_id, config, (layer.diff_id,))

    def resolve_image(
        self, reference: str, *, pull: bool, platform: str | None, report: Report, cancelled: threading.Event
    ) -> BaseImage:
        return self._bases[reference]

    def known_config(self, reference: str, platform: str | None) -> ImageConfig | None:
        return self._bases[reference].config

    def has_layer(self, diff_id: Digest) -> bool:
        return self.layers.has(diff_id)

    def has_image(self, image_id: Digest) -> bool:
        return image_id in self.images

    def create_snapshot(self, diff_ids: Sequence[Digest]) -> str:
        name = f"{next(self._numbers):064x}"
        self.snapshots.create(name, diff_ids)
        return name

    def open_root(self, diff_ids: Sequence[Digest], snapshot_id: str | None) -> int:
        if snapshot_id is not None:
            return self.launcher.open_root(self.snapshots.assembly(snapshot_id))
        name = self.create_snapshot(diff_ids)
        try:
            return self.launcher.open_root(self.snapshots.assembly(name))
        finally:
            self.snapshots.remove(name)

    def run(
        self, request: RunRequest, output: Callable[[int, bytes], None], cancelled: threading.Event
    ) -> int:
        name = f"run{next(self._numbers)}"
        run_dir = self._directory / "run" / name
        run_dir.mkdir()
        spec = Spec(
            "1.0.2",
            process=Process(
                cwd=request.cwd,
                args=request.args,
                env=request.env,
                capabilities=Capabilities(bounding=_POWERS, effective=_POWERS, permitted=_POWERS),
            ),
            root=Root("rootfs"),
            mounts=(Mount("/proc", "proc", "proc"), Mount("/dev", "tmpfs", "tmpfs", ("mode=755",))),
            linux=Linux(namespaces=tuple(Namespace(kind) for kind in _KINDS)),
        )
        read_end, write_end = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        try:
            create = CreateRequest(
                name,
                spec,
                self.snapshots.assembly(request.snapshot_id),
                str(run_dir),
                user=request.user or None,
            )
            self.launcher.create(create, stdio=(null, write_end, write_end))
        finally:
            os.close(null)
            os.close(write_end)
        shim = ShimClient.connect(run_dir)
        shim.start()
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                output(1, data)
        return shim.wait().exit_code

    def adopt_snapshot(self, snapshot_id: str, *, latest: int | None = None) -> Layer:
        return self.snapshots.adopt(snapshot_id, latest=latest)

    def remove_snapshot(self, snapshot_id: str) -> None:
        self.snapshots.remove(snapshot_id)

    def open_cache(self, wish: CacheWish, cancelled: threading.Event) -> AbstractContextManager[int]:
        raise NotImplementedError("these tests use no cache mount")

    def create_image(self, config: ImageConfig, parent: Digest | None) -> Digest:
        image_id = digest_of(encode_image_config(config))
        self.images[image_id] = config
        return image_id

    def tag(self, image_id: Digest, reference: Reference) -> None:
        raise NotImplementedError("these tests tag nothing")


def _base_tar() -> bytes:
    """With the mount points of a container, so that the runtime has none to make."""
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a") as archive:
        for name in ("proc", "dev", "sys"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
    return out.getvalue()


class Site:
    def __init__(self, directory: Path) -> None:
        self.worker = RealWorker(directory / "engine")
        self.worker.add_base("busybox", _base_tar())
        self.metadata = Metadata(directory / "engine")
        self.builder = Builder(self.worker, self.metadata)
        self.context = directory / "context"
        self.context.mkdir()
        self.cancelled = threading.Event()
        self.reader = BuildReader()

    def build(self, dockerfile: str) -> ImageConfig:
        self.reader = BuildReader()
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        try:
            request = BuildRequest(dockerfile_text=dockerfile.encode())
            image_id = self.builder.build(request, Context(fd), self._report, self.cancelled)
        finally:
            os.close(fd)
        return self.worker.images[image_id]

    def layer(self, config: ImageConfig, index: int) -> dict[str, tarfile.TarInfo]:
        """The members of a layer's tar, as every other tool will see them."""
        out = io.BytesIO()
        self.worker.layers.tar(config.rootfs.diff_ids[index], out)
        assert digest_of(out.getvalue()) == config.rootfs.diff_ids[index]
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
            return {member.name: member for member in archive}

    def _report(self, event: BuildEvent) -> None:
        self.reader(event)

    @property
    def text(self) -> str:
        return self.reader.text

    def close(self) -> None:
        self.metadata.close()
        self.worker.launcher.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    assert site.worker.snapshots.ids() == []
    site.close()


def test_a_layer_holds_exactly_what_its_step_changed(site: Site) -> None:
    (site.context / "a.txt").write_text("hello")
    (site.context / "a.txt").chmod(0o644)
    config = site.build(
        "FROM busybox\nCOPY --chown=nobody a.txt /srv/\nRUN cat /srv/a.txt && rm /srv/a.txt && echo x >/etc/new\n"
        "WORKDIR /srv\nRUN true\nWORKDIR /work/dir\n"
    )
    assert "hello" in site.text
    assert len(config.rootfs.diff_ids) == 4
    copied = site.layer(config, 1)
    assert set(copied) == {"srv", "srv/a.txt"}
    assert (copied["srv/a.txt"].uid, copied["srv/a.txt"].gid) == (65534, 65534)
    assert copied["srv/a.txt"].mode == 0o644
    assert set(site.layer(config, 2)) == {"etc", "etc/new", "srv", "srv/.wh.a.txt"}
    assert set(site.layer(config, 3)) == {"work", "work/dir"}


def test_a_step_without_changes_is_dockers_empty_layer(site: Site) -> None:
    snapshot = site.worker.create_snapshot(())
    assert site.worker.adopt_snapshot(snapshot).diff_id == EMPTY_LAYER


def test_a_second_build_is_cached_whole(site: Site) -> None:
    (site.context / "a.txt").write_text("hello")
    dockerfile = (
        "FROM busybox AS b\nRUN echo made >/made\nFROM busybox\nCOPY a.txt /\nCOPY --from=b /made /\nUSER nobody\n"
        "RUN id -un\n"
    )
    first = site.build(dockerfile)
    assert "nobody" in site.text
    assert site.build(dockerfile) == first
    assert site.text.count("Using cache") == 5


def test_a_linked_layer_lies_on_another_base_and_hides_nothing_of_it(site: Site) -> None:
    (site.context / "a.txt").write_text("hello")
    steps = "COPY --link --chown=nobody a.txt /etc/a\nRUN cat /etc/a /etc/passwd && stat -c %u:%g /etc/a && ls /\n"
    first = site.build("FROM busybox\n" + steps)
    assert "hello" in site.text and "root:x:0:0" in site.text and "65534:65534" in site.text
    second = site.build(
        "FROM busybox\nRUN echo >/more && rm -r /etc/passwd && echo nobody:x:65534:65534:::>/etc/passwd\n"
        + steps
    )
    assert first.rootfs.diff_ids[1] == second.rootfs.diff_ids[2]
    assert "hello" in site.text and "more\n" in site.text and "root:x:0:0" not in site.text
    assert set(site.layer(second, 2)) == {"etc", "etc/a"}


def test_files_travel_between_stages_with_links_and_modes(site: Site) -> None:
    config = site.build(
        "FROM busybox AS b\n"
        "RUN mkdir -p /o/d && echo 1 >/o/d/f && ln /o/d/f /o/d/h && ln -s f /o/d/s && chown 7:8 /o/d/f "
        "&& chmod 4711 /o/d/f && mkfifo /o/p\n"
        "FROM scratch\nCOPY --from=b /o /o\n"
    )
    members = site.layer(config, 0)
    assert set(members) == {"o", "o/d", "o/d/f", "o/d/h", "o/d/s", "o/p"}
    assert members["o/d/h"].islnk() and members["o/d/s"].linkname == "f" and members["o/p"].isfifo()
    assert (members["o/d/f"].mode, members["o/d/f"].uid, members["o/d/f"].gid) == (0o4711, 7, 8)


def test_a_failing_command_gives_its_code_and_output(site: Site) -> None:
    with pytest.raises(RunFailed) as caught:
        site.build("FROM busybox\nRUN echo before; exit 3\n")
    assert (caught.value.exit_code, caught.value.last_output) == (3, "before\n")


def test_a_cancelled_build_leaves_no_snapshot(site: Site) -> None:
    def cancel(event: BuildEvent) -> None:
        if isinstance(event, VertexLog) and b"started" in event.data:
            site.cancelled.set()

    site._report = cancel  # type: ignore[method-assign]
    with pytest.raises(BuildCancelled):
        site.build("FROM busybox\nRUN echo started\nRUN echo never\n")


def test_an_archive_is_unpacked_by_add(site: Site) -> None:
    with tarfile.open(site.context / "x.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("dir/file")
        member.size, member.uid, member.mode = 2, 12, 0o640
        archive.addfile(member, io.BytesIO(b"ok"))
    config = site.build("FROM busybox\nADD x.tgz /opt/\n")
    members = site.layer(config, 1)
    assert set(members) == {"opt", "opt/dir", "opt/dir/file"}
    assert (members["opt/dir/file"].uid, members["opt/dir/file"].mode) == (12, 0o640)


def test_a_layer_that_comes_twice_is_mounted_once(site: Site) -> None:
    (site.context / "a.txt").write_text("hello")
    config = site.build("FROM busybox\nCOPY a.txt /\nRUN rm /a.txt\nCOPY a.txt /\nRUN cat /a.txt\n")
    assert config.rootfs.diff_ids[1] == config.rootfs.diff_ids[3]
    assert "hello" in site.text


def test_what_a_step_wrote_is_the_layer_itself_and_is_compressed_only_when_it_leaves(
    sampan: Any, tmp_path: Path
) -> None:
    root = sampan.engine.root

    def blobs() -> set[str]:
        return {path.name for path in (root / "content/blobs/sha256").iterdir()}

    before = blobs()
    dockerfile = b"FROM busybox\nRUN head -c 3000000 /dev/urandom > /big && stat -c 'inode %i' /big\n"
    done = sampan.run("build", "--no-cache", "--progress", "plain", "-t", "moved", "-", stdin=dockerfile)
    inode = next(line for line in (done.stdout + done.stderr).splitlines() if " inode " in line).split()[-1]
    layer = sampan.api.images.get("moved").attrs["RootFS"]["Layers"][-1].removeprefix("sha256:")
    assert str((root / "layers" / layer / "fs/big").stat().st_ino) == inode
    assert blobs() == before
    assert sampan.run("save", "-o", str(tmp_path / "saved.tar"), "moved").returncode == 0
    assert (tmp_path / "saved.tar").stat().st_size > 3_000_000
