"""Attach, terminals, and exec: what passes between a process and the clients of its shim."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import threading
from typing import Any

import msgspec
import pytest

from sampan.errors import Conflict, Denied, Invalid
from sampan.oci import spec as oci
from sampan.runtime.failure import ExecFailed

pytestmark = pytest.mark.root


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Docker's stream format: stream number, three zero bytes, length (big-endian), content."""
    result = []
    while data:
        stream, length = struct.unpack(">BxxxL", data[:8])
        result.append((stream, data[8 : 8 + length]))
        data = data[8 + length :]
    return result


def terminal(harbour: Any, *args: str, height: int = 24, width: int = 80) -> oci.Spec:
    made: oci.Spec = harbour.spec(*args, process={"terminal": True, "console_size": oci.Box(height, width)})
    return made


def test_framed_output_names_its_stream(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sh", "-c", "echo out; sleep 0.1; echo err >&2"))
    with box.attach() as client:
        box.shim.start()
        assert frames(harbour.read_all(client)) == [(1, b"out\n"), (2, b"err\n")]


def test_a_client_gets_the_streams_that_it_asked_for(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sh", "-c", "echo out; echo err >&2"))
    with box.attach(framed=False, stdout=False) as client:
        box.shim.start()
        assert harbour.read_all(client) == b"err\n"


def test_several_clients_get_everything_that_was_written_after_they_came(harbour: Any) -> None:
    box = harbour.create(harbour.spec("dd", "if=/dev/zero", "bs=1000", "count=300"))
    clients = [box.attach(framed=False, stderr=False) for _ in range(3)]
    received: list[int] = []
    threads = [
        threading.Thread(target=lambda c=client: received.append(len(harbour.read_all(c))))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    box.shim.start()
    for thread in threads:
        thread.join(30)
    assert received == [300_000] * 3


def test_a_client_there_from_the_start_holds_the_container_back_as_a_pipe_would(harbour: Any) -> None:
    box = harbour.create(harbour.spec("dd", "if=/dev/zero", "bs=1M", "count=8"))
    with box.attach(framed=False, stderr=False) as client:
        box.shim.start()
        # It has not read anything, and there is no room for eight million bytes anywhere.
        assert not select.select([box.shim], [], [], 0.5)[0]
        assert len(harbour.read_all(client)) == 8 << 20
    assert box.shim.wait().exit_code == 0


def test_an_onlooker_that_does_not_read_is_dropped_and_stops_nobody(harbour: Any) -> None:
    box = harbour.create(
        harbour.spec("sh", "-c", "read x; dd if=/dev/zero bs=1M count=3"), stdin=True, stdin_once=True
    )
    box.shim.start()
    with box.attach(framed=False) as onlooker, box.attach(framed=False, stdin=True, stdout=False) as typing:
        typing.sendall(b"go\n")
        assert box.shim.wait().exit_code == 0
        assert len(harbour.read_all(onlooker)) < 3 << 20
    lines = [line for log in box.run_dir.glob("log.json*") for line in log.read_bytes().splitlines()]
    assert sum(len(msgspec.json.decode(line)["log"]) for line in lines if b'"stdout"' in line) == 3 << 20


def test_input_is_passed_on_and_ends_with_the_clients_side_when_it_is_once(harbour: Any) -> None:
    box = harbour.create(harbour.spec("cat"), stdin=True, stdin_once=True)
    client = box.attach(preread=b"first ", framed=False, stdin=True)
    box.shim.start()
    client.sendall(b"second")
    client.shutdown(socket.SHUT_WR)
    assert harbour.read_all(client) == b"first second"
    assert box.shim.wait().exit_code == 0


def test_much_input_passes_through_a_slow_program(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sh", "-c", "sleep 0.2; wc -c"), stdin=True, stdin_once=True)
    client = box.attach(framed=False, stdin=True)
    box.shim.start()
    client.sendall(b"x" * 3_000_000)
    client.shutdown(socket.SHUT_WR)
    assert harbour.read_all(client).strip() == b"3000000"


def test_input_stays_open_for_the_next_client_when_it_is_not_once(harbour: Any) -> None:
    box = harbour.create(harbour.spec("cat"), stdin=True)
    box.shim.start()
    for text in (b"one\n", b"two\n"):
        client = box.attach(framed=False, stdin=True)
        client.sendall(text)
        assert harbour.read_until(client, text) == text
        client.close()
    assert box.shim.exit_nowait() is None


def test_without_input_the_program_reads_the_null_device(harbour: Any) -> None:
    assert harbour.sh("readlink /proc/self/fd/0; cat").output == "/dev/null\n"


def test_a_terminal_is_a_terminal_of_the_containers_own(harbour: Any) -> None:
    box = harbour.create(
        terminal(
            harbour,
            "sh",
            "-c",
            "test -t 0 && test -t 1; stty size; readlink /proc/self/fd/0; ls -l /dev/console",
            height=33,
            width=99,
        )
    )
    with box.attach() as client:
        box.shim.start()
        output = harbour.read_all(client).decode()
    lines = output.split("\r\n")
    assert lines[:2] == ["33 99", "/dev/pts/0"]
    assert lines[2].startswith("c")


def test_a_terminals_size_follows_the_client(harbour: Any) -> None:
    box = harbour.create(
        terminal(
            harbour, "sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
        )
    )
    client = box.attach()
    box.shim.start()
    harbour.read_until(client, b"ready\r\n")
    box.shim.resize(40, 120)
    assert harbour.read_all(client) == b"40 120\r\n"


def test_a_process_without_a_terminal_can_not_be_resized(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    with pytest.raises(Invalid, match="no terminal"):
        box.shim.resize(1, 1)


def test_the_detach_keys_end_the_connection_and_nothing_else(harbour: Any) -> None:
    box = harbour.create(terminal(harbour, "cat"), stdin=True)
    client = box.attach(stdin=True, detach_keys=b"\x10\x11")
    box.shim.start()
    client.sendall(b"a\x10b\n")
    harbour.read_until(client, b"b")
    client.sendall(b"\x10\x11")
    harbour.read_all(client)
    assert box.shim.exit_nowait() is None
    again = box.attach(stdin=True)
    again.sendall(b"more\n")
    assert b"more" in harbour.read_until(again, b"more")


def test_control_c_at_a_terminal_interrupts(harbour: Any) -> None:
    box = harbour.create(
        terminal(harbour, "sh", "-c", "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done"),
        stdin=True,
    )
    client = box.attach(stdin=True)
    box.shim.start()
    harbour.read_until(client, b"ready")
    client.sendall(b"\x03")
    assert box.shim.wait().exit_code == 5


def test_given_streams_are_used_directly(harbour: Any) -> None:
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    box = harbour.create(harbour.spec("sh", "-c", "echo direct; exit 3"), stdio=(null, writing, writing))
    os.close(writing)
    os.close(null)
    box.shim.start()
    with os.fdopen(reading, "rb") as output:
        assert output.read() == b"direct\n"
    assert box.shim.wait().exit_code == 3


def test_an_exec_is_in_the_containers_namespaces_with_its_limits(harbour: Any, group_path: str) -> None:
    profile = oci.Seccomp(
        "SCMP_ACT_ALLOW", syscalls=(oci.SeccompRule(("mkdir", "mkdirat"), "SCMP_ACT_ERRNO", 28),)
    )
    box = harbour.create(harbour.spec("sleep", "100", linux={"seccomp": profile, "cgroups_path": group_path}))
    box.shim.start()
    shim = box.exec(
        "sh",
        "-c",
        "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/status; "
        "ls /proc/self/fd; cat /proc/self/cgroup",
    )
    with harbour.attach(shim, framed=False) as client:
        shim.start()
        output = harbour.read_all(client).decode()
    assert shim.wait().exit_code == 0
    names = ("pid", "mnt", "uts", "ipc", "net", "cgroup")
    assert output.split()[:6] == [os.readlink(f"/proc/{box.created.init_pid}/ns/{name}") for name in names]
    assert re.search(r"CapEff:\s+00000000a80425fb", output)
    assert re.search(r"CapInh:\s+0000000000000000", output)
    assert re.search(r"Seccomp:\s+2", output)
    assert "\n0\n1\n2\n3\n" in output
    assert "pids:/\n" in output or "0::/\n" in output


def test_an_execs_exit_code_and_failures_are_told_like_a_containers(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    shim = box.exec("sh", "-c", "exit 9")
    shim.start()
    assert shim.wait().exit_code == 9
    missing = box.exec("nosuch")
    with pytest.raises(ExecFailed, match=r'exec: "nosuch": executable file not found in \$PATH') as caught:
        missing.start()
    assert caught.value.exit_code == 127


def test_an_exec_has_a_user_and_a_terminal_of_its_own(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    shim = box.exec(
        "sh",
        "-c",
        "id -u; echo $HOME; test -t 0 && echo terminal; stty size",
        user="bob",
        terminal=True,
        console_size=oci.Box(11, 22),
    )
    with harbour.attach(shim) as client:
        shim.start()
        assert harbour.read_all(client) == b"1000\r\n/home/bob\r\nterminal\r\n11 22\r\n"


def test_an_exec_takes_input(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    shim = box.exec("cat", stdin=True)
    client = harbour.attach(shim, framed=False, stdin=True)
    shim.start()
    client.sendall(b"through exec")
    client.shutdown(socket.SHUT_WR)
    assert harbour.read_all(client) == b"through exec"


def test_an_exec_in_a_container_that_has_ended_is_a_conflict(harbour: Any) -> None:
    box = harbour.create(harbour.spec("true"))
    box.shim.start()
    box.shim.wait()
    with pytest.raises(Conflict, match="not running"):
        box.exec("true")


def test_a_process_id_of_somebody_else_is_not_entered(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    box.created = msgspec.structs.replace(box.created, init_start_time=box.created.init_start_time + 1)
    with pytest.raises(Conflict, match="not running"):
        box.exec("true")


def test_an_execs_working_directory_can_not_be_outside(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    for number in range(3, 12):
        shim = box.exec("ls", "../../../../..", cwd=f"/proc/self/fd/{number}")
        with harbour.attach(shim, framed=False) as client:
            try:
                shim.start()
            except (ExecFailed, Denied):
                continue
            assert "root" not in harbour.read_all(client).decode().split()


def test_the_container_goes_on_when_an_execs_client_leaves(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    shim = box.exec("sleep", "100")
    harbour.attach(shim).close()
    shim.start()
    assert shim.exit_nowait() is None
    shim.kill(signal.SIGKILL)
    assert shim.wait().exit_code == 137
    assert box.shim.exit_nowait() is None
