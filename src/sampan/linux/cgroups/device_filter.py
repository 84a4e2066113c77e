"""Loading a device program and tying it to a version 2 group: bpf(2), struct bpf_attr of linux/bpf.h."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from sampan.errors import Denied, Internal, SampanError, Unsupported
from sampan.linux import libc

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 1 << 1, 1 << 2
_MOST_PROGRAMS = 64
_BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "i686": 357, "armv7l": 386}
_LICENSE = b"Apache-2.0\0"


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char], size: int) -> int:
    machine = os.uname().machine
    if machine not in _BPF_CALL:
        raise Unsupported(f"bpf(2) is not supported on {machine}")
    return libc.checked("bpf", str(command), _BPF_CALL[machine], command, attributes, size)


def _call(command: int, layout: str, *values: int) -> int:
    raw = struct.pack(layout, *values)
    return _bpf(command, ctypes.create_string_buffer(raw, len(raw)), len(raw))


def _failure(error: OSError, doing: str) -> SampanError:
    text = f"cgroup device filter: {doing}: {error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return Denied(text, hint="CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, are needed")
    if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return Unsupported(text, hint="the kernel needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF")
    return Internal(text)


def _load(program: bytes) -> int:
    instructions = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(_LICENSE)
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags
    return _call(
        _PROG_LOAD,
        "=IIQQIIQII",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
        *(0, 0, 0, 0, 0),
    )


def _attached(directory: int) -> list[int]:
    """Ids of the device programs of the group itself."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
    raw = struct.pack(
        "=IIIIQI", directory, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS
    )
    attributes = ctypes.create_string_buffer(raw, len(raw))
    _bpf(_PROG_QUERY, attributes, len(raw))
    (count,) = struct.unpack_from("=I", attributes.raw, 24)
    return list(ids[:count])


def attach_device_program(group: str, program: bytes) -> None:
    """Make `program` the only device program of the version 2 group at the path `group`.

    A single program that is there is replaced in one step, so that no moment is without a policy.
    Raises `Unsupported` or `Denied`.
    """
    opened: list[int] = []
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(directory)
        new = _load(program)
        opened.append(new)
        present = [_call(_PROG_GET_FD_BY_ID, "=III", number, 0, 0) for number in _attached(directory)]
        opened += present
        # target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd
        if len(present) == 1:
            flags = _ALLOW_MULTI | _REPLACE
            _call(_PROG_ATTACH, "=IIIII", directory, new, _ATTACH_CGROUP_DEVICE, flags, present[0])
            return
        _call(_PROG_ATTACH, "=IIIII", directory, new, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, 0)
        for old in present:
            _call(_PROG_DETACH, "=IIIII", directory, old, _ATTACH_CGROUP_DEVICE, 0, 0)
    except OSError as error:
        raise _failure(error, group) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
