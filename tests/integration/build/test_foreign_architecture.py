"""RUN for an architecture that is not this host's: by qemu and binfmt_misc where they are, refused where not."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.binfmt import DIRECTORY, elf_start, handlers

pytestmark = pytest.mark.root

QEMU = "/usr/bin/qemu-aarch64-static"
NAME = "sampan-test-aarch64"
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


@pytest.fixture(scope="module", autouse=True)
def emulation() -> Iterator[None]:
    """A handler for arm64 programs, unless the host has one; what was not there before is gone afterwards."""
    assert os.path.exists(QEMU), "tools/system-packages test installs qemu-user-static"
    mounted = handlers() is None
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(DIRECTORY)], check=True)
    try:
        known = [one for one in handlers() or () if one.enabled and one.takes(elf_start("arm64"))]
        if not known:
            (DIRECTORY / "register").write_text(f":{NAME}:M::{MAGIC}:{MASK}:{QEMU}:F")
        yield
        if not known:
            (DIRECTORY / NAME).write_text("-1")
    finally:
        if mounted:
            subprocess.run(["umount", str(DIRECTORY)], check=True)


def hello_for_arm64() -> bytes:
    """A static program that writes "hello\\n" and ends: ELF (gABI chapters 4, 5), A64 instructions."""
    text = b"hello\n"
    code = struct.pack(
        "<8I",
        0xD2800020,  # mov x0, #1
        0x100000E1,  # adr x1, 28 bytes on
        0xD2800002 | len(text) << 5,  # mov x2, #length
        0xD2800808,  # mov x8, #64 (write)
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800BA8,  # mov x8, #93 (exit)
        0xD4000001,  # svc #0
    )
    base, start = 0x400000, 64 + 56
    size = start + len(code) + len(text)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 183, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code + text


def build(sampan: Any, directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "hello").write_bytes(hello_for_arm64())
    (directory / "hello").chmod(0o755)
    (directory / "Dockerfile").write_text(text)
    return sampan.run("build", "--progress", "plain", *arguments, str(directory), timeout=120)  # type: ignore[no-any-return]


def test_a_foreign_program_runs_through_qemu(sampan: Any, tmp_path: Path) -> None:
    text = 'FROM scratch\nCOPY hello /hello\nRUN ["/hello"]\nCMD ["/hello"]\n'
    done = build(sampan, tmp_path, text, "--platform", "linux/arm64", "-t", "foreign")
    assert done.returncode == 0, done.stderr
    assert "hello\n" in done.stdout + done.stderr
    assert sampan.ok("run", "--rm", "--platform", "linux/arm64", "foreign") == "hello"


def test_an_architecture_that_nothing_runs_is_refused_with_the_reason(sampan: Any, tmp_path: Path) -> None:
    text = 'FROM scratch\nCOPY hello /hello\nRUN ["/hello"]\n'
    done = build(sampan, tmp_path, text, "--platform", "linux/loong64")
    assert done.returncode != 0
    assert "can't run programs for loong64: binfmt_misc has no handler like qemu-loong" in done.stderr
    assert "install qemu-user-static" in done.stderr
    # What runs nothing can be built for any platform.
    copied = build(sampan, tmp_path, "FROM scratch\nCOPY hello /\n", "--platform", "linux/loong64")
    assert copied.returncode == 0, copied.stderr


def test_a_program_of_another_architecture_in_an_image_of_ours_is_told_apart(
    sampan: Any, tmp_path: Path
) -> None:
    wrong = bytearray(hello_for_arm64())
    wrong[18:20] = (243).to_bytes(2, "little")  # riscv64, for which there is no handler
    text = 'FROM busybox\nCOPY wrong /wrong\nRUN ["/wrong"]\n'
    (tmp_path / "wrong").write_bytes(wrong)
    (tmp_path / "wrong").chmod(0o755)
    done = build(sampan, tmp_path, text)
    assert done.returncode != 0
    assert "exec format error" in done.stderr
    assert "linux/amd64" in done.stderr
