"""The filter compiler against libseccomp: both programs run in a small BPF machine over the same calls."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import random
import struct
from collections.abc import Iterable, Sequence

import pytest

from sampan.engine.seccomp_profile import default_profile, resolve
from sampan.errors import Invalid, Unsupported
from sampan.linux.seccomp import Arg, Filter, Rule, compile_filter
from sampan.linux.seccomp_syscalls import numbers

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL = 0
ENOSYS = ERRNO | 38
X86_64, X86, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32_BIT = 0x40000000
DOCKER_ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


def run(program: bytes, architecture: int, number: int, args: Sequence[int] = ()) -> int:
    """What the kernel's classic BPF machine answers; refuses any instruction it does not know."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *args, *[0] * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        op, true, false, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            at += k
        elif op == 0x06:
            return int(k)
        else:
            taken = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: accumulator & k != 0,
            }[op]
            at += true if taken else false


class Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
TOKENS = {"X86_64": X86_64, "X86": X86, "X32": 0x4000003E, "AARCH64": AARCH64, "ARM": ARM}
ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_KILL": KILL,
    "SCMP_ACT_TRAP": 0x00030000,
}


def action_value(name: str, errno: int | None) -> int:
    return ACTIONS[name] | ((1 if errno is None else errno) if name == "SCMP_ACT_ERRNO" else 0)


def library() -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed")
    loaded.seccomp_init.restype = ctypes.c_void_p
    loaded.seccomp_init.argtypes = [ctypes.c_uint32]
    loaded.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Comparison),
    ]
    for name in ("seccomp_arch_add", "seccomp_arch_remove"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    loaded.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    loaded.seccomp_release.argtypes = [ctypes.c_void_p]
    return loaded


def oracle(wanted: Filter, native: str = "X86_64") -> bytes:
    """libseccomp's program for the same filter, built by the calls that runc makes."""
    lib = library()
    default = action_value(wanted.default_action, wanted.default_errno)
    context = lib.seccomp_init(default)
    try:
        for name in dict.fromkeys([native, *(a.removeprefix("SCMP_ARCH_") for a in wanted.architectures)]):
            lib.seccomp_arch_add(context, TOKENS[name])
        if os.uname().machine == "x86_64" and native != "X86_64":
            assert lib.seccomp_arch_remove(context, X86_64) == 0
        for rule in wanted.rules:
            action = action_value(rule.action, rule.errno)
            if action == default:
                continue
            for name in rule.names:
                number = lib.seccomp_syscall_resolve_name(name.encode())
                if number == -1:
                    continue
                listed = [
                    Comparison(a.index, OPERATORS[a.op.removeprefix("SCMP_CMP_")], a.value, a.value_two)
                    for a in rule.args
                ]
                groups = (
                    [listed]
                    if len({a.index for a in rule.args}) == len(listed)
                    else [[one] for one in listed]
                )
                for group in groups:
                    array = (Comparison * len(group))(*group)
                    assert lib.seccomp_rule_add_array(context, action, number, len(group), array) in (0, -17)
        descriptor = os.memfd_create("oracle")
        try:
            assert lib.seccomp_export_bpf(context, descriptor) == 0
            return os.pread(descriptor, 1 << 20, 0)
        finally:
            os.close(descriptor)
    finally:
        lib.seccomp_release(context)


def interesting_numbers(architecture: str) -> list[int]:
    base = X32_BIT if architecture == "x32" else 0
    return [base + number for number in range(600)] + [base + number for number in (983041, 983045, 5000)]


def arguments(values: Iterable[int], chooser: random.Random) -> list[tuple[int, ...]]:
    pool = [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) - 1]
    for value in values:
        pool += [
            value,
            (value + 1) % (1 << 64),
            (value - 1) % (1 << 64),
            value ^ (1 << 32),
            value & 0xFFFFFFFF,
        ]
    return [tuple(chooser.choice(pool) for _ in range(6)) for _ in range(25)]


def last_numbers(wanted: Filter, architecture: str) -> int:
    table = numbers(architecture)
    return max(table.get(name, -1) for rule in wanted.rules for name in rule.names)


def assert_same(wanted: Filter, groups: dict[str, int], native: str = "X86_64") -> int:
    """Compare over every call number that a filter knows, and beyond; returns the number of comparisons."""
    ours = compile_filter(wanted, native.lower())
    theirs = oracle(wanted, native)
    chooser = random.Random(7)
    values = [v for rule in wanted.rules for arg in rule.args for v in (arg.value, arg.value_two)]
    conditional = {name for rule in wanted.rules if rule.args for name in rule.names}
    compared = 0
    for architecture, code in groups.items():
        base = X32_BIT if architecture == "x32" else 0
        by_number = {number: name for name, number in numbers(architecture).items()}
        last = last_numbers(wanted, architecture)
        for number in interesting_numbers(architecture):
            tries = (
                arguments(values, chooser)
                if by_number.get(number - base) in conditional
                else [(1, 2, 3, 4, 5, 6)]
            )
            for args in tries:
                if architecture in ("x86", "arm"):
                    args = tuple(arg & 0xFFFFFFFF for arg in args)
                mine = run(ours, code, number, args)
                compared += 1
                if number - base > last and wanted.default_action != "SCMP_ACT_ALLOW":
                    assert mine == ENOSYS, (architecture, number)
                else:
                    assert mine == run(theirs, code, number, args), (architecture, number, args)
    return compared


ALLOWED = (
    *("read", "write", "open", "close", "stat", "fstat", "mmap", "munmap", "brk", "rt_sigaction", "ioctl"),
    *("access", "pipe", "select", "socket", "connect", "accept4", "sendto", "recvfrom", "bind", "listen"),
    *(
        "clone",
        "execve",
        "exit",
        "wait4",
        "kill",
        "shmget",
        "semop",
        "msgget",
        "fcntl",
        "getdents64",
        "futex",
    ),
    *("openat", "statx", "faccessat2", "exit_group", "stat64", "mmap2", "waitpid", "_llseek", "no_such_call"),
    *("preadv2", "execveat"),
)


def test_an_allow_list_gives_the_same_answers_as_libseccomp() -> None:
    wanted = Filter("SCMP_ACT_ERRNO", 1, DOCKER_ARCHITECTURES, (Rule(ALLOWED, "SCMP_ACT_ALLOW"),))
    assert assert_same(wanted, {"x86_64": X86_64, "x86": X86, "x32": X86_64}) > 1800


def test_a_deny_list_gives_the_same_answers_as_libseccomp() -> None:
    rules = (
        Rule(("mount", "umount2", "keyctl", "stime"), "SCMP_ACT_ERRNO", 13),
        Rule(("reboot",), "SCMP_ACT_KILL"),
        Rule(("personality",), "SCMP_ACT_ERRNO", 95, (Arg(0, 8, "SCMP_CMP_NE"),)),
    )
    wanted = Filter("SCMP_ACT_ALLOW", None, DOCKER_ARCHITECTURES, rules)
    assert_same(wanted, {"x86_64": X86_64, "x86": X86, "x32": X86_64})


@pytest.mark.parametrize("op", sorted(OPERATORS))
@pytest.mark.parametrize("value", [0, 1, 38, 0x7E020000, 0xFFFFFFFF, 1 << 32, 0x1_0000_0001, (1 << 64) - 1])
def test_an_argument_is_compared_as_libseccomp_does(op: str, value: int) -> None:
    args = (Arg(2, value, f"SCMP_CMP_{op}", 0x1_0000_0020 if op == "MASKED_EQ" else 0),)
    rules = (
        Rule(("read", "write"), "SCMP_ACT_ALLOW"),
        Rule(("lseek", "ioctl"), "SCMP_ACT_ALLOW", None, args),
    )
    wanted = Filter("SCMP_ACT_ERRNO", 1, ("SCMP_ARCH_X86_64",), rules)
    ours, theirs = compile_filter(wanted, "x86_64"), oracle(wanted)
    chooser = random.Random(value)
    for candidate in arguments([value, value & 0xFFFFFFFF, 0x1_0000_0020], chooser) * 4:
        assert run(ours, X86_64, 8, candidate) == run(theirs, X86_64, 8, candidate), (op, value, candidate)


def test_random_filters_give_the_same_answers_as_libseccomp() -> None:
    chooser = random.Random(20)
    resolve = library().seccomp_syscall_resolve_name
    names = sorted(name for name in numbers("x86_64") if resolve(name.encode()) != -1)
    for _ in range(12):
        rules = [Rule(tuple(chooser.sample(names, chooser.randint(1, 200))), "SCMP_ACT_ALLOW")]
        for name in chooser.sample(names, 30):
            args = tuple(
                Arg(
                    index,
                    chooser.choice((0, 5, 1 << 33, 0xFFFFFFFF)),
                    f"SCMP_CMP_{chooser.choice(sorted(OPERATORS))}",
                )
                for index in chooser.sample(range(6), chooser.randint(1, 3))
            )
            rules.append(Rule((name,), "SCMP_ACT_ALLOW", None, args))
        wanted = Filter("SCMP_ACT_ERRNO", 1, ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32"), tuple(rules))
        assert_same(wanted, {"x86_64": X86_64, "x32": X86_64})


@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYSLOG")])
def test_dockers_default_profile_gives_the_same_answers_as_libseccomp(capabilities: tuple[str, ...]) -> None:
    resolve_name = library().seccomp_syscall_resolve_name
    section = resolve(default_profile(), capabilities, "amd64", (6, 1))
    rules = tuple(
        # libseccomp is older than the profile and skips the newest calls; the tables are compared where both know.
        Rule(
            tuple(name for name in rule.names if resolve_name(name.encode()) != -1),
            rule.action,
            rule.errno_ret,
            tuple(Arg(arg.index, arg.value, arg.op, arg.value_two) for arg in rule.args),
        )
        for rule in section.syscalls
    )
    wanted = Filter(section.default_action, section.default_errno_ret, section.architectures, rules)
    assert assert_same(wanted, {"x86_64": X86_64, "x86": X86, "x32": X86_64}) > 1800


def test_arm_gives_the_same_answers_as_libseccomp() -> None:
    wanted = Filter(
        "SCMP_ACT_ERRNO",
        1,
        ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
        (
            Rule((*ALLOWED, "cacheflush", "set_tls"), "SCMP_ACT_ALLOW"),
            Rule(("personality",), "SCMP_ACT_ALLOW", None, (Arg(0, 0xFFFFFFFF, "SCMP_CMP_EQ"),)),
        ),
    )
    assert_same(wanted, {"aarch64": AARCH64, "arm": ARM}, "AARCH64")


def test_conditions_on_one_argument_are_alternatives_and_on_several_must_all_hold() -> None:
    one = (Arg(0, 1, "SCMP_CMP_EQ"), Arg(0, 5, "SCMP_CMP_EQ"))
    several = (Arg(0, 1, "SCMP_CMP_EQ"), Arg(1, 2, "SCMP_CMP_EQ"))
    rules = (Rule(("read",), "SCMP_ACT_ALLOW", None, one), Rule(("write",), "SCMP_ACT_ALLOW", None, several))
    program = compile_filter(Filter("SCMP_ACT_ERRNO", None, (), rules), "x86_64")
    assert run(program, X86_64, 0, (5,)) == ALLOW
    assert run(program, X86_64, 0, (4,)) == ERRNO | 1
    assert run(program, X86_64, 1, (1, 2)) == ALLOW
    assert run(program, X86_64, 1, (1, 3)) == ERRNO | 1


def test_of_two_actions_for_a_call_the_first_counts_as_in_libseccomp() -> None:
    """Podman's profile says both: what needs a capability is allowed, and refused with EPERM."""
    both = (Rule(("setns",), "SCMP_ACT_ALLOW"), Rule(("setns",), "SCMP_ACT_ERRNO", 1))
    number = numbers("x86_64")["setns"]
    for rules, expected in ((both, ALLOW), (both[::-1], ERRNO | 1)):
        wanted = Filter("SCMP_ACT_ERRNO", 38, (), rules)
        assert run(compile_filter(wanted, "x86_64"), X86_64, number) == expected
        assert_same(wanted, {"x86_64": X86_64})


def test_calls_newer_than_the_profile_fail_with_enosys_and_known_ones_with_the_default_error() -> None:
    rules = (Rule(("read", "clone3"), "SCMP_ACT_ALLOW"),)
    program = compile_filter(Filter("SCMP_ACT_ERRNO", 1, (), rules), "x86_64")
    assert run(program, X86_64, numbers("x86_64")["clone3"] - 1) == ERRNO | 1
    assert run(program, X86_64, numbers("x86_64")["clone3"] + 1) == ENOSYS


def test_calls_newer_than_the_profile_pass_when_the_default_is_to_allow() -> None:
    program = compile_filter(
        Filter("SCMP_ACT_ALLOW", None, (), (Rule(("mount",), "SCMP_ACT_ERRNO"),)), "x86_64"
    )
    assert run(program, X86_64, 460) == ALLOW


def test_calls_of_an_architecture_that_is_not_listed_kill() -> None:
    program = compile_filter(Filter("SCMP_ACT_ALLOW"), "x86_64")
    assert run(program, X86, 4) == KILL
    assert run(program, X86_64, X32_BIT + 1) == KILL
    assert run(program, X86_64, 1) == ALLOW


def test_a_conditional_socket_rule_does_not_open_the_multiplexed_call() -> None:
    rules = (
        Rule(("socket",), "SCMP_ACT_ALLOW", None, (Arg(0, 38, "SCMP_CMP_LT"),)),
        Rule(("statx",), "SCMP_ACT_ALLOW"),
    )
    program = compile_filter(Filter("SCMP_ACT_ERRNO", 1, ("SCMP_ARCH_X86",), rules), "x86_64")
    assert run(program, X86, 102, (1, 0)) == ERRNO | 1
    assert run(program, X86, 359, (2,)) == ALLOW
    assert run(program, X86, 359, (38,)) == ERRNO | 1


def test_an_ipc_version_does_not_lead_around_a_rule() -> None:
    program = compile_filter(
        Filter("SCMP_ACT_ALLOW", None, ("SCMP_ARCH_X86",), (Rule(("shmget",), "SCMP_ACT_ERRNO", 1),)),
        "x86_64",
    )
    assert run(program, X86, 117, (23 | 1 << 16,)) == ERRNO | 1
    assert run(program, X86, 117, (24,)) == ALLOW


def six_conditions(number: int) -> tuple[Arg, ...]:
    return tuple(Arg(index, number << 40 | index, "SCMP_CMP_EQ") for index in range(6))


def test_every_rule_is_reached_over_long_jumps() -> None:
    calls = dict(list(numbers("x86_64").items())[:80])
    rules = tuple(
        Rule((name,), "SCMP_ACT_ALLOW", None, six_conditions(number)) for name, number in calls.items()
    )
    program = compile_filter(Filter("SCMP_ACT_ERRNO", 1, (), rules), "x86_64")
    assert len(program) > 8 * 1200
    for number in calls.values():
        assert run(program, X86_64, number, [number << 40 | index for index in range(6)]) == ALLOW
        assert run(program, X86_64, number, [(number + 1) << 40 | index for index in range(6)]) == ERRNO | 1


@pytest.mark.parametrize(
    "wanted",
    [
        Filter("SCMP_ACT_MAYBE"),
        Filter("SCMP_ACT_ERRNO", 5000),
        Filter("SCMP_ACT_ALLOW", None, ("amd64",)),
        Filter("SCMP_ACT_ALLOW", None, ("SCMP_ARCH_VAX",)),
        Filter("SCMP_ACT_ALLOW", None, (), (Rule(("read",), "SCMP_ACT_NONE"),)),
        Filter(
            "SCMP_ACT_ALLOW", None, (), (Rule(("read",), "SCMP_ACT_ERRNO", 1, (Arg(6, 1, "SCMP_CMP_EQ"),)),)
        ),
        Filter(
            "SCMP_ACT_ALLOW", None, (), (Rule(("read",), "SCMP_ACT_ERRNO", 1, (Arg(0, -1, "SCMP_CMP_EQ"),)),)
        ),
        Filter("SCMP_ACT_ALLOW", None, (), (Rule(("read",), "SCMP_ACT_ERRNO", 1, (Arg(0, 1, "EQ"),)),)),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(wanted: Filter) -> None:
    with pytest.raises(Invalid):
        compile_filter(wanted, "x86_64")


def test_a_program_beyond_the_kernels_limit_is_refused() -> None:
    calls = numbers("x86_64").items()
    rules = tuple(Rule((name,), "SCMP_ACT_ALLOW", None, six_conditions(number)) for name, number in calls)
    with pytest.raises(Invalid, match="too long"):
        compile_filter(Filter("SCMP_ACT_ERRNO", 1, (), rules), "x86_64")


def test_a_machine_without_a_table_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="vax"):
        compile_filter(Filter("SCMP_ACT_ALLOW"), "vax")
