"""A whole engine on the real pieces, in directories, a bridge and a cgroup parent of its own, and its API."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.api import containers as containers_api
from sampan.api import execs as execs_api
from sampan.api import networks as networks_api
from sampan.api import volumes as volumes_api
from sampan.api.http import HttpServer
from sampan.api.messages import AnyResponse, Request, Response
from sampan.api.router import Router
from sampan.engine.containers import Containers, ContainerStore, Parts
from sampan.engine.events import EventBus
from sampan.engine.host_facts import HostFacts
from sampan.engine.networks.service import Networks
from sampan.engine.settings import Settings
from sampan.engine.volumes.service import Volumes
from sampan.linux.cgroups import detect
from sampan.network.dns import NameServer
from sampan.network.host import NetworkHost
from sampan.oci import media
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS
from sampan.oci.reference import parse_reference
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.content import ContentStore
from sampan.storage.images import ImageStore
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata
from sampan.storage.snapshots import SnapshotStore

IMAGE = "box:1"
_BUSYBOX = "/usr/bin/busybox"


@dataclass
class Harness:
    """One engine process's worth of objects. `socket` serves its API."""

    base: Path
    settings: Settings
    metadata: Metadata
    launcher: LauncherClient
    network_host: NetworkHost
    networks: Networks
    volumes: Volumes
    containers: Containers
    images: ImageStore
    events: EventBus
    server: HttpServer
    names: NameServer

    @property
    def url(self) -> str:
        return f"unix://{self.base}/api.sock"

    async def docker(
        self, *args: str, stdin: bytes | None = None, timeout: float = 30
    ) -> tuple[int, str, str]:
        """The real docker client on this engine: (exit code, standard output, standard error)."""
        process = await asyncio.create_subprocess_exec(
            "docker",
            *args,
            env={**os.environ, "DOCKER_HOST": self.url, "DOCKER_CONFIG": str(self.base / "docker-config")},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return process.returncode or 0, out.decode(), err.decode()

    async def close(self) -> None:
        """As a daemon that is told to stop: the containers run on."""
        await self.server.close()
        await self.containers.close()
        await self.names.close(stop=False)
        self.network_host.close()
        await asyncio.to_thread(self.launcher.close)
        self.metadata.close()


async def make_engine(base: Path, instance: str) -> Harness:
    settings = Settings(
        root=base / "root", run=base / "run", instance=instance, cgroup_parent=f"/sampan-test-{instance}"
    )
    settings.run.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(settings.root)
    content = ContentStore(settings.root / "content")
    layers = LayerStore(settings.root / "layers")
    images = ImageStore(content, layers, metadata)
    events = EventBus()
    network_host = NetworkHost(instance)
    networks = Networks(settings, metadata, network_host, events)
    await networks.setup()
    volumes = Volumes(settings.root / "volumes", metadata, events)
    launcher = await asyncio.to_thread(
        LauncherClient.start, settings.run, [sys.executable, "-m", "sampan.daemon.launcher"]
    )
    cgroups = detect()
    names = NameServer(settings.run, ["127.0.0.1"])
    parts = Parts(
        settings=settings,
        metadata=metadata,
        store=ContainerStore(metadata),
        events=events,
        images=images,
        layers=layers,
        snapshots=SnapshotStore(settings.root / "snapshots", layers),
        volumes=volumes,
        networks=networks,
        network_host=network_host,
        names=names,
        launcher=launcher,
        cgroups=cgroups,
        facts=HostFacts(cpus=os.cpu_count() or 1, cpuset=f"0-{(os.cpu_count() or 1) - 1}"),
    )
    containers = Containers(parts)
    engine = SimpleNamespace(
        settings=settings,
        events=events,
        containers=containers,
        execs=containers.execs,
        images=images,
        volumes=volumes,
        networks=networks,
    )
    server = HttpServer(_dispatcher(engine))
    await containers.recover()
    path = base / "api.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    await server.listen(listener)
    return Harness(
        base, settings, metadata, launcher, network_host, networks, volumes, containers, images, events, server,
        names,
    )  # fmt: skip


def _dispatcher(engine: Any) -> Callable[[Request], Coroutine[Any, Any, AnyResponse]]:
    routes = (
        *containers_api.ROUTES,
        *execs_api.ROUTES,
        *networks_api.ROUTES,
        *volumes_api.ROUTES,
    )
    router = Router(routes)

    async def dispatch(request: Request) -> AnyResponse:
        request.version, path = router.split_version(request.path)
        if path == "/_ping":
            return Response(200, b"OK", {}, "text/plain")
        handler, request.match = router.resolve(request.method, path)
        return await handler(engine, request)

    return dispatch


def make_image(images: ImageStore, layers: LayerStore) -> None:
    """Busybox with a user, a volume with content, and a PATH."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            _add_dirs(archive)
            archive.add(_BUSYBOX, "bin/busybox")
            listed = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True)
            for name in listed.stdout.split():
                if name != "busybox":
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    archive.addfile(link)
            _add_text(
                archive, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
            )
            _add_text(archive, "etc/group", "root:x:0:\nuser:x:1000:\n")
            _add_text(archive, "data/file", "from the image\n", owner=1000)
        file.seek(0)
        ingest = layers.ingest(media.OCI_LAYER)
        while chunk := file.read(1 << 20):
            ingest.write(chunk)
        layer = ingest.commit()
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        rootfs=RootFS(diff_ids=(layer.diff_id,)),
        config=ContainerDefaults(
            env=("PATH=/bin:/usr/bin", "FOO=bar"),
            cmd=("sh",),
            labels={"from": "image"},
            exposed_ports={"80/tcp": {}},
            volumes={"/data": {}},
        ),
    )
    image = images.create(config)
    images.tag(image.id, parse_reference(IMAGE))


def _add_dirs(archive: tarfile.TarFile) -> None:
    for name, mode, owner in (
        ("bin", 0o755, 0), ("etc", 0o755, 0), ("data", 0o750, 1000), ("tmp", 0o1777, 0), ("root", 0o700, 0),
        ("home", 0o755, 0), ("home/user", 0o755, 1000), ("usr", 0o755, 0), ("dev", 0o755, 0), ("proc", 0o555, 0),
        ("sys", 0o555, 0),
    ):  # fmt: skip
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        archive.addfile(entry)


def _add_text(archive: tarfile.TarFile, name: str, text: str, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.uid, entry.gid = len(text), 0o644, owner, owner
    archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture(scope="session")
def image_root() -> Iterator[Path]:
    """A root directory with the image in it, to be copied by each test: made once."""
    if not Path(_BUSYBOX).exists():
        pytest.skip("busybox (static) is not installed")
    base = Path(tempfile.mkdtemp(prefix="sampan-image-"))
    metadata = Metadata(base / "root")
    layers = LayerStore(base / "root" / "layers")
    make_image(ImageStore(ContentStore(base / "root" / "content"), layers, metadata), layers)
    metadata.close()
    yield base / "root"
    shutil.rmtree(base)


class Place:
    """Where an engine lives: it may be started several times."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.instance = f"t{secrets.token_hex(4)}"
        self.running: list[Harness] = []

    async def engine(self) -> Harness:
        harness = await make_engine(self.base, self.instance)
        self.running.append(harness)
        return harness

    def run(self, test: Callable[[Harness], Coroutine[Any, Any, None]]) -> None:
        """Run a test's coroutine against a fresh engine, and clean up after it."""

        async def main() -> None:
            try:
                await test(await self.engine())
            finally:
                await self.clean()

        asyncio.run(main())

    async def clean(self) -> None:
        """Remove everything from the host, whatever state the test left."""
        if not self.running:
            return
        harness = self.running[-1]
        with contextlib.suppress(Exception):
            for record in harness.containers.records():
                await harness.containers.remove(record.id, force=True)
        _kill_cgroup(harness.settings.cgroup_parent)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(harness.network_host.teardown)
        with contextlib.suppress(Exception):
            await harness.close()


def _kill_cgroup(parent: str) -> None:
    group = detect().group(parent)
    if group.exists():
        group.kill_all()
        group.remove()


@pytest.fixture
def place(image_root: Path) -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="sampan-engine-"))
    shutil.copytree(image_root, base / "root", symlinks=True)
    yield Place(base)
    shutil.rmtree(base, ignore_errors=True)
