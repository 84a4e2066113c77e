"""The socket filters of the events that we hear of, run by a small interpreter of classic BPF (linux/filter.h)."""

from __future__ import annotations

import struct
import sys

import pytest

from sampan.linux import link_events, nftables_events

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the messages are little-endian")


def accepts(instructions, packet):
    accumulator = position = 0
    while True:
        code, jump_true, jump_false, value = instructions[position]
        position += 1
        if code == 0x30:  # ldb [k]
            accumulator = packet[value]
        elif code == 0x28:  # ldh [k]
            (accumulator,) = struct.unpack_from("!H", packet, value)
        elif code == 0x20:  # ld [k]
            (accumulator,) = struct.unpack_from("!I", packet, value)
        elif code == 0x15:  # jeq #k
            position += jump_true if accumulator == value else jump_false
        else:
            assert code == 0x06  # ret #k
            return value > 0


def message(kind, port):
    return struct.pack("<IHHII", 20, kind, 0, 7, port) + bytes(4)


@pytest.mark.parametrize("own", [1, 0x12345678, 0xFFFF8001])
def test_only_ends_of_transactions_of_others_pass(own):
    program = nftables_events._filter(own)
    assert accepts(program, message(0x0A0F, own ^ 1))
    assert accepts(program, message(0x0A0F, 0))
    assert not accepts(program, message(0x0A0F, own))
    assert not accepts(program, message(0x0A00, own ^ 1))  # a new table
    assert not accepts(program, message(0x010F, own ^ 1))  # of another subsystem


def vanished(kind, name):
    """RTM_DELLINK or RTM_DELADDR as the kernel sends them: struct ifinfomsg, then IFLA_IFNAME (3)."""
    return struct.pack("<IHHII", 60, kind, 0, 0, 0) + bytes(16) + struct.pack("<HH", 4 + len(name), 3) + name


def address(family, scope):
    """RTM_DELADDR: struct ifaddrmsg (family, prefix length, flags, scope, index)."""
    return struct.pack("<IHHII", 24, 21, 0, 0, 0) + struct.pack("<BBBBI", family, 64, 0, scope, 7)


def test_devices_and_addresses_that_vanish_pass_but_not_those_of_every_container_s_end():
    program = link_events._filter()
    assert accepts(program, vanished(17, b"br-0123456789ab\0"))
    assert accepts(program, vanished(17, b"lo\0\0"))
    assert accepts(program, address(10, scope=0))
    assert accepts(program, address(2, scope=0))
    assert not accepts(program, address(10, scope=253))  # RT_SCOPE_LINK: every veth has one
    assert not accepts(program, vanished(17, b"veth012\0"))
    assert not accepts(program, vanished(16, b"br-0123456789ab\0"))  # a device that comes or changes
    assert not accepts(program, vanished(24, b"br-0123456789ab\0"))  # a route


def test_routes_of_the_kernel_to_a_subnet_pass_when_they_vanish():
    """RTM_DELROUTE (25): struct rtmsg (family, lengths, TOS, table, protocol, scope, type, flags)."""

    def route(kind, table, protocol, scope):
        return struct.pack("<IHHII", 28, kind, 0, 0, 0) + struct.pack(
            "<8BI", 2, 24, 0, 0, table, protocol, scope, 1, 0
        )

    program = link_events._filter()
    assert accepts(program, route(25, 254, 2, 253))
    assert not accepts(program, route(24, 254, 2, 253))  # one that comes
    assert not accepts(program, route(25, 255, 2, 254))  # an address of the host's own
    assert not accepts(program, route(25, 254, 3, 253))  # RTPROT_BOOT: an administrator's


def test_a_change_of_forwarding_passes_but_not_the_settings_of_every_new_device():
    """RTM_NEWNETCONF (80): struct netconfmsg, NETCONFA_IFINDEX (1), NETCONFA_FORWARDING (2)."""

    def settings(index):
        body = struct.pack("<B3xHHiHHi", 2, 8, 1, index, 8, 2, 0)
        return struct.pack("<IHHII", 16 + len(body), 80, 0, 0, 0) + body

    program = link_events._filter()
    assert accepts(program, settings(-1))
    assert not accepts(program, settings(-2))  # what new devices begin with
    assert not accepts(program, settings(7))
