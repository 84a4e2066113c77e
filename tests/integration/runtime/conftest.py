from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.linux.cgroups import detect
from sampan.linux.libc import stop_ignoring
from sampan.oci import spec as oci
from sampan.oci.rootfs import LayerMount, RootAssembly
from sampan.runtime.execute import LIBRARY_SIGNALS
from sampan.runtime.launcher_client import LauncherClient
from sampan.runtime.messages import AttachOptions, Created, CreateRequest, ExecRequest, ExitRecord, LogTarget
from sampan.runtime.shim_client import ShimClient

APPLETS = (
    "sh ls cat true false echo id mount umount sleep ps hostname env stat head touch kill readlink mkdir dd stty "
    "uname ionice wc grep test sed pwd printf"
)
DOCKER_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MOUNTS = (
    oci.Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    oci.Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    oci.Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    oci.Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    oci.Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    oci.Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=67108864")),
)


def make_rootfs(directory: Path) -> Path:
    """A root file system around the host's static busybox."""
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox-static is not installed")
    (directory / "bin").mkdir(parents=True)
    (directory / "etc").mkdir()
    (directory / "tmp").mkdir(mode=0o777)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for name in APPLETS.split():
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n"
    )
    (directory / "etc/group").write_text("root:x:0:\nstaff:x:1001:\nwheel:x:10:bob,alice\naudio:x:29:bob\n")
    return directory


def make_spec(
    *args: str, process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None, **fields: Any
) -> oci.Spec:
    """What Docker would ask for, more or less; `process`, `linux` and `fields` replace parts of it."""
    capabilities = oci.Capabilities(
        bounding=DOCKER_CAPABILITIES, effective=DOCKER_CAPABILITIES, permitted=DOCKER_CAPABILITIES
    )
    values: dict[str, Any] = {
        "cwd": "/",
        "args": args,
        "env": ("PATH=/usr/sbin:/usr/bin:/sbin:/bin",),
        "capabilities": capabilities,
        **(process or {}),
    }
    kinds = ("pid", "mount", "uts", "ipc", "network", "cgroup")
    defaults: dict[str, Any] = {
        "namespaces": tuple(oci.Namespace(kind) for kind in kinds),
        "masked_paths": MASKED,
        "readonly_paths": READONLY,
        **(linux or {}),
    }
    whole: dict[str, Any] = {
        "oci_version": "1.0.2",
        "root": oci.Root("rootfs"),
        "hostname": "box",
        "mounts": MOUNTS,
        **fields,
    }
    return oci.Spec(process=oci.Process(**values), linux=oci.Linux(**defaults), **whole)


@dataclass
class Outcome:
    output: str
    record: ExitRecord


@dataclass
class Box:
    """One container under test."""

    name: str
    run_dir: Path
    spec: oci.Spec
    created: Created
    shim: ShimClient
    log: Path
    client: LauncherClient
    execs: list[ShimClient] = field(default_factory=list)

    def attach(self, **options: Any) -> socket.socket:
        return attach(self.shim, **options)

    def exec(self, *args: str, stdin: bool = False, user: str | None = None, **process: Any) -> ShimClient:
        run_dir = self.run_dir / f"exec-{len(self.execs)}"
        run_dir.mkdir()
        base = self.spec.process or oci.Process("/")
        request = ExecRequest(
            run_dir.name,
            self.name,
            self.created.init_pid,
            msgspec.structs.replace(base, args=args, **process),
            self.spec,
            str(run_dir),
            stdin=stdin,
            user=user,
            init_start_time=self.created.init_start_time,
        )
        self.client.exec(request)
        shim = ShimClient.connect(run_dir)
        self.execs.append(shim)
        return shim


def attach(shim: ShimClient, preread: bytes = b"", **options: Any) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        shim.attach(theirs.fileno(), preread, AttachOptions(**options))
    ours.settimeout(30)
    return ours


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    content = b""
    while wanted not in content:
        chunk = connection.recv(1 << 16)
        assert chunk, content
        content += chunk
    return content


class Harbour:
    """A launcher of the test's own, and the containers made with it."""

    spec = staticmethod(make_spec)
    attach = staticmethod(attach)
    read_all = staticmethod(read_all)
    read_until = staticmethod(read_until)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layer = make_rootfs(directory / "layer")
        command = [sys.executable, "-m", "sampan.daemon.launcher"]
        self.client = LauncherClient.start(directory / "run", command)
        self.boxes: list[Box] = []

    def assembly(self, name: str, layers: tuple[LayerMount, ...] | None = None) -> RootAssembly:
        base = self.directory / "snapshots" / name
        for part in ("upper", "work"):
            (base / part).mkdir(parents=True, exist_ok=True)
        lower = layers if layers is not None else (LayerMount("dir", str(self.layer)),)
        return RootAssembly(lower, str(base / "upper"), str(base / "work"))

    def create(self, spec: oci.Spec, **options: Any) -> Box:
        name = f"rt-{uuid.uuid4().hex[:12]}"
        run_dir = self.directory / "containers" / name
        run_dir.mkdir(parents=True)
        stdio, network = options.pop("stdio", None), options.pop("network", None)
        user_namespace = options.pop("user_namespace", None)
        root = options.pop("root", None) or self.assembly(name)
        log = run_dir / "log.json"
        request = CreateRequest(
            name, spec, root, str(run_dir), log=LogTarget("json-file", str(log)), **options
        )
        created = self.client.create(request, stdio, network, user_namespace)
        box = Box(name, run_dir, spec, created, ShimClient.connect(run_dir), log, self.client)
        self.boxes.append(box)
        return box

    def run(self, spec: oci.Spec, **options: Any) -> Outcome:
        box = self.create(spec, **options)
        with box.attach(framed=False) as output:
            box.shim.start()
            text = read_all(output).decode()
        return Outcome(text, box.shim.wait())

    def sh(self, script: str, **options: Any) -> Outcome:
        return self.run(self.spec("sh", "-c", script), **options)

    def close(self) -> None:
        for box in self.boxes:
            for shim in (*box.execs, box.shim):
                if shim.exit_nowait() is None:
                    shim.kill(9)
                    shim.wait()
                shim.close()
        self.client.close()


@pytest.fixture(scope="session", autouse=True)
def callers_signals() -> None:
    """make starts its commands with glibc's own signals ignored, and runc, unlike sampan, hands that on."""
    for number in LIBRARY_SIGNALS:
        stop_ignoring(number)


@pytest.fixture(scope="module")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    harbour = Harbour(tmp_path_factory.mktemp("harbour"))
    try:
        yield harbour
    finally:
        harbour.close()


@pytest.fixture
def group_path() -> Iterator[str]:
    """A control group's path of the test's own; removed with all in it."""
    path = f"sampan-rt-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        yield f"/{path}"
    finally:
        group = detect().group(path)
        group.kill_all()
        group.remove()


class Runtime:
    """One implementation of the OCI command line with a root of its own."""

    def __init__(self, name: str, root: Path, rootfs: Path) -> None:
        program = Path(sys.executable).with_name("sampan-runtime") if name == "sampan" else shutil.which(name)
        if program is None or not Path(program).exists():
            pytest.skip(f"{name} is not installed")
        self.name = name
        self._command = [str(program), "--root", str(root / "state")]
        self._root = root
        self._rootfs = rootfs
        self._ids: list[str] = []

    def bundle(self, spec: oci.Spec) -> Path:
        path = self._root / f"bundle{time.monotonic_ns()}"
        path.mkdir(parents=True)
        shutil.copytree(self._rootfs, path / "rootfs", symlinks=True)
        self.configure(path, spec)
        return path

    @staticmethod
    def configure(bundle: Path, spec: oci.Spec) -> None:
        (bundle / "config.json").write_bytes(oci.encode_spec(spec))

    def new_id(self) -> str:
        self._ids.append(f"rt-{self.name}-{os.getpid()}-{time.monotonic_ns()}")
        return self._ids[-1]

    def command(self, *args: str, options: tuple[str, ...] = ()) -> list[str]:
        return [*self._command, *options, *args]

    def call(
        self, *args: str, options: tuple[str, ...] = (), **more: Any
    ) -> subprocess.CompletedProcess[str]:
        return self.raw(*self.command(*args, options=options), **more)

    def raw(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        # Output goes to a file: a pipe would be kept open by the container.
        output = self._root / "output"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w+") as file:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, timeout=60, **more
            )
            file.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, file.read(), "")

    def run(self, spec: oci.Spec, *options: str) -> subprocess.CompletedProcess[str]:
        return self.call("run", "--bundle", str(self.bundle(spec)), *options, self.new_id())

    def create(self, spec: oci.Spec, *options: str) -> str:
        name = self.new_id()
        done = self.call("create", "--bundle", str(self.bundle(spec)), *options, name)
        assert done.returncode == 0, done.stdout
        return name

    def state(self, name: str) -> dict[str, Any]:
        done = self.call("state", name)
        assert done.returncode == 0, done.stdout
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def wait_for(self, name: str, status: str) -> None:
        deadline = time.monotonic() + 10
        while self.state(name)["status"] != status:
            assert time.monotonic() < deadline, self.state(name)
            time.sleep(0.01)

    def close(self) -> None:
        for name in self._ids:
            self.call("delete", "--force", name)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    harbour = request.getfixturevalue("harbour")
    return Path(harbour.layer)


@pytest.fixture(params=["runc", "sampan"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> Iterator[Runtime]:
    made = Runtime(request.param, tmp_path, rootfs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def ours(tmp_path: Path, rootfs: Path) -> Iterator[Runtime]:
    """`sampan-runtime` alone, for what runc does not have."""
    made = Runtime("sampan", tmp_path, rootfs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def make_runtime() -> type[Runtime]:
    return Runtime
