"""The addresses that a person asks of a new network: are they right, and what is meant by them? Pure.

Docker's rules and words (its API's IPAM.Config): an entry has a subnet of one family, with a range, a gateway and
auxiliary addresses in it. An entry of a family that the network does not have is kept and shown, and means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network, ip_address, ip_network

from sampan.engine.config import IpamConfig
from sampan.engine.model import IpamPool
from sampan.errors import Conflict, Denied, Invalid
from sampan.network.pools import AddressPool, AnyAddress, AnyNetwork, overlap

_BLOCK = re.compile(r"[0-9a-fA-F:.]+/[0-9]{1,3}")
_LINK_LOCAL = IPv6Network("fe80::/64")
_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for of one family. `subnet` None: nothing, the network gets one by itself."""

    subnet: AnyNetwork | None = None
    ip_range: AnyNetwork | None = None
    gateway: AnyAddress | None = None
    aux: dict[str, AnyAddress] = field(default_factory=dict)


def check(config: Sequence[IpamPool], *, ipv6: bool) -> None:
    """Raises `Invalid` with everything that is wrong with these entries."""
    faults = [fault for entry in config for fault in _faults(entry, ipv6)]
    if faults:
        raise Invalid("invalid network config:\n" + joined(faults))


def joined(faults: Sequence[str]) -> str:
    """Several faults as Docker tells them; one alone has no mark."""
    return faults[0] if len(faults) == 1 else "\n".join(f"* {fault}" for fault in faults)


def wanted(config: Sequence[IpamPool], version: int, *, several: bool = False) -> Wanted:
    """Of entries that `check` found right, what is asked first of this family. `several`: the driver allows more than
    one subnet of a family (see `further`). Raises `Denied`, `Invalid`."""
    entries = _of_family(config, version)
    if len(entries) > 1 and not several:
        raise Denied("bridge driver doesn't support multiple subnets")
    return _wanted(entries[0]) if entries else Wanted()


def further(config: Sequence[IpamPool], version: int) -> list[Wanted]:
    """What is asked of this family beyond its first subnet. Raises `Invalid`."""
    return [_wanted(entry) for entry in _of_family(config, version)[1:]]


def _of_family(config: Sequence[IpamPool], version: int) -> list[IpamPool]:
    return [entry for entry in config if (6 if ":" in entry.subnet else 4) == version]


def _wanted(entry: IpamPool) -> Wanted:
    subnet = ip_network(entry.subnet)
    check_subnet6(subnet)
    return Wanted(
        subnet,
        ip_network(entry.ip_range) if entry.ip_range else None,
        ip_address(entry.gateway) if entry.gateway else None,
        {name: ip_address(text) for name, text in (entry.auxiliary_addresses or {}).items()},
    )


def choose_gateway(subnet: AnyNetwork, asked: Wanted, *, isolated: bool = False) -> AnyAddress | None:
    """The gateway: the one that was asked for, else the first free address of the range; None when `isolated`.

    Raises `Conflict` when it, or an auxiliary address, can not be had beside the others.
    """
    pool = AddressPool(subnet, ip_range=asked.ip_range)
    gateway = asked.gateway
    try:
        if gateway is not None:
            pool.reserve(gateway)
        elif not isolated:
            gateway = pool.allocate()
    except Conflict as error:
        told = asked.gateway or ""
        raise Conflict(f"failed to allocate gateway ({told}): {error.message}", hint=error.hint) from error
    for name, address in asked.aux.items():
        try:
            pool.reserve(address)
        except Conflict as error:
            words = f"failed to allocate secondary ip address ({name}:{address}): {error.message}"
            raise Conflict(words, hint=error.hint) from error
    return gateway


def check_subnet6(subnet: AnyNetwork) -> None:
    """Raises `Invalid` for IPv6 networks that no bridge can have. Docker names the bridge's address in them."""
    if not isinstance(subnet, IPv6Network):
        return
    first = f"{subnet.network_address + 1}/{subnet.prefixlen}"
    if subnet.subnet_of(_MAPPED):
        raise Invalid(
            f"'{first}' is not a valid IPv6 subnet", hint="IPv4 subnets are written as 10.5.0.0/24."
        )
    if subnet.is_multicast:
        raise Invalid(f"multicast subnet '{first}' is not allowed")
    if subnet != _LINK_LOCAL and overlap(subnet, _LINK_LOCAL):
        raise Invalid(f"'{first}' clashes with the Link-Local prefix '{_LINK_LOCAL}'")


def _faults(entry: IpamPool, ipv6: bool) -> Iterator[str]:
    subnet = _block(entry.subnet)
    if subnet is None:
        yield f"invalid subnet {entry.subnet}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not ipv6:
        return
    if _has_host_bits(entry.subnet, subnet):
        yield f"invalid subnet {entry.subnet}: it should be {subnet}"
    if entry.ip_range:
        yield from _range_faults(entry.ip_range, subnet)
    if entry.gateway and (fault := _address_fault(entry.gateway, subnet)):
        yield f"invalid gateway {entry.gateway}: {fault}"
    for name, text in (entry.auxiliary_addresses or {}).items():
        if fault := _address_fault(text, subnet):
            yield f"invalid auxiliary address {name}: {fault}"


def _range_faults(text: str, subnet: AnyNetwork) -> Iterator[str]:
    chosen = _block(text)
    if chosen is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if chosen.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
        return
    if chosen.prefixlen < subnet.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
    if _has_host_bits(text, chosen):
        yield f"invalid ip-range {text}: it should be {chosen}"
    if not overlap(chosen, subnet):
        yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"


def _address_fault(text: str, subnet: AnyNetwork) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    return "" if address in subnet else f"parent subnet {subnet} doesn't contain this address"


def _block(text: str) -> AnyNetwork | None:
    """A network in CIDR notation, host bits cleared; masks as dotted quads are none."""
    if not _BLOCK.fullmatch(text):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _has_host_bits(text: str, network: AnyNetwork) -> bool:
    return ip_address(text.partition("/")[0]) != network.network_address


def fixed_address_faults(asked: IpamConfig, fixed: Sequence[IpamPool], *, predefined: bool) -> list[str]:
    """What is wrong with the addresses asked for an endpoint. `fixed`: the subnets that a person gave the network."""
    texts = {4: asked.ipv4_address, 6: asked.ipv6_address}
    faults: list[str] = []
    if predefined and any(texts.values()):
        faults.append("user specified IP address is supported on user defined networks only")
    for version, text in texts.items():
        if text and not is_host_address(text, version):
            faults.append(f"invalid IPv{version} address: {text}")
    for version, text in texts.items():
        if text:
            faults += _outside(text, [one for one in fixed if (6 if ":" in one.subnet else 4) == version])
    return faults


def _outside(text: str, fixed: Sequence[IpamPool]) -> list[str]:
    if not fixed:
        return [
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        ]
    if any(not _address_fault(text, ip_network(one.subnet)) for one in fixed):
        return []
    return [f"no configured subnet or ip-range contain the IP address {text}"]


def is_host_address(text: str, version: int) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address.version == version and not address.is_unspecified and address not in _MAPPED
