"""Which foreign programs this host runs, decided from binfmt_misc's own files (admin-guide/binfmt-misc.rst)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.errors import Unsupported
from sampan.linux.binfmt import Handler, elf_start, handlers, parse_handler, require_architecture

AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
"""As the kernel shows what Debian's qemu-user-static registers."""
PYTHON = "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n"
EXTENSION = "enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n"


def handler(text: str = AARCH64) -> Handler:
    found = parse_handler("qemu-aarch64", text)
    assert found is not None
    return found


def test_a_handler_takes_programs_of_its_architecture_alone() -> None:
    assert handler().takes(elf_start("arm64"))
    assert not any(handler().takes(elf_start(other)) for other in ("amd64", "arm", "riscv64", "s390x"))
    assert not handler().takes(b"\x7fELF")
    assert parse_handler("jar", EXTENSION) is None
    assert not handler(PYTHON).takes(elf_start("arm64"))


def test_an_elf_header_says_class_order_and_machine() -> None:
    assert elf_start("s390x")[4:6] == b"\x02\x02"
    assert elf_start("s390x")[16:20] == b"\x00\x02\x00\x16"
    assert elf_start("386")[18:20] == b"\x03\x00"


def test_handlers_are_read_from_the_mounted_directory(tmp_path: Path) -> None:
    assert handlers(tmp_path) is None
    for name, text in (
        ("status", "enabled\n"),
        ("register", ""),
        ("qemu-aarch64", AARCH64),
        ("jar", EXTENSION),
    ):
        (tmp_path / name).write_text(text)
    assert [one.name for one in handlers(tmp_path) or ()] == ["qemu-aarch64"]


@pytest.mark.parametrize(
    ("architecture", "known", "reason"),
    [
        ("arm64", None, "binfmt_misc is not mounted"),
        ("arm64", "", "no handler like qemu-aarch64"),
        ("s390x", AARCH64, "no handler like qemu-s390x"),
        ("arm64", AARCH64.replace("enabled", "disabled"), "qemu-aarch64 is switched off"),
        ("arm64", AARCH64.replace("POF", "PO"), "without the flag F"),
        ("vax", AARCH64, "vax is not known"),
    ],
)
def test_what_can_not_run_is_refused_with_the_reason_and_what_helps(
    architecture: str, known: str | None, reason: str
) -> None:
    found = None if known is None else [handler(known)] if known else []
    with pytest.raises(Unsupported, match=reason) as caught:
        require_architecture(architecture, "amd64", found)
    assert caught.value.hint
    assert f"this host is amd64 and can't run programs for {architecture}" in caught.value.message


def test_what_runs_is_not_refused() -> None:
    require_architecture("amd64", "amd64", None)
    require_architecture("386", "amd64", None)
    require_architecture("arm64", "amd64", [handler(PYTHON), handler()])
