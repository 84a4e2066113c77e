"""Host ports as bound sockets: a published port belongs to us as long as its socket is open.

Where NAT serves the port nothing ever arrives at the socket; it is there so that another program gets "address
already in use", and so that we notice when another program was first. Where the relay serves it, it listens.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from sampan.errors import Conflict, Denied, Internal, Invalid, Unsupported
from sampan.network.model import ANY_IPV4, ANY_IPV6, PortBinding
from sampan.network.relay_datagram import report_destination

EPHEMERAL = range(49153, 65536)
_BACKLOG = 4096
_NO_SCTP = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
_SCTP = 132  # IPPROTO_SCTP
_TYPES = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "sctp": (socket.SOCK_STREAM, _SCTP),
}


def validate(binding: PortBinding) -> None:
    """Invalid, in words that name the value, when a binding can never be made."""
    if binding.protocol not in ("tcp", "udp", "sctp"):
        raise Invalid(f"invalid proto: {binding.protocol}", hint="It is tcp, udp or sctp.")
    for port in (binding.host_port, binding.host_port_end):
        if not 0 <= port <= 65535:
            raise Invalid(f"invalid hostPort: {port}")
    if not 1 <= binding.container_port <= 65535:
        raise Invalid(f"invalid containerPort: {binding.container_port}")
    if binding.host_address:
        try:
            ip_address(binding.host_address)
        except ValueError as exc:
            raise Invalid(f"invalid IP address: {binding.host_address}") from exc


def is_ipv6(address: str) -> bool:
    return ":" in address


def host_addresses(binding: PortBinding, ipv6: bool) -> tuple[str, ...]:
    """The definite addresses of a request; `ipv6`: the host has it."""
    if binding.host_address:
        return (binding.host_address,)
    return (ANY_IPV4, ANY_IPV6) if ipv6 else (ANY_IPV4,)


def target(host_address: str, four: str, six: str) -> str:
    """Which of a container's addresses a definite binding leads to: that of its own family where there is one.

    "": to none. An IPv4 port is not led to a container that has IPv6 only, as with Docker.
    """
    return six or four if is_ipv6(host_address) else four


def by_target(bindings: Sequence[PortBinding], four: str, six: str) -> dict[str, tuple[PortBinding, ...]]:
    """Definite bindings of one container, by the address that they lead to."""
    found: dict[str, tuple[PortBinding, ...]] = {}
    for binding in bindings:
        address = target(binding.host_address, four, six)
        if address:
            found[address] = (*found.get(address, ()), binding)
    return found


def host_has_ipv6() -> bool:
    """Some interface of the calling thread's namespace has an IPv6 address."""
    try:
        with open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
            return bool(file.read(1))
    except FileNotFoundError:
        return False


def candidates(binding: PortBinding, start: int) -> Iterator[int]:
    """Host ports to try, in order; `start` is where the search for an ephemeral one begins."""
    if binding.host_port_end > binding.host_port:
        yield from range(binding.host_port, binding.host_port_end + 1)
    elif binding.host_port:
        yield binding.host_port
    else:
        size = len(EPHEMERAL)
        offset = (start - EPHEMERAL.start) % size
        yield from (EPHEMERAL.start + (offset + step) % size for step in range(size))


def bind(protocol: str, address: str, port: int, *, serve: bool) -> socket.socket | None:
    """The socket that holds the port; `serve`: a listening one for the relay.

    None for SCTP where the kernel has no sockets of it: then nobody else can take the port either.
    Raises Conflict when another program has the port, Invalid when the address is not the host's.
    """
    try:
        if serve:
            return _bound(protocol, address, port, listen=True)
        try:
            return _bound(protocol, address, port, listen=False)
        except OSError as exc:
            # Perhaps only closed connections linger; with SO_REUSEADDR they don't count. Then it
            # must listen, or others that use SO_REUSEADDR too could take the port beside us.
            if exc.errno != errno.EADDRINUSE or protocol == "udp":
                raise
            return _bound(protocol, address, port, listen=True)
    except OSError as exc:
        if protocol == "sctp" and exc.errno in _NO_SCTP:
            if serve:
                raise Unsupported(
                    "this kernel has no SCTP sockets, so an SCTP port can only be published by NAT",
                    hint="The host filters its input; --port-mode nat publishes past that filter.",
                ) from exc
            return None
        raise _explain(exc, protocol, address, port) from exc


def _bound(protocol: str, address: str, port: int, *, listen: bool) -> socket.socket:
    family = socket.AF_INET6 if is_ipv6(address) else socket.AF_INET
    found = socket.socket(family, *_TYPES[protocol])
    try:
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp" and listen:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if protocol == "udp" and listen:
            report_destination(found)
        found.bind((address, port))
        if protocol != "udp" and listen:
            found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    return found


def _explain(exc: OSError, protocol: str, address: str, port: int) -> Conflict | Denied | Invalid | Internal:
    where = f"[{address}]:{port}" if is_ipv6(address) else f"{address}:{port}"
    what = f"listen {protocol}{6 if is_ipv6(address) else 4} {where}: bind"
    if exc.errno == errno.EADDRINUSE:
        return Conflict(f"{what}: address already in use", hint="Another program on the host has this port.")
    if exc.errno == errno.EADDRNOTAVAIL:
        return Invalid(f"{what}: cannot assign requested address", hint="It is not an address of this host.")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return Denied(f"{what}: permission denied")
    return Internal(f"{what}: {os.strerror(exc.errno or errno.EIO).lower()}")


def already_allocated(binding: PortBinding) -> Conflict:
    address = f"[{binding.host_address}]" if is_ipv6(binding.host_address) else binding.host_address
    return Conflict(
        f"Bind for {address}:{binding.host_port} failed: port is already allocated",
        hint="Another container has published this port.",
    )


def overlap(one: PortBinding, other: PortBinding) -> bool:
    """Do two definite bindings want the same port of the same address?"""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    if is_ipv6(one.host_address) != is_ipv6(other.host_address):
        return False
    addresses = {one.host_address, other.host_address}
    return len(addresses) == 1 or bool(addresses & {ANY_IPV4, ANY_IPV6})
