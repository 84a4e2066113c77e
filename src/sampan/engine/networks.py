"""Networks: records, subnets and addresses. The only writer of the network records.

What containers have of a network (their endpoints) is in the container records; here is who may have which
address. Bridges and rules in the kernel are made through `NetworkHost`.
"""

from __future__ import annotations

import asyncio
import builtins
import re
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import msgspec
from msgspec.structs import replace

from sampan.engine.config import Docker, EndpointSettings, encode
from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters, label_matches, parse_time
from sampan.engine.model import ContainerRecord, Endpoint, IpamPool, NetworkRecord, epoch_ns, new_id, now
from sampan.engine.settings import Settings
from sampan.engine.volumes import Store
from sampan.errors import Conflict, Denied, Invalid, NotFound
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac
from sampan.network.pools import DEFAULT_POOLS, AddressPool, SubnetPool, default_gateway, parse_subnet
from sampan.storage.metadata import Table

Json = dict[str, Any]
Member = tuple[ContainerRecord, Endpoint]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_PREDEFINED = ("bridge", "host", "none")
_LIST_FILTERS = ("driver", "id", "label", "label!", "name", "scope", "type", "dangling")
_PRUNE_FILTERS = ("label", "label!", "until")
_PREFIX = "com.docker.network."
BRIDGE_NAME = _PREFIX + "bridge.name"
_ICC = _PREFIX + "bridge.enable_icc"
_MASQUERADE = _PREFIX + "bridge.enable_ip_masquerade"
_MTU = _PREFIX + "driver.mtu"


_SETTLE_SECONDS = 10.0
"""How long the removal of a network waits for containers that are starting or ending in it."""


class Ipam(Docker, frozen=True):
    """The member IPAM of a network."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: tuple[IpamPool, ...] | None = None


class NetworkCreate(Docker, frozen=True):
    """Body of POST /networks/create."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    ipam: Ipam = msgspec.field(default_factory=Ipam, name="IPAM")
    options: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Networks:
    """Used from the event loop's thread. `members` tells the containers of a network; set when wired."""

    def __init__(self, settings: Settings, metadata: Store, host: NetworkHost, events: EventBus) -> None:
        self._settings = settings
        self._metadata = metadata
        self._host = host
        self._events = events
        self.members: Callable[[str], Sequence[Member]] = lambda _network_id: ()
        pools = [(parse_subnet(base), prefix) for base, prefix in settings.address_pools]
        self._subnets = SubnetPool(pools or DEFAULT_POOLS)
        self._addresses: dict[str, AddressPool] = {}
        self._records: dict[str, NetworkRecord] = {}
        self._busy_names: set[str] = set()
        self._endpoints: dict[str, set[str]] = {}
        """Ids of the endpoints that hold an address, by network: from before a start until after the end."""
        self._removing: set[str] = set()
        for key, body in metadata.items(Table.NETWORKS):
            record = msgspec.json.decode(body, type=NetworkRecord)
            self._records[key] = record
            if record.spec is not None:
                self._subnets.reserve(IPv4Network(record.spec.subnet))
                self._addresses[key] = _address_pool(record.spec)

    async def setup(self) -> None:
        """Make the predefined networks at the first start, and the bridges after every start."""
        names = {record.name for record in self._records.values()}
        await asyncio.to_thread(self._host.setup)
        for name, driver in (("none", "null"), ("host", "host")):
            if name not in names:
                record = NetworkRecord(new_id(), name, now(), driver, predefined=True)
                await self._store(record)
        if "bridge" not in names:
            await self._store(await self._default_bridge())
        for record in tuple(self._records.values()):
            if record.spec is not None:
                await asyncio.to_thread(self._host.ensure, record.spec)

    async def _default_bridge(self) -> NetworkRecord:
        settings = self._settings
        if settings.default_subnet:
            interface = IPv4Interface(settings.default_subnet)
            subnet = interface.network
            gateway = interface.ip
            if gateway == subnet.network_address:
                gateway = default_gateway(subnet)
            self._subnets.reserve(subnet)
        else:
            subnet = self._subnets.allocate(await asyncio.to_thread(self._host.subnets_in_use))
            gateway = default_gateway(subnet)
        network_id = new_id()
        spec = NetworkSpec(
            network_id, "bridge", settings.instance, str(subnet), str(gateway), mtu=settings.mtu
        )
        self._addresses[network_id] = _address_pool(spec)
        return NetworkRecord(
            network_id,
            "bridge",
            now(),
            "bridge",
            spec,
            options={
                _PREFIX + "bridge.default_bridge": "true",
                _ICC: "true",
                _MASQUERADE: "true",
                _PREFIX + "bridge.host_binding_ipv4": "0.0.0.0",
                BRIDGE_NAME: settings.instance,
                _MTU: str(settings.mtu),
            },
            ipam_config=(IpamPool(str(subnet), gateway=str(gateway)),),
            predefined=True,
        )

    async def _store(self, record: NetworkRecord) -> None:
        body = msgspec.json.encode(record)
        await asyncio.to_thread(self._metadata.put, Table.NETWORKS, record.id, body)
        self._records[record.id] = record

    # Look-up

    def find(self, name: str) -> NetworkRecord:
        """By name, id or a prefix of an id that only one network has. Raises `NotFound`, `Invalid`."""
        if name == "default":
            name = "bridge"
        by_id = self._records.get(name)
        if by_id is not None:
            return by_id
        for record in self._records.values():
            if record.name == name:
                return record
        found = [record for key, record in self._records.items() if name and key.startswith(name)]
        if len(found) > 1:
            raise Invalid(f"network {name} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {name} not found")
        return found[0]

    def get(self, network_id: str) -> NetworkRecord | None:
        return self._records.get(network_id)

    def specs(self) -> tuple[NetworkSpec, ...]:
        """The bridge networks, for `NetworkHost.reconcile`."""
        return tuple(record.spec for record in self._records.values() if record.spec is not None)

    @property
    def default_gateway(self) -> str:
        """The host's address on the default bridge (what `host-gateway` stands for)."""
        spec = self.find("bridge").spec
        return spec.gateway if spec is not None else "127.0.0.1"

    # API

    async def create(self, body: NetworkCreate) -> tuple[str, str]:
        """(id, warning). Raises `Invalid`, `Conflict`, `Denied`, `NotFound` in Docker's words."""
        self._check_create(body)
        self._busy_names.add(body.name)
        try:
            record = await self._plan(body)
            bridge = record.spec
            if bridge is not None:
                try:
                    # The record first: a bridge without a record would be nobody's; a record without a bridge
                    # gets it at the next start of the engine.
                    await self._store(record)
                    await asyncio.to_thread(self._host.ensure, bridge)
                except BaseException:
                    await self._forget(record)
                    raise
        finally:
            self._busy_names.discard(body.name)
        self._events.publish("network", "create", record.id, {"name": record.name, "type": record.driver})
        return record.id, ""

    def _check_create(self, body: NetworkCreate) -> None:
        name = body.name
        if not name.strip():
            raise Invalid("invalid network name: name is empty")
        if name in (*_PREDEFINED, "default") or name.startswith("container:"):
            raise Denied(f"operation is not permitted on predefined {name} network ")
        if not _NAME.fullmatch(name):
            raise Invalid(f"invalid network name: {name}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if name in self._busy_names or any(record.name == name for record in self._records.values()):
            raise Conflict(f"network with name {name} already exists")
        if body.driver not in ("", "bridge"):
            if body.driver in ("host", "null"):
                raise Denied(f'only one instance of "{body.driver}" network is allowed')
            raise NotFound(
                f'could not find plugin {body.driver} in v1 plugin registry: plugin "{body.driver}" not found'
            )
        if body.config_only or body.ingress or body.scope == "swarm":
            raise Invalid("swarm and config-only networks are not supported")
        if body.ipam.driver not in ("", "default"):
            raise NotFound(f'could not find plugin {body.ipam.driver}: plugin "{body.ipam.driver}" not found')
        if len([pool for pool in body.ipam.config or () if ":" not in pool.subnet]) > 1:
            raise Invalid("bridge driver doesn't support multiple IPv4 subnets")

    async def _plan(self, body: NetworkCreate) -> NetworkRecord:
        asked = next((pool for pool in body.ipam.config or () if ":" not in pool.subnet), IpamPool())
        subnet, ip_range, gateway, aux = parse_pool(asked)
        if subnet is None:
            subnet = self._subnets.allocate(await asyncio.to_thread(self._host.subnets_in_use))
        else:
            self._subnets.reserve(subnet)
        try:
            gateway = gateway or default_gateway(subnet, ip_range)
            network_id = new_id()
            spec = NetworkSpec(
                network_id,
                body.name,
                body.options.get(BRIDGE_NAME) or f"br-{network_id[:12]}",
                str(subnet),
                str(gateway),
                ip_range=str(ip_range) if ip_range else None,
                aux=tuple(aux.values()),
                internal=body.internal,
                mtu=_mtu(body.options.get(_MTU), self._settings.mtu),
                masquerade=_flag(body.options, _MASQUERADE),
                icc=_flag(body.options, _ICC),
            )
            if len(spec.bridge.encode()) > 15 or "/" in spec.bridge:
                raise Invalid(f"invalid bridge name {spec.bridge}: at most 15 bytes, no slash")
            self._addresses[network_id] = _address_pool(spec)
        except BaseException:
            self._subnets.release(subnet)
            raise
        # As Docker: a gateway that was chosen for a given subnet is not shown.
        shown = replace(asked, subnet=str(subnet), gateway=asked.gateway if asked.subnet else str(gateway))
        return NetworkRecord(
            network_id,
            body.name,
            now(),
            "bridge",
            spec,
            internal=body.internal,
            attachable=body.attachable,
            enable_ipv6=body.enable_ipv6,
            options=dict(body.options),
            labels=dict(body.labels),
            ipam_options=body.ipam.options or {},
            ipam_config=(shown,),
            fixed_subnet=bool(asked.subnet),
        )

    async def remove(self, name: str) -> None:
        """Raises `NotFound`, `Denied` (predefined), `Conflict`-like `Denied` while containers run in it."""
        record = self.find(name)
        if record.predefined:
            raise Denied(f"{record.name} is a pre-defined network and cannot be removed")
        await self._settle(record)
        if record.id in self._removing or record.id not in self._records:
            raise NotFound(f"network {name} not found")
        active = [(container, endpoint) for container, endpoint in self.members(record.id) if endpoint.spec]
        if active:
            users = ", ".join(f'name:"{container.name}" id:"{container.id[:12]}"' for container, _ in active)
            raise Denied(
                f"error while removing network: network {record.name} has active endpoints ({users})"
            )
        self._removing.add(record.id)
        try:
            await self._forget(record)
        finally:
            self._removing.discard(record.id)
        self._events.publish("network", "destroy", record.id, {"name": record.name, "type": record.driver})

    async def _settle(self, record: NetworkRecord) -> None:
        """Wait until every endpoint is a running container's or gone: others are starting or ending just now."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end:
            known = {endpoint.spec.id for _, endpoint in self.members(record.id) if endpoint.spec}
            if self._endpoints.get(record.id, set()) <= known:
                return
            await asyncio.sleep(0.01)

    async def _forget(self, record: NetworkRecord) -> None:
        # Reverse order of creation: the kernel's side first, the record last.
        if record.spec is not None:
            await asyncio.to_thread(self._host.remove, record.spec)
            self._subnets.release(IPv4Network(record.spec.subnet))
        await asyncio.to_thread(self._metadata.delete, Table.NETWORKS, record.id)
        self._addresses.pop(record.id, None)
        self._endpoints.pop(record.id, None)
        self._records.pop(record.id, None)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> Json:
        check_filters(filters, _PRUNE_FILTERS)
        until = [parse_time(text) for text in filters.get("until", ())]
        removed = []
        for record in tuple(self._records.values()):
            if record.predefined or not label_matches(record.labels, filters) or self.members(record.id):
                continue
            if until and epoch_ns(record.created) > min(until):
                continue
            await self.remove(record.id)
            removed.append(record.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": removed}

    def list(self, filters: Mapping[str, Sequence[str]]) -> builtins.list[Json]:
        check_filters(filters, _LIST_FILTERS)
        return [self._json(record) for record in self._records.values() if self._matches(record, filters)]

    def inspect(self, name: str) -> Json:
        record = self.find(name)
        members = {
            container.id: _member_json(container, endpoint.spec)
            for container, endpoint in self.members(record.id)
            if endpoint.spec is not None
        }
        return {**self._json(record), "Containers": members}

    def _matches(self, record: NetworkRecord, filters: Mapping[str, Sequence[str]]) -> bool:
        checks: dict[str, Callable[[str], bool]] = {
            "driver": lambda value: record.driver == value,
            "id": record.id.startswith,
            "name": lambda value: value in record.name,
            "scope": lambda value: value == "local",
            "type": lambda value: _type_matches(record, value),
            "dangling": lambda value: self._dangling(record) == _boolean("dangling", value),
        }
        for name, check in checks.items():
            values = filters.get(name, ())
            if values and not any(check(value) for value in values):
                return False
        return label_matches(record.labels, filters)

    def _dangling(self, record: NetworkRecord) -> bool:
        return not record.predefined and not self.members(record.id)

    def _json(self, record: NetworkRecord) -> Json:
        return {
            "Name": record.name,
            "Id": record.id,
            "Created": record.created,
            "Scope": "local",
            "Driver": record.driver,
            "EnableIPv4": True,
            "EnableIPv6": record.enable_ipv6,
            "IPAM": {
                "Driver": record.ipam_driver,
                "Options": record.ipam_options,
                "Config": [_pool_json(pool) for pool in record.ipam_config],
            },
            "Internal": record.internal,
            "Attachable": record.attachable,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": {},
            "Options": record.options,
            "Labels": record.labels,
        }

    # Addresses, for the containers

    def check_endpoint(self, record: NetworkRecord, asked: EndpointSettings) -> None:
        """What a person asks of an endpoint. Raises `Invalid` in Docker's words."""
        fixed = asked.ipam_config.ipv4_address if asked.ipam_config else ""
        if fixed:
            if record.predefined:
                raise Invalid("user specified IP address is supported on user defined networks only")
            if not record.fixed_subnet:
                raise Invalid(
                    "user specified IP address is supported only when connecting to networks with user "
                    "configured subnets"
                )
            _parse_address(fixed)
        if asked.aliases and record.predefined:
            raise Invalid("network-scoped alias is supported only for containers in user defined networks")
        if asked.mac_address and not _MAC.fullmatch(asked.mac_address):
            raise Invalid(f"invalid MAC address: {asked.mac_address}")

    def allocate(
        self, record: NetworkRecord, asked: EndpointSettings, *, interface: str, default_route: bool
    ) -> EndpointSpec | None:
        """An endpoint with an address that is its own until `release`; None in networks without a bridge.

        Raises `NotFound` when the network is being removed, `Conflict` when an address can't be had.
        """
        if record.id in self._removing or record.id not in self._records:
            raise NotFound(f"network {record.name} not found")
        spec = record.spec
        if spec is None:
            return None
        pool = self._addresses[record.id]
        fixed = asked.ipam_config.ipv4_address if asked.ipam_config else ""
        if fixed:
            address = _parse_address(fixed)
            pool.reserve(address)
        else:
            address = pool.allocate()
        endpoint_id = new_id()
        self._endpoints.setdefault(record.id, set()).add(endpoint_id)
        return EndpointSpec(
            endpoint_id,
            record.id,
            f"{address}/{pool.subnet.prefixlen}",
            gateway=spec.gateway if default_route and not spec.internal else None,
            interface=interface,
            mac=asked.mac_address.replace("-", ":").lower() or derived_mac(str(address)),
        )

    def adopt(self, endpoint: EndpointSpec) -> None:
        """Take the address of an endpoint that exists since before the engine started."""
        pool = self._addresses.get(endpoint.network_id)
        if pool is not None:
            pool.reserve(IPv4Interface(endpoint.address).ip)
            self._endpoints.setdefault(endpoint.network_id, set()).add(endpoint.id)

    def release(self, endpoint: EndpointSpec) -> None:
        pool = self._addresses.get(endpoint.network_id)
        if pool is not None:
            pool.release(IPv4Interface(endpoint.address).ip)
            self._endpoints.get(endpoint.network_id, set()).discard(endpoint.id)


def _address_pool(spec: NetworkSpec) -> AddressPool:
    reserved = [IPv4Address(spec.gateway), *map(IPv4Address, spec.aux)]
    ip_range = IPv4Network(spec.ip_range) if spec.ip_range else None
    return AddressPool(IPv4Network(spec.subnet), ip_range=ip_range, reserved=dict.fromkeys(reserved))


def parse_pool(
    asked: IpamPool,
) -> tuple[IPv4Network | None, IPv4Network | None, IPv4Address | None, dict[str, str]]:
    """(subnet, range, gateway, auxiliary addresses) as they were asked for. Raises `Invalid`."""
    if not asked.subnet:
        if asked.gateway or asked.ip_range:
            raise Invalid("invalid network config: a gateway or an IP range needs a subnet")
        return None, None, None, {}
    if "/" not in asked.subnet:
        raise Invalid(f"invalid network config:\ninvalid subnet {asked.subnet}: invalid CIDR block notation")
    subnet = parse_subnet(asked.subnet)
    ip_range = parse_subnet(asked.ip_range) if asked.ip_range else None
    if ip_range is not None and not ip_range.subnet_of(subnet):
        raise Invalid(
            f"invalid network config:\ninvalid ip-range {ip_range}: it should be within subnet {subnet}"
        )
    gateway = _inside(asked.gateway, subnet, "gateway") if asked.gateway else None
    aux = asked.auxiliary_addresses or {}
    for address in aux.values():
        _inside(address, subnet, "auxiliary address")
    return subnet, ip_range, gateway, aux


def _inside(text: str, subnet: IPv4Network, what: str) -> IPv4Address:
    address = _parse_address(text)
    if address not in subnet:
        raise Invalid(
            f"invalid network config:\ninvalid {what} {text}: parent subnet {subnet} doesn't contain it"
        )
    return address


def _parse_address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise Invalid(f"invalid IPv4 address: {text}") from None


def _mtu(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or not 68 <= int(text) <= 65535:
        raise Invalid(f"invalid MTU {text}: expected a number from 68 to 65535")
    return int(text)


def _flag(options: Mapping[str, str], name: str) -> bool:
    return _boolean(name, options.get(name, "true"))


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise Invalid(f"invalid value {text!r} for {name}: expected true or false")


def _type_matches(record: NetworkRecord, value: str) -> bool:
    if value not in ("custom", "builtin"):
        raise Invalid(f"invalid filter: 'type'='{value}'")
    return record.predefined == (value == "builtin")


def _member_json(container: ContainerRecord, spec: EndpointSpec) -> Json:
    return {
        "Name": container.name,
        "EndpointID": spec.id,
        "MacAddress": spec.mac,
        "IPv4Address": spec.address,
        "IPv6Address": "",
    }


def _pool_json(pool: IpamPool) -> Json:
    plain = encode(pool)
    return {name: value for name, value in plain.items() if value}
