"""Records of the cluster's networks: made, learned and forgotten. `Cluster` does the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol

from sampan.engine.model import NetworkRecord, new_id, now
from sampan.engine.networks import ipam
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.cluster import Cluster
from sampan.engine.networks.overlay import check_encryption, container_mtu, is_secure
from sampan.engine.networks.requests import NetworkCreate
from sampan.errors import Invalid, SampanError
from sampan.network.overlay import schema
from sampan.network.overlay.allocation import choose_subnet
from sampan.network.overlay.places import WITHOUT_IPV4, Places
from sampan.network.overlay.schema import Network
from sampan.network.pools import AnyNetwork

log = logging.getLogger(__name__)


class Records(Protocol):
    """What `Networks` lets us do with its records."""

    def get(self, network_id: str) -> NetworkRecord | None: ...

    def removing(self, network_id: str) -> bool: ...

    async def store(self, record: NetworkRecord) -> None: ...

    async def forget(self, record: NetworkRecord) -> None: ...

    def announce(self, record: NetworkRecord, action: str) -> None: ...


def plan_shared(
    body: NetworkCreate,
    others: Sequence[IPv4Network],
    in_use: Sequence[AnyNetwork],
    underlay: tuple[int, int],
) -> Network:
    """A network of the cluster as it is asked for; its number is given later. Pure but for its id.

    `others`: subnets of the cluster's networks; `in_use`: of this host; `underlay`: MTU of the hosts' network, and the
    version of their addresses. Raises `Invalid`, `Conflict`.
    """
    asked = ipam.wanted(body.ipam.config or (), 4) if body.enable_ipv4 else ipam.Wanted()
    asked6 = ipam.wanted(body.ipam.config or (), 6) if body.enable_ipv6 else ipam.Wanted()
    network_id = new_id()
    subnet: AnyNetwork = IPv4Network(WITHOUT_IPV4)
    if body.enable_ipv4:
        subnet = asked.subnet if asked.subnet is not None else choose_subnet([*others, *_ipv4(in_use)])
        schema.check_subnet(str(subnet))
    subnet6 = _subnet6(asked6, network_id) if body.enable_ipv6 else ""
    gateway = str(ipam.choose_gateway(subnet, asked))
    _check_gateway6(asked6, Places(str(subnet), subnet6), gateway)
    secure = is_secure(body.options)
    mtu, version = underlay
    mtu = container_mtu(body.options, mtu, version, secure=secure)
    if subnet6 and mtu < schema.LEAST_MTU6:
        raise Invalid(f"invalid MTU {mtu}: a network with IPv6 needs at least {schema.LEAST_MTU6}")
    return Network(
        network_id,
        body.name,
        now(),
        0,
        str(subnet),
        gateway,
        ip_range=str(asked.ip_range or ""),
        aux={name: str(address) for name, address in asked.aux.items()},
        internal=body.internal,
        attachable=body.attachable,
        secure=secure,
        mtu=mtu,
        options=dict(body.options),
        labels=dict(body.labels),
        fixed_subnet=asked.subnet is not None,
        subnet6=subnet6,
        ipv4=body.enable_ipv4,
        fixed_subnet6=asked6.subnet is not None,
    )


def _check_gateway6(asked: ipam.Wanted, places: Places, gateway: str) -> None:
    """Raises `Invalid` for what a person asks and can not have."""
    wanted = str(asked.gateway or "")
    if asked.ip_range is not None or asked.aux or (wanted and wanted != places.address6(gateway)):
        raise Invalid(
            "IPv6 addresses of an overlay network follow the IPv4 ones",
            hint=f"its gateway is {places.address6(gateway)}; a range and auxiliary addresses are those of IPv4",
        )


def _subnet6(asked: ipam.Wanted, network_id: str) -> str:
    """The one that was asked for, else a unique-local one (RFC 4193) by the network's id. Raises `Invalid`."""
    if asked.subnet is not None:
        return str(schema.check_subnet6(str(asked.subnet)))
    return str(IPv6Network((0xFD << 120 | int(network_id[:14], 16) << 64, 64)))


def _ipv4(networks: Sequence[AnyNetwork]) -> list[IPv4Network]:
    return [network for network in networks if isinstance(network, IPv4Network)]


class SharedNetworks:
    """Used from the event loop's thread."""

    def __init__(self, cluster: Cluster, records: Records, book: AddressBook) -> None:
        self.cluster = cluster
        self._records = records
        self._book = book
        self._learning = asyncio.Lock()
        cluster.learn = self.learn
        cluster.forget = self.unlearn

    async def create(self, body: NetworkCreate, in_use: Sequence[AnyNetwork]) -> NetworkRecord:
        """See `allocation.create_network`. Raises `Unsupported` for an encrypted one that this host can't have."""
        if is_secure(body.options):
            await asyncio.to_thread(check_encryption, body.name)

        def plan(others: Sequence[IPv4Network]) -> Network:
            network = plan_shared(body, others, in_use, self.cluster.underlay)
            for text in (network.subnet if network.ipv4 else "", network.subnet6):
                if text:
                    subnet = ip_network(text)
                    self._book.take_subnet(subnet, ())  # is it free here?
                    self._book.return_subnet(subnet)
            return network

        record = await self.cluster.create(plan)
        await self.learn(record)
        return record

    async def learn(self, record: NetworkRecord) -> None:
        """A network of the cluster that this engine has no record of."""
        async with self._learning:
            if self._records.get(record.id) is not None or record.spec is None:
                return
            try:
                self._book.restore(record.spec)
            except SampanError as error:
                # The record is kept all the same: people see it, and what is wrong is said when they use it.
                why = error.hint or error.message
                log.warning("network %s of the cluster can not be used here: %s", record.name, why)
            await self._records.store(record)
            self._records.announce(record, "create")

    async def unlearn(self, record: NetworkRecord) -> None:
        """A network that is no longer in the cluster; one that is being removed here goes by that."""
        if self._records.removing(record.id) or self._records.get(record.id) is None:
            return
        await self._records.forget(record)
        self._records.announce(record, "destroy")
