"""Compiled filters under the real kernel, each in a child of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Callable

import pytest

from sampan.errors import Denied, Invalid
from sampan.linux.seccomp import Arg, Filter, Rule, compile_filter, load_filter

pytestmark = pytest.mark.root

PR_SET_NO_NEW_PRIVS = 38


def call(number: int, *args: int) -> int:
    """0, or the errno of a raw system call."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0


def in_child(work: Callable[[], list[int]]) -> list[int] | int:
    """The numbers that `work` returned in a forked child, or the negative signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            values = work()
            os.write(writer, struct.pack(f"{len(values)}i", *values))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        raw = answer.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return [value for (value,) in struct.iter_unpack("i", raw)] if code == 0 else code


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
class TestOnX8664:
    def test_the_kernel_accepts_a_filter_and_obeys_it(self) -> None:
        wanted = Filter(
            "SCMP_ACT_ALLOW",
            None,
            ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
            (
                Rule(("getppid",), "SCMP_ACT_ERRNO", 77),
                Rule(("socket",), "SCMP_ACT_ERRNO", 78, (Arg(0, 38, "SCMP_CMP_EQ"),)),
            ),
        )
        program = compile_filter(wanted)

        def work() -> list[int]:
            load_filter(program)
            return [call(110), call(39), call(41, 38, 5, 0), call(41, 1, 1, 0)]

        assert in_child(work) == [77, 0, 78, 0]

    def test_a_killing_rule_ends_the_process_with_sigsys(self) -> None:
        program = compile_filter(
            Filter("SCMP_ACT_ALLOW", None, (), (Rule(("getppid",), "SCMP_ACT_KILL_PROCESS"),))
        )

        def work() -> list[int]:
            load_filter(program)
            return [call(110)]

        assert in_child(work) == -signal.SIGSYS

    def test_a_call_newer_than_the_profile_is_not_implemented(self) -> None:
        names = ("read", "write", "exit_group", "exit", "clone3", "mmap", "munmap", "brk")
        program = compile_filter(Filter("SCMP_ACT_ERRNO", 1, (), (Rule(names, "SCMP_ACT_ALLOW"),)))

        def work() -> list[int]:
            load_filter(program)
            return [call(436), call(110)]

        assert in_child(work) == [errno.ENOSYS, errno.EPERM]

    def test_a_listener_is_returned_when_asked_for(self) -> None:
        program = compile_filter(Filter("SCMP_ACT_ALLOW", None, (), (Rule(("getppid",), "SCMP_ACT_NOTIFY"),)))

        def work() -> list[int]:
            listener = load_filter(program, ("SECCOMP_FILTER_FLAG_NEW_LISTENER",))
            assert listener is not None
            return [int(os.readlink(f"/proc/self/fd/{listener}") == "anon_inode:seccomp notify")]

        assert in_child(work) == [1]

    def test_without_privilege_or_no_new_privs_loading_is_denied(self) -> None:
        program = compile_filter(Filter("SCMP_ACT_ALLOW"))

        def work() -> list[int]:
            os.setresuid(65534, 65534, 65534)
            try:
                load_filter(program)
            except Denied:
                ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                return [1, int(load_filter(program) is None)]
            return [0]

        assert in_child(work) == [1, 1]


def test_a_program_that_is_none_is_refused_before_the_kernel_sees_it() -> None:
    with pytest.raises(Invalid):
        load_filter(b"123")
    with pytest.raises(Invalid, match="flag"):
        load_filter(bytes(8), ("SECCOMP_FILTER_FLAG_NICE",))
