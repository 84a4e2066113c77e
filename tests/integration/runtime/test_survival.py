"""Containers depend neither on the launcher nor on the engine; starts are quick and shims small."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, Invalid, NotFound, Unavailable
from sampan.linux.cgroups import detect
from sampan.oci.rootfs import LayerMount
from sampan.runtime.messages import CreateRequest
from sampan.runtime.shim_client import ShimClient, read_exit

pytestmark = pytest.mark.root


@pytest.fixture
def other(harbour: Any, tmp_path: Path) -> Any:
    """A harbour whose launcher may end."""
    made = type(harbour)(tmp_path / "other")
    yield made
    made.close()


def wait_for_end(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)


def test_a_container_outlives_its_launcher_and_loses_nothing(other: Any) -> None:
    box = other.create(other.spec("sh", "-c", "read x; echo said $x; exit 6"), stdin=True)
    box.shim.start()
    box.shim.close()
    os.kill(other.client.pid, 9)
    wait_for_end(other.client.pid)
    box.shim = ShimClient.connect(box.run_dir)
    with box.attach(framed=False, stdin=True) as client:
        client.sendall(b"late\n")
        assert other.read_all(client) == b"said late\n"
    assert box.shim.wait().exit_code == 6
    assert b"said late" in box.log.read_bytes()


def test_a_created_container_waits_for_the_next_engine(other: Any) -> None:
    boxes = [other.create(other.spec("sh", "-c", "exit 4")) for _ in range(2)]
    for box in boxes:
        box.shim.close()
    other.client.close()
    started, killed = (ShimClient.connect(box.run_dir) for box in boxes)
    boxes[0].shim, boxes[1].shim = started, killed
    started.start()
    assert started.wait().exit_code == 4
    killed.kill(15)
    assert killed.wait().exit_code == 137


def test_a_launcher_that_dies_is_replaced(other: Any) -> None:
    before = other.client.pid
    os.kill(before, 9)
    wait_for_end(before)
    # The process is gone, its child's exit not yet collected: the next call finds out.
    assert other.sh("echo again").output == "again\n"
    assert other.client.pid != before
    pid = other.client.pid
    other.client.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(Unavailable):
        other.client.open_root(other.assembly("x"))


def test_the_launcher_ends_with_its_client(other: Any) -> None:
    pid = other.client.pid
    other.client.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises((Unavailable, OSError)):
        other.client.open_root(other.assembly("x"))


def test_an_end_without_anybody_watching_is_on_record(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sh", "-c", "exit 11"))
    watcher = ShimClient.connect(box.run_dir)
    box.shim.start()
    assert watcher.wait().exit_code == 11
    watcher.close()
    record = read_exit(box.run_dir)
    assert record is not None
    assert record.exit_code == 11


def test_a_shim_that_was_killed_is_told_as_such(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    os.kill(box.created.shim_pid, 9)
    record = box.shim.wait()
    assert "shim was killed" in record.error
    with pytest.raises(NotFound):
        ShimClient.connect(box.run_dir)
    os.kill(box.created.init_pid, 9)


def test_a_container_can_not_be_started_twice(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    with pytest.raises(Conflict, match="already"):
        box.shim.start()


def test_nothing_is_left_of_a_container_that_could_not_be_made(
    harbour: Any, tmp_path: Path, group_path: str
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    made = harbour.spec("true", linux={"cgroups_path": group_path})
    request = CreateRequest("x", made, harbour.assembly("unmade"), str(run_dir), user="nosuch")
    for _ in range(2):
        with pytest.raises(Invalid, match="unable to find user"):
            harbour.client.create(request)
    assert list(run_dir.iterdir()) == []
    assert not detect().group(group_path).exists()


def test_malformed_calls_do_not_stop_the_launcher(harbour: Any) -> None:
    sock: socket.socket = harbour.client._socket
    for packet in (b"\x00garbage", b"\x01", b"\xff" * 100, b"\x00"):
        sock.send(packet)
    assert harbour.sh("echo fine").output == "fine\n"


def test_many_containers_can_be_made_at_once(harbour: Any) -> None:
    outcomes: list[tuple[int, str]] = []

    def one(number: int) -> None:
        outcome = harbour.sh(f"echo {number}; exit {number}")
        outcomes.append((outcome.record.exit_code, outcome.output))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == [(number, f"{number}\n") for number in range(20)]


def test_an_erofs_layer_is_mounted_shared_and_released(harbour: Any, tmp_path: Path) -> None:
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("erofs-utils are not installed")
    source = tmp_path / "source"
    source.mkdir()
    (source / "from-erofs").write_text("hello")
    image = tmp_path / "layer.erofs"
    subprocess.run(["mkfs.erofs", "--quiet", str(image), str(source)], check=True, capture_output=True)
    layers = (LayerMount("dir", str(harbour.layer)), LayerMount("erofs", str(image)))
    for name in ("erofs1", "erofs2"):
        assert harbour.sh("cat /from-erofs", root=harbour.assembly(name, layers)).output == "hello"
    mounted = Path(f"/proc/{harbour.client.pid}/mountinfo").read_text()
    assert mounted.count(" - erofs ") == 1
    harbour.client.release_layers([str(image), "/never/seen"])
    assert " - erofs " not in Path(f"/proc/{harbour.client.pid}/mountinfo").read_text()
    assert "erofs" not in Path("/proc/self/mountinfo").read_text().replace(str(tmp_path), "")


def test_a_network_namespace_can_be_given_by_descriptor(harbour: Any) -> None:
    made = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert made.stdout is not None
        made.stdout.readline()
        path = f"/proc/{made.pid}/ns/net"
        descriptor = os.open(path, os.O_RDONLY)
        outcome = harbour.sh("readlink /proc/self/ns/net", network=descriptor)
        os.close(descriptor)
        assert outcome.output.strip() == os.readlink(path)
    finally:
        made.communicate(b"\n")


def test_a_shim_is_small(harbour: Any) -> None:
    boxes = [harbour.create(harbour.spec("sleep", "100")) for _ in range(5)]
    for box in boxes:
        box.shim.start()
    sizes = [own_memory(box.created.shim_pid) for box in boxes]
    assert min(sizes) < 3 << 20


def own_memory(pid: int) -> int:
    """Bytes that no other process shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return (
        int(next(line.split()[1] for line in text.splitlines() if line.startswith("Private_Dirty:"))) * 1024
    )


def test_who_hears_of_the_end_finds_the_sockets_name_free_for_the_next_shim(harbour: Any) -> None:
    """The ending shim once removed the name after it had told, and with it the socket of a shim started since."""
    for _ in range(20):
        box = harbour.create(harbour.spec("true"))
        box.shim.start()
        box.shim.wait()
        assert not (box.run_dir / "shim.sock").exists()
