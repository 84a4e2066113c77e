"""An attacker's image, and what watches over the host meanwhile."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from sampan.testing.images import busybox_tar

IMAGE = "attack:latest"


@dataclass(frozen=True)
class Entry:
    """A member of a hostile image: `link` makes it a symbolic link (`hard`: a hard link), None content a directory."""

    content: bytes | None = None
    mode: int = 0o755
    link: str = ""
    hard: bool = False
    uid: int = 0
    size: int = -1
    device: tuple[int, int] | None = None
    pax: dict[str, str] = field(default_factory=dict)


def layer(entries: dict[str, Entry], *, base: bytes | None = None) -> bytes:
    """A tar: `base` without what `entries` replaces (and what lies below it), then `entries`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if base is not None:
            with tarfile.open(fileobj=io.BytesIO(base)) as old:
                for member in old:
                    if not any(f"{member.name}/".startswith(f"{name.rstrip('/')}/") for name in entries):
                        archive.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name, entry in entries.items():
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.pax_headers = entry.mode, entry.uid, entry.pax
            content = entry.content
            if entry.link:
                info.type, info.linkname = tarfile.LNKTYPE if entry.hard else tarfile.SYMTYPE, entry.link
            elif entry.device is not None:
                info.type, (info.devmajor, info.devminor) = tarfile.CHRTYPE, entry.device
            elif content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


class Attack:
    """The shared engine with an image in which `/attack` knows the tricks of attack.c."""

    Entry = Entry
    layer = staticmethod(layer)
    image = IMAGE

    def __init__(self, sampan: Any, base: bytes, canary: Path) -> None:
        self.sampan = sampan
        self.base = base
        self.canary = canary
        self._before = self._state()

    def make_image(self, name: str, entries: dict[str, Entry], *changes: str) -> str:
        """The attacker's image with some entries of its own; `changes` are Dockerfile instructions."""
        flags = [part for change in changes for part in ("-c", change)]
        self.sampan.ok("import", *flags, "-", name, stdin=layer(entries, base=self.base))
        return name

    def load_image(self, name: str, config: dict[str, Any], *layers: bytes) -> str:
        """Load an archive that no tool would write: any configuration, more layers on the image's own.

        What the engine says is wrong with it, or "".
        """
        tars = (self.base, *layers)
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars],
            },
        }
        names = [f"{number}/layer.tar" for number in range(len(tars))]
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
        members = {
            "config.json": Entry(json.dumps(document).encode(), 0o644),
            **{path: Entry(tar, 0o644) for path, tar in zip(names, tars, strict=True)},
            "manifest.json": Entry(json.dumps(manifest).encode(), 0o644),
        }
        try:
            for said in self.sampan.api.api.load_image(layer(members)):
                if "error" in said:
                    return str(said["error"])
        except docker.errors.APIError as error:
            return str(error)
        return ""

    def run_as_it_is(self, image: str) -> tuple[int | None, str]:
        """Run what the image says: exit code and output, or None and what the engine refused it with."""
        api = self.sampan.api.api
        try:
            made = api.create_container(image)
            try:
                api.start(made)
                return api.wait(made)["StatusCode"], api.logs(made).decode("utf-8", "replace")
            finally:
                api.remove_container(made, force=True, v=True)
        except docker.errors.APIError as error:
            return None, str(error)

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`sampan run --rm ARGUMENTS`, whatever its exit code."""
        return self.sampan.run("run", "--rm", *arguments, **options)  # type: ignore[no-any-return]

    def background(self, *arguments: str) -> str:
        """`sampan run -d ARGUMENTS`: the container's id."""
        return str(self.sampan.ok("run", "-d", *arguments))

    def swapping(self, volume: str, one: str, other: str) -> Swapping:
        """A container that exchanges two names in the volume (mounted at /v) until `stop`."""
        return Swapping(self, volume, "swap", f"/v/{one}", f"/v/{other}")

    def relinking(self, volume: str, name: str, target: str) -> Swapping:
        """A container that replaces whatever appears in the volume under this name with a link to `target`."""
        return Swapping(self, volume, "relink", f"/v/{name}", target)

    def _state(self) -> list[tuple[int, ...]]:
        """Of the canary and its directory all but the times of access."""
        return [
            (one.st_mode, one.st_uid, one.st_gid, one.st_nlink, one.st_mtime_ns, one.st_ctime_ns)
            for one in (self.canary.stat(), self.canary.parent.stat())
        ]

    def assert_host_untouched(self) -> None:
        assert self.canary.read_text() == "the host's"
        assert os.listdir(self.canary.parent) == [self.canary.name]
        assert self._state() == self._before


class Swapping:
    """What a container does in a volume in a loop, `stop` included."""

    def __init__(self, attack: Attack, volume: str, *trick: str) -> None:
        self._attack = attack
        command = ("/attack", *trick, "/v/.stop", "/v/.swaps")
        self.id = attack.background("-v", f"{volume}:/v", attack.image, *command)
        inspected = attack.sampan.api.api.inspect_volume(volume)
        self.path = Path(inspected["Mountpoint"])
        deadline = time.monotonic() + 10
        while self.count() == 0:
            assert time.monotonic() < deadline, attack.sampan.run("logs", self.id).stderr
            time.sleep(0.01)

    def count(self) -> int:
        """How often it was done up to now."""
        try:
            return int((self.path / ".swaps").read_text() or "0")
        except FileNotFoundError:
            return 0

    def stop(self) -> int:
        """The whole number of times."""
        (self.path / ".stop").touch()
        self._attack.sampan.ok("wait", self.id)
        return self.count()


@pytest.fixture(scope="session")
def attack_program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("attack") / "attack"
    source = Path(__file__).parent / "attack.c"
    subprocess.run(["gcc", "-static", "-O1", "-w", "-o", out, source], check=True)
    return out.read_bytes()


@pytest.fixture(scope="session")
def attack_base(shared_sampan: Any, attack_program: bytes) -> bytes:
    base = layer({"attack": Entry(attack_program)}, base=busybox_tar())
    shared_sampan.ok("import", "-c", 'CMD ["sh"]', "-", IMAGE, stdin=base)
    return base


@pytest.fixture
def attack(sampan: Any, attack_base: bytes, tmp_path: Path) -> Attack:
    """`canary`: a file of the host's that nothing may change, alone in its directory."""
    directory = tmp_path / "host"
    directory.mkdir()
    canary = directory / "canary"
    canary.write_text("the host's")
    canary.chmod(0o640)
    return Attack(sampan, attack_base, canary)


@pytest.fixture
def unchanged_interpreter() -> Iterator[None]:
    """The host's Python, and every library that the engine's processes have mapped, are the same afterwards."""
    before = _hashes()
    assert any("libc" in path for path in before), before
    yield
    assert _hashes(list(before)) == before


def _hashes(paths: list[str] | None = None) -> dict[str, str]:
    if paths is None:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            mapped = {line.rstrip("\n").partition("/")[2] for line in maps}
        paths = [os.path.realpath(sys.executable)]
        paths += [f"/{path}" for path in sorted(mapped) if path and os.path.isfile(f"/{path}")]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
