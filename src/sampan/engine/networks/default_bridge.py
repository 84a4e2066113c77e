"""The network "bridge": what the daemon's options say of it. Pure but for the address book."""

from __future__ import annotations

import logging
from ipaddress import ip_address, ip_interface, ip_network

from msgspec.structs import replace

from sampan.engine.model import IpamPool, NetworkRecord
from sampan.engine.networks import ipam, options
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.plan import Family, SubnetsInUse, chosen_pools, family, plan
from sampan.engine.networks.requests import Ipam, NetworkCreate
from sampan.engine.settings import Settings

log = logging.getLogger(__name__)


def make(book: AddressBook, settings: Settings, in_use: SubnetsInUse) -> NetworkRecord:
    """At the engine's first start. Raises `Invalid`, `Conflict`."""
    body = _body(settings)
    ipam.check(body.ipam.config or (), ipv6=body.enable_ipv6)
    return replace(plan(body, book, settings, in_use), ipam_options=None, predefined=True)


def revise(
    record: NetworkRecord, book: AddressBook, settings: Settings, in_use: SubnetsInUse, *, idle: bool
) -> NetworkRecord:
    """That of an earlier start, as the settings say now; the same object when they say nothing new.

    To be called before endpoints are adopted. What runs keeps what it has; unless nothing does (`idle`) so do the
    subnets, but for IPv6 as a whole. Raises `Invalid`, `Conflict`, `Denied`.
    """
    if record.spec is None:
        return record
    body = _body(settings)
    pools = body.ipam.config or ()
    ipam.check(pools, ipv6=body.enable_ipv6)
    if _asks_other_subnets(record, pools):
        if idle:
            return _renewed(record, body, book, settings, in_use)
        log.warning("the default bridge keeps its subnets while containers run on it")
    spec = replace(options.specific(record.spec, body, settings), bridge=record.spec.bridge)
    revised = replace(record, spec=spec, options={**body.options, options.BRIDGE_NAME: record.spec.bridge})
    if record.enable_ipv6 != settings.ipv6:
        revised = _with_ipv6(revised, body, book, in_use) if settings.ipv6 else _without_ipv6(revised, book)
    return record if revised == record else revised


def _asks_other_subnets(record: NetworkRecord, pools: tuple[IpamPool, ...]) -> bool:
    """Other than what was asked for at an earlier start, of the families that there are at both."""
    had = record.asked_pools
    before = record.ipam_config[: len(pools) if had is None else had]
    versions = {":" in pool.subnet for pool in (*before, *pools)} if record.enable_ipv6 else {False}
    return any(
        [pool for pool in before if (":" in pool.subnet) == six]
        != [p for p in pools if (":" in p.subnet) == six]
        for six in versions
    )


def _renewed(
    record: NetworkRecord, body: NetworkCreate, book: AddressBook, settings: Settings, in_use: SubnetsInUse
) -> NetworkRecord:
    if record.spec is None:
        return record
    book.close(record.spec)
    try:
        made = plan(body, book, settings, in_use, record.id)
    except BaseException:
        book.restore(record.spec)
        raise
    return replace(made, created=record.created, ipam_options=None, predefined=True)


def _with_ipv6(
    record: NetworkRecord, body: NetworkCreate, book: AddressBook, in_use: SubnetsInUse
) -> NetworkRecord:
    six = family(body, book, in_use, 6, [])
    asked = (*record.fixed_pools, *(pool for pool in body.ipam.config or () if ":" in pool.subnet))
    chosen = record.ipam_config[len(record.fixed_pools) :]
    revised = _replaced(record, book, six, (*asked, *chosen, *chosen_pools([six])))
    return replace(revised, asked_pools=len(asked), fixed_subnet=bool(asked))


def _without_ipv6(record: NetworkRecord, book: AddressBook) -> NetworkRecord:
    if record.spec is not None and record.spec.subnet6:
        book.return_subnet(ip_network(record.spec.subnet6))
    pools = tuple(pool for pool in record.ipam_config if ":" not in pool.subnet)
    asked = sum(":" not in pool.subnet for pool in record.fixed_pools)
    return replace(_replaced(record, book, Family(), pools), asked_pools=asked, fixed_subnet=bool(asked))


def _replaced(
    record: NetworkRecord, book: AddressBook, six: Family, pools: tuple[IpamPool, ...]
) -> NetworkRecord:
    if record.spec is None:
        return record
    spec = replace(
        record.spec,
        subnet6=str(six.subnet or ""),
        gateway6=str(six.gateway or ""),
        ip_range6=six.ip_range,
        router6=six.router,
    )
    book.open(spec)
    return replace(record, spec=spec, enable_ipv6=bool(spec.subnet6), ipam_config=pools)


def _body(settings: Settings) -> NetworkCreate:
    pools = _pool(settings.default_subnet, settings.fixed_cidr, settings.default_gateway)
    if settings.ipv6:
        pools += _pool(settings.default_subnet6, settings.fixed_cidr6, settings.default_gateway6)
    return NetworkCreate(
        "bridge",
        enable_ipv6=settings.ipv6,
        ipam=Ipam(config=tuple(pools)),
        options={
            options.DEFAULT_BRIDGE: "true",
            options.ICC: str(settings.icc).lower(),
            options.MASQUERADE: str(settings.masquerade).lower(),
            options.HOST_BINDING: settings.host_binding,
            options.BRIDGE_NAME: settings.instance,
            options.MTU: str(settings.mtu),
        },
    )


def _pool(own: str | None, part: str | None, router: str) -> list[IpamPool]:
    """From --bip, the bridge's address in its subnet, and --fixed-cidr, the part for containers; or that alone.

    As with Docker --default-gateway counts only where one of them says what the subnet is.
    """
    aux = {f"DefaultGatewayIPv{ip_address(router).version}": router} if router else None
    if not own:
        return [IpamPool(part, ip_range=part, auxiliary_addresses=aux)] if part else []
    interface = ip_interface(own)
    network = interface.network
    gateway = interface.ip if interface.ip != network.network_address else network.network_address + 1
    return [IpamPool(str(network), ip_range=part or "", gateway=str(gateway), auxiliary_addresses=aux)]
