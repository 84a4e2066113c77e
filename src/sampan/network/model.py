"""The values that travel between the engine and the network package. All are frozen."""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address

import msgspec

ANY_IPV4 = "0.0.0.0"  # a published port on every address of the host, as Docker writes it
ANY_IPV6 = "::"


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of a network with what lies in it; `gateway` "" and `ip_range` None as in `NetworkSpec`."""

    subnet: str
    gateway: str = ""
    ip_range: str | None = None


class NetworkSpec(msgspec.Struct, frozen=True):
    """A network as the engine has stored it.

    `driver` says which module of this package makes it: "bridge", "macvlan", "ipvlan" or "overlay". `bridge` is the
    name of the bridge device (at most 15 bytes; "" for drivers without one), `parent` the device of the host that
    macvlan and ipvlan stand on ("" for others). `mode` is the driver's ("bridge", "passthru", "l2", "l3_private").
    Subnets are in CIDR notation, a gateway is an address in its subnet (a bridge's own); "" where the network has no
    addresses of that family. `ip_range` and `ip_range6` are the parts of the subnets that automatic addresses come from
    (None: all of it), `aux` are addresses of either family that are never given out, `more` are further subnets of
    macvlan and ipvlan networks. `mtu` is in bytes, 0 the parent's. `interface_prefix` is what
    containers' interfaces are called ("" is "eth"), `host_binding` the host's address that ports are published on when
    nobody names one ("" is all), `inhibit_ipv4` leaves the bridge without its IPv4 address. Of an overlay
    network `vni` is the number in its VXLAN packets (else 0), and `secure` says that they are encrypted.
    `gateway_mode` and `gateway_mode6` are a bridge's, as Docker has them: "nat", "routed", "isolated" and so on.
    `host_access` False: its containers reach no service of the host. `host_ipv4`, `host_ipv6`: the source that their
    connections outwards get; "" is an address of the interface they leave by. `router` and `router6`: what
    containers' default routes lead to; "" is the gateway. `trusted`: interfaces of the host by which others reach
    published ports at the containers' own addresses.
    """

    id: str
    name: str
    bridge: str
    subnet: str
    gateway: str
    ip_range: str | None = None
    aux: tuple[str, ...] = ()
    internal: bool = False
    mtu: int = 1500
    masquerade: bool = True
    icc: bool = True
    driver: str = "bridge"
    subnet6: str = ""
    gateway6: str = ""
    ip_range6: str | None = None
    parent: str = ""
    mode: str = ""
    vni: int = 0
    secure: bool = False
    gateway_mode: str = "nat"
    gateway_mode6: str = "nat"
    interface_prefix: str = ""
    host_binding: str = ""
    inhibit_ipv4: bool = False
    host_access: bool = True
    host_ipv4: str = ""
    host_ipv6: str = ""
    more: tuple[Subnet, ...] = ()
    trusted: tuple[str, ...] = ()
    router: str = ""
    router6: str = ""

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """All of them, the first of each family first."""
        first = (
            Subnet(self.subnet, self.gateway, self.ip_range),
            Subnet(self.subnet6, self.gateway6, self.ip_range6),
        )
        return (*(one for one in first if one.subnet), *self.more)


class EndpointSpec(msgspec.Struct, frozen=True):
    """One container's place in one network.

    `address` has its prefix length ("172.17.0.2/16"), so has `address6`; "" where it has none of that family.
    `gateway` and `gateway6` None mean no default route through this endpoint (an internal network, or not the
    container's first one); "" that there would be one if the network had a gateway; the unspecified address that
    everything is reached on the link itself (ipvlan's l3). `driver` is the network's. `sysctls` are
    (path below /proc/sys, value) of the interface's own settings, `link_local` further addresses with prefix lengths.
    """

    id: str
    network_id: str
    address: str
    gateway: str | None = None
    interface: str = "eth0"
    mac: str = ""  # empty: derived from the address, 02:42:<address>
    driver: str = "bridge"
    address6: str = ""
    gateway6: str | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    link_local: tuple[str, ...] = ()

    @property
    def bare_addresses(self) -> tuple[str, ...]:
        """The addresses without prefix length, IPv4 first."""
        return tuple(text.partition("/")[0] for text in (self.address, self.address6) if text)


class Forward(msgspec.Struct, frozen=True):
    """A container of another host in an overlay network: its address there, and the host that has `mac`."""

    mac: str
    address: str
    at: str
    address6: str = ""


class HostPolicy(msgspec.Struct, frozen=True):
    """What may be done to the host. `rules`: nftables rules are written; without them nothing is translated, and no
    border between networks holds. `rules6`: so for IPv6. `forward`: the host is made to forward packets. `direct`:
    published ports are open at containers' own addresses too, to whoever has a way there."""

    rules: bool = True
    forward: bool = True
    rules6: bool = True
    direct: bool = False


class PortBinding(msgspec.Struct, frozen=True):
    """One published port.

    As a request: `host_address` "" means all of the host's addresses, IPv4 and IPv6; `host_port` 0 means any
    free port from the ephemeral range; `host_port_end` > `host_port` means the first free one of a range.
    As an answer of `publish` the address and the port are definite, and a request for all addresses
    has become two bindings (0.0.0.0 and ::) where the host has IPv6.
    """

    container_port: int
    protocol: str = "tcp"
    host_address: str = ""
    host_port: int = 0
    host_port_end: int = 0


class PublishMode(Enum):
    """How ports are published: by NAT in the kernel, or by a relay process that the host's firewall sees."""

    AUTO = "auto"
    NAT = "nat"
    RELAY = "relay"


class Member(msgspec.Struct, frozen=True):
    """A container in a network, as the name servers of the others know it.

    `names`: lower-case, without the last dot, also the forms with the network's name. `addresses`: of both families.
    `pointer`: the name that a reverse look-up of its addresses gives.
    """

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    pointer: str


class Outlook(msgspec.Struct, frozen=True):
    """What one container's name server answers from; containers with equal ones share answers.

    `networks`: ids; the first one that knows a name answers. `links`: names that this container alone has for others,
    (lower-case, name). `host_resolvers`: the host's resolvers may be asked, from the host's namespace. `servers`: other
    resolvers in their place ("address" or "address#port"), asked from the container's namespace, so that they are
    reached exactly if the container reaches them. `only_dotted`: names of one label are not asked of anybody
    (resolv.conf has `ndots`: the client appends its search domains).
    """

    networks: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    host_resolvers: bool = True
    servers: tuple[str, ...] | None = None
    only_dotted: bool = False


def dummy_parent(network_id: str) -> str:
    """The parent of a macvlan or ipvlan network that has none, as Docker calls it."""
    return f"dm-{network_id[:12]}"


def derived_mac(address: str) -> str:
    """Docker's MAC for an IPv4 address ("172.17.0.2" or "172.17.0.2/16"): 02:42 and its four bytes.

    For an IPv6 address, its last four bytes: unique in a network, as long as addresses are given out in order.
    """
    return "02:42:" + ip_address(address.partition("/")[0]).packed[-4:].hex(":")
