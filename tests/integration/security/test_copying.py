"""`cp` in both directions against a container that lays out its paths for it, and changes them meanwhile."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import docker.errors
import pytest

pytestmark = pytest.mark.root

RACES = 60


class Place:
    """A volume in which a container exchanges `there` (the container's own) with `other`, mounted at /v."""

    def __init__(self, attack: Any, name: str) -> None:
        api = attack.sampan.api.api
        api.create_volume(name)
        self.attack, self.name, self.api = attack, name, api
        self.path = Path(api.inspect_volume(name)["Mountpoint"])

    def swap(self) -> Any:
        return self.attack.swapping(self.name, "there", "other")

    def got(self, container: str, path: str) -> dict[str, bytes]:
        """The files of a copy out of the container."""
        stream, _ = self.api.get_archive(container, path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            return {
                one.name: content.read()
                for one in archive
                if (content := archive.extractfile(one)) is not None
            }


@pytest.fixture
def place(attack: Any) -> Place:
    return Place(attack, "swapped")


def archive_of(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_copies_out_of_a_swapped_directory_never_have_the_hosts_files(attack: Any, place: Place) -> None:
    """CVE-2018-15664."""
    (place.path / "there").mkdir()
    (place.path / "there/canary").write_text("the container's")
    (place.path / "other").symlink_to("/".join([".."] * 12) + str(attack.canary.parent))
    swapping = place.swap()
    seen = set()
    for _ in range(RACES):
        for path in ("/v/there/canary", "/v/there/."):
            try:
                seen |= set(place.got(swapping.id, path).values())
            except docker.errors.NotFound:
                continue  # at that moment the link was there, and leads nowhere in the container
    assert swapping.stop() > RACES
    assert seen == {b"the container's"}


def test_copies_into_a_swapped_directory_never_reach_the_host(attack: Any, place: Place) -> None:
    """CVE-2018-15664 the other way round, and CVE-2026-41568."""
    (place.path / "there").mkdir()
    (place.path / "other").symlink_to(attack.canary.parent)
    swapping = place.swap()
    arrived = 0
    for number in range(RACES):
        for path, name in (("/v/there", "canary"), ("/v", f"there/made{number}"), ("/v", "there/sub/canary")):
            try:
                arrived += place.api.put_archive(swapping.id, path, archive_of(name, b"evil"))
            except docker.errors.APIError:
                continue
    assert swapping.stop() > RACES and arrived > 0
    attack.assert_host_untouched()
    assert not (place.path / "sub").exists()


@pytest.mark.parametrize("running", [True, False])
def test_links_to_places_of_the_host_and_of_procfs_lead_nowhere(attack: Any, running: bool) -> None:
    directory, api = attack.canary.parent, attack.sampan.api.api
    links = {
        "absolute": directory,
        "up": "/".join([".."] * 12) + str(directory),
        "self": f"/proc/self/root{directory}",
        "one": f"/proc/1/root{directory}",
        "cwd": f"/proc/self/cwd{directory}",
        "fd": "/proc/self/fd/3",
        "thread": f"/proc/thread-self/root{directory}",
    }
    entries = {name: attack.Entry(link=str(link)) for name, link in links.items()}
    image = attack.make_image("attack:cplinks", entries)
    container = api.create_container(image, ["sleep", "60"])["Id"]
    if running:
        api.start(container)
    for name in links:
        for path in (f"/{name}/canary", f"/{name}/.", f"/{name}/"):
            with pytest.raises((docker.errors.NotFound, docker.errors.APIError)) as caught:
                b"".join(api.get_archive(container, path)[0])
            assert "the host's" not in str(caught.value)
        try:
            api.put_archive(container, f"/{name}", archive_of("canary", b"evil"))
        except docker.errors.APIError:
            continue
    attack.assert_host_untouched()
    # A link itself is copied as a link.
    stream, found = api.get_archive(container, "/absolute")
    assert found["linkTarget"] == str(directory)
    b"".join(stream)


def test_a_copy_to_the_host_sets_no_mode_and_owner_through_a_link(attack: Any, place: Place) -> None:
    """The target directory is a volume of the container's, which replaces each new file with a link to the host's."""
    (place.path / "there").write_text("")
    relinking = attack.relinking(place.name, "there", str(attack.canary))
    make = "mkdir /tree && mkfifo -m 666 /tree/there && cp /bin/busybox /there; sleep 60"
    source = attack.background(attack.image, "sh", "-c", make)
    copied = 0
    for _ in range(10):
        for path, target in (("/tree/there", place.path), ("/there", place.path), ("/tree/.", place.path)):
            copied += attack.sampan.run("cp", "-a", f"{source}:{path}", str(target)).returncode == 0
    assert relinking.stop() > 10 and copied > 0
    attack.assert_host_untouched()


def test_a_file_that_becomes_a_device_is_not_opened(attack: Any, place: Place) -> None:
    """Opening alone does harm: a watchdog starts to count, a tape rewinds. Seen here by inotify on a FIFO."""
    (place.path / "there").write_text("x" * 100)
    subprocess.run(["mkfifo", place.path / "other"], check=True)
    options = ("-v", f"{place.name}:/v", attack.image)
    watcher = attack.background(*options, "/attack", "opened", "/v/other", "/v/.end")
    watcher = attack.sampan.api.containers.get(watcher)
    while b"watch ok" not in watcher.logs():
        assert watcher.attrs["State"]["Status"] == "running"
    swapping = place.swap()
    kinds = set()
    for _ in range(RACES * 3):
        try:
            stream, _ = place.api.get_archive(swapping.id, "/v/")
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                kinds |= {one.type for one in archive if one.name.endswith("there")}
        except (docker.errors.APIError, tarfile.TarError):
            continue  # "changed while it was read"
    swapping.stop()
    (place.path / ".end").touch()
    watcher.wait()
    assert kinds == {tarfile.REGTYPE, tarfile.FIFOTYPE}
    assert re.search(r"opened (\d+)", watcher.logs().decode())[1] == "0"  # type: ignore[index]
    subprocess.run(["dd", f"of={place.path}/other", "oflag=nonblock", "count=0", "status=none"], check=False)


@pytest.fixture(scope="session")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that leaves a mark when it is loaded."""
    directory = tmp_path_factory.mktemp("trap")
    code = "#include <fcntl.h>\n__attribute__((constructor)) static void caught(void)\n"
    code += f'{{ open("{directory}/caught", O_CREAT | O_WRONLY, 0644); }}\n'
    flags = ["-shared", "-fPIC", "-x", "c", "-o", str(directory / "trap.so"), "-"]
    subprocess.run(["gcc", *flags], input=code.encode(), check=True)
    subprocess.run(["true"], env={"LD_PRELOAD": str(directory / "trap.so")}, check=True)
    (directory / "caught").unlink()  # which has shown that the trap works
    return directory / "trap.so"


def test_nothing_of_the_containers_libraries_is_loaded_for_a_copy(attack: Any, trap: Path) -> None:
    """CVE-2019-14271: names of users and hosts looked up with the container's own nsswitch modules."""
    names = (
        "nss_files.so.2",
        "nss_compat.so.2",
        "nss_dns.so.2",
        "nss_systemd.so.2",
        "resolv.so.2",
        "z.so.1",
        "c.so.6",
    )
    content = trap.read_bytes()
    directories = ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
    entries = {f"{directory}/lib{name}": attack.Entry(content) for directory in directories for name in names}
    entries["etc/nsswitch.conf"] = attack.Entry(
        b"passwd: files compat systemd\ngroup: files compat\nhosts: files dns\n"
    )
    entries["etc/ld.so.preload"] = attack.Entry(f"/lib/libz.so.1\n{trap}\n".encode())
    image = attack.make_image("attack:libraries", entries)
    container = attack.background(image, "sleep", "60")
    ok = attack.sampan.ok
    for _ in range(2):
        ok("cp", f"{container}:/etc", str(attack.canary.parent / "out"))
        ok("cp", "-a", str(attack.canary.parent / "out"), f"{container}:/in")
        ok("exec", "-u", "daemon", container, "id")
        ok("top", container)
        ok("stop", "-t", "0", container)
        ok("start", container)
        subprocess.run(["rm", "-r", attack.canary.parent / "out"], check=True)
    assert not (trap.parent / "caught").exists()
    maps = Path(f"/proc/{attack.sampan.engine.pid}/maps").read_text()
    assert container not in maps and "/root/snapshots" not in maps


def test_a_stopped_containers_sub_path_of_a_volume_does_not_lead_to_the_host(
    attack: Any, place: Place
) -> None:
    """Another container puts a link where the stopped one had a directory."""
    (place.path / "sub").mkdir()
    mount = f"type=volume,source={place.name},target=/sub,volume-subpath=sub"
    stopped = attack.sampan.ok("create", "--mount", mount, attack.image, "true")
    place.api.put_archive(stopped, "/sub", archive_of("file", b"mine"))
    assert place.got(stopped, "/sub/file") == {"file": b"mine"}
    script = f"rm -r /v/sub && ln -s {attack.canary.parent} /v/sub"
    assert attack.run("-v", f"{place.name}:/v", attack.image, "sh", "-c", script).returncode == 0
    for work in (
        lambda: place.got(stopped, "/sub/canary"),
        lambda: place.api.put_archive(stopped, "/sub", archive_of("canary", b"evil")),
    ):
        with pytest.raises(docker.errors.APIError):
            work()
    assert attack.sampan.run("start", stopped).returncode != 0
    attack.assert_host_untouched()
