from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.linux import capabilities, memfd, process
from sampan.linux.libc import SystemCallError, umount


def test_the_start_time_of_a_process_does_not_depend_on_its_name() -> None:
    fields = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    assert process.start_time(os.getpid()) == int(fields[19])
    child = subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write(') R 1 (x'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert process.start_time(child.pid) >= process.start_time(os.getpid())
        assert process.state(child.pid) in "RS"
    finally:
        child.communicate(b"\n")


def test_a_sealed_copy_is_the_same_and_can_not_be_changed(tmp_path: Path) -> None:
    original = tmp_path / "program"
    original.write_bytes(b"\x7fELF" + bytes(10_000))
    descriptor = memfd.sealed_copy(str(original), "copy")
    try:
        assert memfd.is_sealed(descriptor)
        assert os.pread(descriptor, 20_000, 0) == original.read_bytes()
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_an_ordinary_file_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with (tmp_path / "x").open() as file:
        assert not memfd.is_sealed(file.fileno())


def test_descriptors_are_closed_but_for_those_to_keep() -> None:
    script = (
        "import os; from sampan.linux import process; a, b = os.pipe(); c, d = os.pipe(); process.close_except({b});"
        "print(*[n for n in (a, b, c, d) if os.path.exists(f'/proc/self/fd/{n}')] == [b])"
    )
    script = script.replace("print(*[", "print([")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "True\n"


def test_an_error_of_a_system_call_says_what_and_where() -> None:
    with pytest.raises(SystemCallError, match="umount /no/such/place: ") as caught:
        umount("/no/such/place")
    assert (caught.value.operation, caught.value.subject) == ("umount", "/no/such/place")


def test_capabilities_have_the_kernels_numbers() -> None:
    # linux/capability.h: CAP_SYS_ADMIN 21, CAP_AUDIT_WRITE 29, CAP_CHECKPOINT_RESTORE 40.
    assert capabilities.mask_of(["CAP_SYS_ADMIN", "CAP_AUDIT_WRITE"]) == 1 << 21 | 1 << 29
    assert capabilities.mask_of(["CAP_CHECKPOINT_RESTORE"]) == 1 << 40
    with pytest.raises(Invalid):
        capabilities.mask_of(["CAP_FLY"])


def test_the_present_capabilities_are_what_procfs_says() -> None:
    status = Path("/proc/self/status").read_text()
    shown = {
        line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")
    }
    assert capabilities.current() == (shown["CapEff:"], shown["CapPrm:"], shown["CapInh:"])
