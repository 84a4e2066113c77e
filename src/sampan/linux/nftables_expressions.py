"""Expressions of nf_tables rules (include/uapi/linux/netfilter/nf_tables.h), as bytes for the kernel.

An expression loads data into registers, compares registers, or ends in a verdict. Registers are 4 bytes
each; a concatenated key is a run of registers, every field padded to 4 bytes. Numbers in attributes are in
network order; what `meta`, `ct` and `fib` load is in the host's order.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum

from sampan.linux.netlink import attribute, nested, text

FIRST_REGISTER = 8  # NFT_REG32_00: the first of the sixteen 4-byte registers
_VERDICT_REGISTER = 0

_DATA_VALUE, _DATA_VERDICT = 1, 2
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_LIST_ELEMENT = 1
_IFNAMSIZ = 16

CT_ESTABLISHED, CT_RELATED, CT_NEW = 2, 4, 8  # bits of the connection's state
IPS_DST_NAT = 1 << 5  # bit of its status: the destination was translated
ADDRESS_TYPE_UNICAST, ADDRESS_TYPE_LOCAL = 1, 2  # RTN_UNICAST, RTN_LOCAL


class Verdict(IntEnum):
    DROP = 0
    ACCEPT = 1
    CONTINUE = -1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Meta(IntEnum):
    PROTOCOL = 1
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    NFPROTO = 15
    L4PROTO = 16
    SECPATH = 25
    """One byte: whether the packet came through an IPsec transformation."""


class Base(IntEnum):
    """What the offset of a payload expression counts from."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


class Ct(IntEnum):
    STATE = 0
    STATUS = 2


class Compare(IntEnum):
    EQUAL = 0
    NOT_EQUAL = 1


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def data(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(_DATA_VALUE, value))


def verdict_data(kind: int, code: Verdict, chain: str = "") -> bytes:
    parts = [attribute(1, struct.pack("!i", code))]
    if chain:
        parts.append(text(2, chain))
    return nested(kind, nested(_DATA_VERDICT, *parts))


def expression(name: str, *attributes: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *attributes))


def meta(key: Meta, register: int = FIRST_REGISTER) -> bytes:
    return expression("meta", u32(1, register), u32(2, key))


def payload(base: Base, offset: int, length: int, register: int = FIRST_REGISTER) -> bytes:
    return expression("payload", u32(1, register), u32(2, base), u32(3, offset), u32(4, length))


def ct(key: Ct, register: int = FIRST_REGISTER) -> bytes:
    return expression("ct", u32(1, register), u32(2, key))


def fib_destination_type(register: int = FIRST_REGISTER) -> bytes:
    """Load what kind of address the packet's destination is, by the routing tables."""
    address_type, by_destination = 3, 2
    return expression("fib", u32(1, register), u32(2, address_type), u32(3, by_destination))


def will_not_be_encrypted() -> bytes:
    """On the way out: no IPsec transformation waits for the packet."""
    key_xfrm = 4  # NFT_RT_XFRM
    return expression("rt", u32(1, FIRST_REGISTER), u32(2, key_xfrm)) + compare(b"\0")


def no_way_back() -> bytes:
    """No route leads to the packet's source by the interface that it came from (`fib saddr . iif oif missing`)."""
    output_interface, by_source, by_input, only_whether = 1, 1, 8, 32
    flags = by_source | by_input | only_whether
    load = expression("fib", u32(1, FIRST_REGISTER), u32(2, output_interface), u32(3, flags))
    return load + compare(bytes(4))


def compare(value: bytes, operator: Compare = Compare.EQUAL, register: int = FIRST_REGISTER) -> bytes:
    return expression("cmp", u32(1, register), u32(2, operator), data(3, value))


def mask(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """Keep only these bits of a register."""
    zero = bytes(len(value))
    return expression(
        "bitwise", u32(1, register), u32(2, register), u32(3, len(value)), data(4, value), data(5, zero)
    )


def lookup(
    name: str, register: int = FIRST_REGISTER, result: int | None = None, *, inverted: bool = False
) -> bytes:
    """Look the key in a set; the rule ends when it is not there. `result`: register for a map's value."""
    parts = [text(1, name), u32(2, register)]
    if result is not None:
        parts.append(u32(3, result))
    if inverted:
        parts.append(u32(5, 1))
    return expression("lookup", *parts)


def lookup_verdict(name: str, register: int = FIRST_REGISTER) -> bytes:
    return lookup(name, register, _VERDICT_REGISTER)


def immediate(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    return expression("immediate", u32(1, register), data(2, value))


def verdict(code: Verdict, chain: str = "") -> bytes:
    return expression("immediate", u32(1, _VERDICT_REGISTER), verdict_data(2, code, chain))


def destination_nat(family: int, address: int = FIRST_REGISTER, port: int | None = None) -> bytes:
    """Translate the destination to the address, and the port, in these registers (AF_INET or AF_INET6)."""
    parts = [u32(1, 1), u32(2, family), u32(3, address)]
    if port is not None:
        parts.append(u32(5, port))
    return expression("nat", *parts)


def source_nat(family: int, address: bytes) -> bytes:
    """Translate the source to this address, in network order."""
    first = FIRST_REGISTER
    return immediate(address, first) + expression("nat", u32(1, 0), u32(2, family), u32(3, first))


def masquerade() -> bytes:
    return expression("masq")


def counter() -> bytes:
    return expression("counter")


# Matches: the usual pairs of a load and a comparison.


def interface_value(name: str) -> bytes:
    return name.encode().ljust(_IFNAMSIZ, b"\0")


def input_is(name: str) -> bytes:
    return meta(Meta.IIFNAME) + compare(interface_value(name))


def input_is_not(name: str) -> bytes:
    return meta(Meta.IIFNAME) + compare(interface_value(name), Compare.NOT_EQUAL)


def output_is(name: str) -> bytes:
    return meta(Meta.OIFNAME) + compare(interface_value(name))


def output_is_not(name: str) -> bytes:
    return meta(Meta.OIFNAME) + compare(interface_value(name), Compare.NOT_EQUAL)


def family_is(family: int) -> bytes:
    """In a table of family inet: the packet is of this family (AF_INET or AF_INET6)."""
    return meta(Meta.NFPROTO) + compare(bytes([family]))


def _address_in(network: str, offset4: int, offset6: int, operator: Compare = Compare.EQUAL) -> bytes:
    """A prefix of whole bytes is compared as it is; else the bits that do not count are masked out."""
    address, _, length = network.partition("/")
    family, offset = (socket.AF_INET6, offset6) if ":" in address else (socket.AF_INET, offset4)
    packed = socket.inet_pton(family, address)
    prefix = int(length or len(packed) * 8)
    whole, rest = divmod(prefix, 8)
    if not rest:
        return payload(Base.NETWORK, offset, whole) + compare(packed[:whole], operator) if whole else b""
    bits = bytes([0xFF] * whole + [0xFF00 >> rest & 0xFF]).ljust(len(packed), b"\0")
    return payload(Base.NETWORK, offset, len(packed)) + mask(bits) + compare(packed, operator)


def source_in(network: str) -> bytes:
    """The source is in this network (CIDR, without host bits). In a table of family inet, after `family_is`."""
    return _address_in(network, 12, 8)


def destination_in(network: str) -> bytes:
    return _address_in(network, 16, 24)


def destination_not_in(network: str) -> bytes:
    """Not a network of all addresses, which everything is in."""
    return _address_in(network, 16, 24, Compare.NOT_EQUAL)


def destination_is_not_unicast() -> bytes:
    """It is an address of the host's own, or one of broadcast or multicast."""
    return fib_destination_type() + compare(struct.pack("=I", ADDRESS_TYPE_UNICAST), Compare.NOT_EQUAL)


def destination_is_local() -> bytes:
    return fib_destination_type() + compare(struct.pack("=I", ADDRESS_TYPE_LOCAL))


def state_has(bits: int) -> bytes:
    """The connection's state is one of these bits."""
    return _has(Ct.STATE, bits)


def status_has(bits: int) -> bytes:
    return _has(Ct.STATUS, bits)


def status_has_not(bits: int) -> bytes:
    return _has(Ct.STATUS, bits, Compare.EQUAL)


def _has(key: Ct, bits: int, operator: Compare = Compare.NOT_EQUAL) -> bytes:
    return ct(key) + mask(struct.pack("=I", bits)) + compare(bytes(4), operator)
