"""The name server's sockets inside a container's namespace, and the nftables table that leads port 53 to them.

A socket at 127.0.0.11:53 would keep a container's own DNS server from 0.0.0.0:53. Ours are at a port that nobody
asks for; queries to 127.0.0.11:53 are translated on their way out, and connection tracking translates the answers
back. While no engine serves, the translation leads to a closed port: a client hears at once that nobody is there.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from sampan.errors import Conflict
from sampan.linux import nftables_expressions as ex
from sampan.linux.netlink import NetlinkError
from sampan.linux.nftables import BaseHook, Batch, Family, Hook, NftablesSocket
from sampan.network.resolvconf import EMBEDDED

TABLE = "sampan_names"  # never the name of a host's table: those have a hyphen
PORT = 53

# Above the ports that the kernel gives out by default, and known for no service. The first one is tried first, so
# that an engine that was started again finds the flows that clients keep open translated to its port.
PORTS = range(65053, 65153)

_DSTNAT = -100
_BACKLOG = 16
_PROTOCOLS = (socket.IPPROTO_UDP, socket.IPPROTO_TCP)


def _chain(port: int) -> str:
    """Its name tells whether a table that was found leads to the right port."""
    return f"output-{port}"


def table(port: int, *, replace: bool) -> Batch:
    """Pure: the table that leads queries to this port; `replace`: in place of an earlier one, else it must be new."""
    batch = Batch(Family.IPV4)
    if replace:
        batch.delete_table(TABLE)
    batch.add_table(TABLE, exclusive=True)
    chain = _chain(port)
    batch.add_chain(TABLE, chain, BaseHook("nat", Hook.OUTPUT, _DSTNAT))
    first = ex.FIRST_REGISTER
    address, target = socket.inet_aton(EMBEDDED), port.to_bytes(2, "big")
    for protocol in _PROTOCOLS:
        batch.add_rule(
            TABLE,
            chain,
            ex.destination_in(EMBEDDED),
            ex.meta(ex.Meta.L4PROTO) + ex.compare(bytes([protocol])),
            ex.payload(ex.Base.TRANSPORT, 2, 2) + ex.compare(PORT.to_bytes(2, "big")),
            ex.immediate(address, first) + ex.immediate(target, first + 1),
            ex.destination_nat(Family.IPV4, first, first + 1),
        )
    return batch


def open_sockets() -> tuple[socket.socket, socket.socket]:
    """Bound UDP and listening TCP sockets of the calling thread's namespace, and the table that leads to them.

    Conflict when there is no free port.
    """
    port, datagrams, stream = _bind_first_free(iter(PORTS))
    try:
        stream.listen(_BACKLOG)
        lead_to(port)
    except BaseException:
        datagrams.close()
        stream.close()
        raise
    return datagrams, stream


def lead_to(port: int) -> None:
    """Make the calling thread's namespace have the table that leads to this port.

    Deletes nothing without need: after that, closing the socket waits for RCU, some 10 ms.
    """
    with NftablesSocket() as nftables:
        try:
            nftables.commit(table(port, replace=False))
        except NetlinkError as exc:
            if exc.errno != errno.EEXIST:
                raise
            if not _leads_to(nftables, port):
                nftables.commit(table(port, replace=True))


def _leads_to(nftables: NftablesSocket, port: int) -> bool:
    found = [rule.chain for rule in nftables.rules(Family.IPV4, TABLE)]
    return found == [_chain(port)] * len(_PROTOCOLS)


def _bind_first_free(ports: Iterator[int]) -> tuple[int, socket.socket, socket.socket]:
    for port in ports:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Connections of an earlier engine that linger don't count.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for one in (datagrams, stream):
                one.setblocking(False)
                one.bind((EMBEDDED, port))
        except BaseException as exc:
            datagrams.close()
            stream.close()
            if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
                continue
            raise
        return port, datagrams, stream
    raise Conflict(
        f"no port for the name server at {EMBEDDED} is free",
        hint=f"Something in the container has ports {PORTS.start} to {PORTS.stop - 1} of every address.",
    )
