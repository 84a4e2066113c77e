"""A device policy as an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE. Pure.

The kernel runs it with struct bpf_cgroup_dev_ctx (linux/bpf.h) for every open and mknod of a device; the answer 1
allows, 0 refuses. The program is a list of tests without loops, memory or helpers.
"""

from __future__ import annotations

import struct

from sampan.linux.cgroups.device_policy import DevicePolicy
from sampan.linux.cgroups.model import DeviceRule

_LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOVE = 0xB4  # BPF_ALU | BPF_MOV, constant
_MOVE_REGISTER = 0xBC
_AND = 0x54
_SHIFT_RIGHT = 0x74
_IF_EQUAL = 0x16  # BPF_JMP32 | BPF_JEQ, constant
_IF_DIFFERENT = 0x56
_EXIT = 0x95

_R0, _CONTEXT, _TYPE, _ACCESS, _MAJOR, _MINOR = range(6)
_TYPES = {"b": 1, "c": 2}
_LETTERS = {"m": 1, "r": 2, "w": 4}


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    """struct bpf_insn; the constant is the unsigned form of a signed field."""
    return struct.pack("=BBhI", code, target | source << 4, offset, constant)


def device_program(policy: DevicePolicy) -> bytes:
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),  # access << 16 | type
        _instruction(_MOVE_REGISTER, _ACCESS, _TYPE),
        _instruction(_SHIFT_RIGHT, _ACCESS, constant=16),
        _instruction(_AND, _TYPE, constant=0xFFFF),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in policy.exceptions:
        code += _rule(rule)
    code += [_instruction(_MOVE, _R0, constant=int(policy.default)), _instruction(_EXIT)]
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    """Answer when the rule matches, else fall out at the end.

    An allowing rule matches when it covers the whole request, a denying one when it touches it: as version 1 does.
    """
    mask = sum(_LETTERS[letter] for letter in set(rule.access))
    tests: list[tuple[int, int, int]] = [(_IF_DIFFERENT, _TYPE, _TYPES[rule.type])]
    access: list[bytes] = []
    if rule.allow and mask != 7:
        access = [
            _instruction(_MOVE_REGISTER, _R0, _ACCESS),
            _instruction(_AND, _R0, constant=~mask & 0xFFFF_FFFF),
        ]
        tests.append((_IF_DIFFERENT, _R0, 0))
    elif not rule.allow:
        access = [_instruction(_MOVE_REGISTER, _R0, _ACCESS), _instruction(_AND, _R0, constant=mask)]
        tests.append((_IF_EQUAL, _R0, 0))
    if rule.major is not None:
        tests.append((_IF_DIFFERENT, _MAJOR, rule.major))
    if rule.minor is not None:
        tests.append((_IF_DIFFERENT, _MINOR, rule.minor))
    answer = [_instruction(_MOVE, _R0, constant=int(rule.allow)), _instruction(_EXIT)]
    length = len(tests) + len(access) + len(answer)
    code = list(access)
    for test, register, constant in tests:
        code.append(_instruction(test, register, offset=length - len(code) - 1, constant=constant))
    return code + answer
