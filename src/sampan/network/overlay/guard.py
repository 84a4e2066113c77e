"""Who may send us VXLAN packets: a table of our own beside the one of the networks.

A VXLAN packet carries whatever frame its sender likes into a network. Of the packets for our networks' numbers, only
those of hosts in the cluster come through; for an encrypted network only those that arrived encrypted. Other programs'
VXLAN networks are none of our business: packets with other numbers pass by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address

from sampan.linux import nftables_expressions as ex
from sampan.linux.nftables import BaseHook, Batch, Family, Field, Hook, NftablesSocket
from sampan.network.model import NetworkSpec
from sampan.network.overlay.driver import port_of

_UDP = 17
_PRIORITY = -150  # before connection tracking is asked by others' filters, after defragmentation
_PEERS = {4: "peers4", 6: "peers6"}
_AF = {4: 2, 6: 10}
_FIELDS = {4: Field.IPV4_ADDRESS, 6: Field.IPV6_ADDRESS}


def table_name(instance: str) -> str:
    return f"sampan-{instance}-overlay"


class Guard:
    """The table of one engine. Not thread-safe."""

    def __init__(self, instance: str, nftables: NftablesSocket) -> None:
        self._table = table_name(instance)
        self._nftables = nftables
        self._networks: tuple[NetworkSpec, ...] = ()
        self._written: tuple[tuple[NetworkSpec, ...], frozenset[str]] = ((), frozenset())
        self.peers: frozenset[str] = frozenset()

    def write(self, networks: Iterable[NetworkSpec]) -> None:
        """Bring the table to these networks and `peers` in one transaction; without overlay networks there is none."""
        numbered = tuple(sorted((one for one in networks if one.vni), key=lambda one: one.id))
        if (numbered, self.peers) == self._written:
            return
        self._write(numbered)

    def mend(self) -> bool:
        """Write it again if somebody removed it; False when it is as it was."""
        networks, _ = self._written
        if not networks or self._nftables.table_handle(Family.INET, self._table) is not None:
            return False
        self._write(networks)
        return True

    def _write(self, networks: tuple[NetworkSpec, ...]) -> None:
        batch = Batch(Family.INET)
        batch.add_table(self._table)  # so that deleting does not fail when it is not there
        batch.delete_table(self._table)
        if networks:
            batch.add_table(self._table)
            _fill(batch, self._table, networks, self.peers)
        self._nftables.commit(batch)
        self._written = (networks, self.peers)


def _fill(batch: Batch, table: str, networks: Sequence[NetworkSpec], peers: Collection[str]) -> None:
    batch.add_chain(table, "input", BaseHook("filter", Hook.INPUT, _PRIORITY))
    addresses = [ip_address(peer) for peer in peers]
    for version, name in _PEERS.items():
        batch.add_set(table, name, (_FIELDS[version],))
        elements = [(one.packed, None) for one in addresses if one.version == version]
        if elements:
            batch.add_elements(table, name, elements)
    drop = ex.verdict(ex.Verdict.DROP)
    if any(network.secure for network in networks):
        batch.add_chain(table, "output", BaseHook("filter", Hook.OUTPUT, _PRIORITY))
    for network in networks:
        chain = f"vni-{network.vni}"
        batch.add_chain(table, chain)
        if network.secure:
            batch.add_rule(table, chain, ex.meta(ex.Meta.SECPATH) + ex.compare(b"\0"), drop)
        for version, name in _PEERS.items():
            offset, length = (12, 4) if version == 4 else (8, 16)
            source = ex.payload(ex.Base.NETWORK, offset, length)
            family = ex.meta(ex.Meta.NFPROTO) + ex.compare(bytes([_AF[version]]))
            batch.add_rule(table, chain, family, source, ex.lookup(name), ex.verdict(ex.Verdict.RETURN))
        batch.add_rule(table, chain, ex.counter(), drop)
        batch.add_rule(table, "input", _packets_of(network), ex.verdict(ex.Verdict.JUMP, chain))
        if network.secure:
            # A host whose keys are not known (yet): rather nothing than something in the clear.
            batch.add_rule(table, "output", _packets_of(network), ex.will_not_be_encrypted(), drop)


def _packets_of(network: NetworkSpec) -> bytes:
    """UDP's destination port, and the network's number behind its header (RFC 7348, section 5)."""
    match = ex.meta(ex.Meta.L4PROTO) + ex.compare(bytes([_UDP]))
    match += ex.payload(ex.Base.TRANSPORT, 2, 2) + ex.compare(port_of(network).to_bytes(2, "big"))
    return match + ex.payload(ex.Base.TRANSPORT, 12, 3) + ex.compare(network.vni.to_bytes(3, "big"))
