"""Device policies: rules in order, version 1's words for them, and the eBPF program run in a small machine."""

from __future__ import annotations

import struct

import pytest

from sampan.errors import Invalid
from sampan.linux.cgroups import DeviceRule
from sampan.linux.cgroups.device_policy import DevicePolicy, device_policy, format_rule, parse_list
from sampan.linux.cgroups.device_program import device_program

BLOCK, CHARACTER = 1, 2
MKNOD, READ, WRITE = 1, 2, 4
DENY_ALL = DeviceRule(False)


def run(program: bytes, kind: int, major: int, minor: int, access: int) -> int:
    """The eBPF subset that device programs use; anything else is an error."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    code = [
        (op, regs & 15, regs >> 4, off, imm) for op, regs, off, imm in struct.iter_unpack("=BBhI", program)
    ]
    registers = [0] * 11
    at = 0
    while True:
        op, target, source, offset, constant = code[at]
        at += 1
        if op == 0x61:
            assert source == 1
            (registers[target],) = struct.unpack_from("=I", context, offset)
        elif op == 0xB4:
            registers[target] = constant
        elif op == 0xBC:
            registers[target] = registers[source]
        elif op == 0x54:
            registers[target] &= constant
        elif op == 0x74:
            registers[target] >>= constant
        elif op == 0x95:
            return registers[0]
        else:
            at += (
                offset
                if {0x16: registers[target] == constant, 0x56: registers[target] != constant}[op]
                else 0
            )


def answer(rules: tuple[DeviceRule, ...], kind: int, major: int, minor: int, access: int) -> int:
    return run(device_program(device_policy(rules)), kind, major, minor, access)


def test_without_an_allowing_rule_everything_is_refused() -> None:
    assert answer((), CHARACTER, 1, 3, READ) == 0
    assert answer((DENY_ALL,), CHARACTER, 1, 3, READ) == 0


def test_an_allowed_device_is_allowed_in_the_ways_named_only() -> None:
    rules = (DENY_ALL, DeviceRule(True, "c", 1, 3, "rw"), DeviceRule(True, "b", None, None, "m"))
    assert answer(rules, CHARACTER, 1, 3, READ) == 1
    assert answer(rules, CHARACTER, 1, 3, READ | WRITE) == 1
    assert answer(rules, CHARACTER, 1, 3, READ | MKNOD) == 0
    assert answer(rules, CHARACTER, 1, 4, READ) == 0
    assert answer(rules, BLOCK, 1, 3, READ) == 0
    assert answer(rules, BLOCK, 250, 7, MKNOD) == 1


def test_with_everything_allowed_a_denied_device_is_refused_in_the_ways_named() -> None:
    rules = (DeviceRule(True), DeviceRule(False, "c", 10, None, "w"))
    assert answer(rules, CHARACTER, 10, 229, READ) == 1
    assert answer(rules, CHARACTER, 10, 229, READ | WRITE) == 0
    assert answer(rules, CHARACTER, 11, 229, WRITE) == 1
    assert answer(rules, BLOCK, 10, 229, WRITE) == 1


def test_a_rule_for_both_kinds_is_one_for_each() -> None:
    rules = (DENY_ALL, DeviceRule(True, "a", 7, None, "r"))
    assert answer(rules, CHARACTER, 7, 1, READ) == answer(rules, BLOCK, 7, 1, READ) == 1
    assert answer(rules, BLOCK, 8, 1, READ) == 0


def test_later_rules_win() -> None:
    rules = (DeviceRule(True, "c", 1, 3), DeviceRule(False, "c", 1, 3, "w"), DeviceRule(True, "c", 1, 5))
    assert answer(rules, CHARACTER, 1, 3, READ) == 1
    assert answer(rules, CHARACTER, 1, 3, WRITE) == 0
    assert device_policy((*rules, DENY_ALL)) == DevicePolicy(False, ())


def test_numbers_of_32_bits_are_compared_whole() -> None:
    rules = (DENY_ALL, DeviceRule(True, "c", 0xFFFFF000, 0xFFFFFFFF))
    assert answer(rules, CHARACTER, 0xFFFFF000, 0xFFFFFFFF, READ) == 1
    assert answer(rules, CHARACTER, 0xFFFFF000, 0x7FFFFFFF, READ) == 0


def test_denying_a_whole_class_takes_earlier_single_rules_back() -> None:
    rules = (DeviceRule(True, "c", 1, 3), DeviceRule(True, "c", 1, 5), DeviceRule(False, "c", 1, None))
    assert device_policy(rules).exceptions == ()


def test_taking_one_device_out_of_an_earlier_wildcard_is_refused() -> None:
    with pytest.raises(Invalid, match="wildcards"):
        device_policy((DeviceRule(True, "c", 1, None), DeviceRule(False, "c", 1, 3)))


def test_denying_what_no_earlier_rule_allows_changes_nothing() -> None:
    rules = (DeviceRule(True, "c", 1, None, "m"), DeviceRule(False, "c", 10, 229))
    assert device_policy(rules).exceptions == (DeviceRule(True, "c", 1, None, "m"),)


@pytest.mark.parametrize(
    "rule",
    [
        DeviceRule(True, "x"),
        DeviceRule(True, "c", 1, 3, ""),
        DeviceRule(True, "c", 1, 3, "rx"),
        DeviceRule(True, "c", -1, 3),
        DeviceRule(True, "c", 1, 1 << 32),
    ],
)
def test_a_malformed_rule_is_refused(rule: DeviceRule) -> None:
    with pytest.raises(Invalid, match="invalid device"):
        device_policy((rule,))


def test_rules_are_written_and_read_in_version_1s_words() -> None:
    assert format_rule(DeviceRule(True, "c", 1, None, "rw")) == "c 1:* rw"
    assert parse_list("c 1:3 rwm\nb *:* m\n") == DevicePolicy(
        False, (DeviceRule(True, "c", 1, 3), DeviceRule(True, "b", None, None, "m"))
    )
    assert parse_list("a *:* rwm\n") == DevicePolicy(True, ())
