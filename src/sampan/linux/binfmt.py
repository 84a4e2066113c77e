"""Which foreign architectures' programs the kernel runs, by binfmt_misc (Documentation/admin-guide/binfmt-misc.rst).

A handler is a file: whether it is enabled, its interpreter and flags, and the bytes (with a mask) that a program begins
with. A handler suits a container only with the flag F: its interpreter is open since it was registered, and
need not be found inside the container.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from sampan.errors import Unsupported

DIRECTORY = Path("/proc/sys/fs/binfmt_misc")
_MAX_HANDLER = 4096

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
"""uname's names where Go has others."""
_ALSO = {"amd64": ("386",), "arm64": ("arm",)}
"""What a machine runs beside its own."""
_HEADERS = {
    # class (1: 32 bits), byte order (1: little), e_machine of the ELF header (System V gABI, chapter 4)
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips": (1, 2, 8),
    "mipsle": (1, 1, 8),
    "mips64": (2, 2, 8),
    "mips64le": (2, 1, 8),
    "ppc64": (2, 2, 21),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}
_QEMU = {"arm64": "aarch64", "amd64": "x86_64", "386": "i386", "mipsle": "mipsel", "mips64le": "mips64el"}


@dataclass(frozen=True, slots=True)
class Handler:
    """`magic` stands at `offset`; of both only the bits of `mask` count."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""

    def takes(self, start: bytes) -> bool:
        part = start[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        if not self.magic or len(part) < len(self.magic):
            return False
        return all((a ^ b) & m == 0 for a, b, m in zip(part, self.magic, mask, strict=True))


def parse_handler(name: str, text: str) -> Handler | None:
    """A handler's file. None for what is none: `status`, `register`, and handlers by a file's extension."""
    fields: dict[str, str] = {}
    enabled = False
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        enabled |= line == "enabled"
        fields[word.rstrip(":")] = rest.strip()
    if "interpreter" not in fields or "magic" not in fields:
        return None
    try:
        magic, mask = bytes.fromhex(fields["magic"]), bytes.fromhex(fields.get("mask", ""))
        offset = int(fields.get("offset", "0"))
    except ValueError:
        return None
    if mask and len(mask) != len(magic):
        return None
    return Handler(name, enabled, fields["interpreter"], fields.get("flags", ""), offset, magic, mask)


def elf_start(architecture: str) -> bytes:
    """How a program of that architecture begins. Raises KeyError for one that is not known."""
    bits, order, machine = _HEADERS[architecture]
    executable = 2
    numbers = struct.pack("<HH" if order == 1 else ">HH", executable, machine)
    return b"\x7fELF" + bytes((bits, order, 1, 0)) + bytes(8) + numbers + bytes(44)


def host_architecture() -> str:
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def handlers(directory: Path = DIRECTORY) -> list[Handler] | None:
    """None when binfmt_misc is not mounted."""
    if not (directory / "status").exists():
        return None
    found = []
    for path in sorted(directory.iterdir()):
        if path.name in ("status", "register"):
            continue
        with open(path, encoding="ascii", errors="replace") as file:
            handler = parse_handler(path.name, file.read(_MAX_HANDLER))
        if handler is not None:
            found.append(handler)
    return found


def require_architecture(architecture: str, host: str, known: list[Handler] | None) -> None:
    """Raises `Unsupported` with the reason and what helps, when this host can't run its programs."""
    if architecture == host or architecture in _ALSO.get(host, ()):
        return
    reason, help_ = _obstacle(architecture, known)
    if reason:
        raise Unsupported(
            f"this host is {host} and can't run programs for {architecture}: {reason}", hint=help_
        )


def _obstacle(architecture: str, known: list[Handler] | None) -> tuple[str, str]:
    """Why it can't, and what helps; "" when it can."""
    if architecture not in _HEADERS:
        return f"{architecture} is not known", f"the architectures are {', '.join(_HEADERS)}"
    qemu = f"qemu-{_QEMU.get(architecture, architecture)}"
    install = f"install qemu-user-static (or tonistiigi/binfmt's {qemu}), which registers it with the flag F"
    if known is None:
        return (
            "binfmt_misc is not mounted",
            "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc, and " + install,
        )
    start = elf_start(architecture)
    taking = [one for one in known if one.takes(start)]
    if not taking:
        return f"binfmt_misc has no handler like {qemu}", install
    enabled = [one for one in taking if one.enabled]
    if not enabled:
        return (
            f"binfmt_misc's handler {taking[0].name} is switched off",
            f"echo 1 > {DIRECTORY}/{taking[0].name}",
        )
    if not any("F" in one.flags for one in enabled):
        return (
            f"binfmt_misc's handler {enabled[0].name} was registered without the flag F, "
            f"so {enabled[0].interpreter} would have to be in the image",
            "register it with the flag F (fix binary), as qemu-user-static does",
        )
    return "", ""
