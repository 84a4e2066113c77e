"""Bytes of netlink messages, against struct layouts of the kernel's headers (little-endian machines)."""

from __future__ import annotations

import errno
import struct
import sys

import pytest

from sampan.errors import Invalid
from sampan.linux.netlink import (
    NetlinkError,
    attribute,
    decode_done,
    decode_error,
    iterate_attributes,
    nested,
    parse_attributes,
)
from sampan.linux.netlink_route import PeerLink, create_veth, set_link
from sampan.linux.nftables import Field, pack_fields

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="expected bytes are little-endian")


def test_an_attribute_is_padded_but_its_length_is_not():
    assert attribute(3, b"lo\0") == b"\x07\0\x03\0lo\0\0"
    assert nested(1, attribute(2, b"abcd")) == b"\x0c\0\x01\x80\x08\0\x02\0abcd"


def test_attributes_are_read_back_without_their_flags():
    assert parse_attributes(nested(1, attribute(2, b"x")) + attribute(3, b"y")) == {
        1: attribute(2, b"x"),
        3: b"y",
    }


@pytest.mark.parametrize("damaged", [b"\x03\0\x01\0", b"\xff\xff\x01\0abc", b"\0\0\0\0" * 4, b"\x08"])
def test_damaged_attributes_end_the_list(damaged):
    assert list(iterate_attributes(attribute(1, b"x") + damaged)) == [(1, b"x")]


def test_a_value_too_long_for_an_attribute_is_refused():
    with pytest.raises(ValueError, match="too long"):
        attribute(1, bytes(65536))


def test_the_kernel_s_explanation_is_found_after_a_capped_request():
    # struct nlmsgerr: error, header of the request; NLM_F_CAPPED | NLM_F_ACK_TLVS; NLMSGERR_ATTR_MSG is 1
    payload = struct.pack("=i", -errno.EINVAL) + bytes(16) + attribute(1, b"no such thing\0")
    assert decode_error(0x300, payload) == (errno.EINVAL, "no such thing")
    assert decode_error(0, struct.pack("=i", 0) + bytes(16)) == (0, "")


def test_a_whole_request_before_the_explanation_is_skipped():
    request = struct.pack("=IHHII", 21, 16, 0, 1, 0) + b"12345\0\0\0"
    payload = struct.pack("=i", -errno.EPERM) + request + attribute(1, b"why\0")
    assert decode_error(0x200, payload) == (errno.EPERM, "why")


def test_a_dump_may_end_with_an_error():
    assert decode_done(struct.pack("=i", -errno.EINTR)) == (errno.EINTR, "")
    assert decode_done(struct.pack("=i", 0)) == (0, "")


def test_an_error_names_operation_number_and_explanation():
    error = NetlinkError("add address 10.0.0.1/24", errno.EEXIST, "because")
    assert str(error) == "add address 10.0.0.1/24: File exists (because)"
    assert error.errno == errno.EEXIST


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", ".", "..", "a b", "a:1", "all", "default"])
def test_an_impossible_interface_name_is_refused_before_the_kernel_sees_it(name):
    with pytest.raises(Invalid, match="not a name for a network interface"):
        create_veth(name, PeerLink("eth0", 3), mtu=1500)


def test_a_link_request_starts_with_ifinfomsg():
    # struct ifinfomsg: family, pad, type, index, flags, change
    message = set_link(7, up=True)
    assert message.payload == struct.pack("=BBHiII", 0, 0, 0, 7, 1, 1)


def test_concatenated_fields_are_padded_to_registers():
    assert pack_fields(b"\x06", b"\x1f\x90") == bytes.fromhex("060000001f900000")
    assert Field.IPV4_ADDRESS == 7  # nft's datatype numbers, which `nft list` shows by name
