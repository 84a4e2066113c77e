"""Networks: the only writer of the network records.

What containers have of a network (their endpoints) is in the container records; who may have which address is in
the `AddressBook`. Devices and rules in the kernel are made through `NetworkHost`.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sampan.engine.config import EndpointSettings, IpamConfig
from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters, label_matches, parse_time
from sampan.engine.model import NetworkRecord, epoch_ns, new_id, now
from sampan.engine.networks import (
    configurations,
    default_bridge,
    endpoint_options,
    ipam,
    options,
    plan,
    views,
)
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.requests import GivenFamilies, NetworkCreate
from sampan.engine.networks.views import Json, Member
from sampan.engine.record_store import Store, read_records
from sampan.engine.settings import Settings
from sampan.errors import Conflict, Denied, Invalid, NotFound, SampanError, Unavailable
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, NetworkSpec
from sampan.network.pools import overlap
from sampan.storage.metadata import Table

if TYPE_CHECKING:
    from sampan.engine.networks.cluster import Cluster
    from sampan.engine.networks.shared import SharedNetworks

log = logging.getLogger(__name__)

_LIST_FILTERS = ("driver", "id", "label", "label!", "name", "scope", "type", "dangling")
_PRUNE_FILTERS = ("label", "label!", "until")

OVERLAY = "overlay"

_NOTHING_GIVEN = GivenFamilies()
_SETTLE_SECONDS = 10.0
"""How long the removal of a network waits for containers that are starting or ending in it."""


class Networks:
    """Used from the event loop's thread. `members` tells the containers of a network; set when wired."""

    def __init__(
        self, settings: Settings, metadata: Store, host: NetworkHost, events: EventBus, owner: str = ""
    ) -> None:
        """`owner`: an id of this engine, from which its unique-local IPv6 prefix comes; "": where its data is."""
        self._settings = settings
        self._metadata = metadata
        self._host = host
        self._events = events
        self.members: Callable[[str], Sequence[Member]] = lambda _network_id: ()
        self._book = AddressBook(settings.address_pools, owner=owner or str(settings.root))
        self._records, _ = read_records(
            metadata, Table.NETWORKS, NetworkRecord, "network", "'network create' makes it anew"
        )
        self._busy_names: set[str] = set()
        self._removing: set[str] = set()
        self._making: list[NetworkRecord] = []
        self._shared: SharedNetworks | None = None
        for record in self._records.values():
            if record.spec is not None:
                self._restore(record, record.spec)

    def _restore(self, record: NetworkRecord, spec: NetworkSpec) -> None:
        try:
            self._book.restore(spec)
        except SampanError:
            if record.driver != OVERLAY:
                raise
            # The cluster's network has a subnet that is another's on this host: nobody here can use it.

    def join(self, cluster: Cluster) -> None:
        """The engine is in a cluster: call before `setup`."""
        from sampan.engine.networks.shared import SharedNetworks  # only such an engine needs it

        cluster.records = lambda: tuple(self._records.values())
        self._shared = SharedNetworks(cluster, self, self._book)

    @property
    def cluster(self) -> Cluster | None:
        return self._shared.cluster if self._shared is not None else None

    async def setup(self) -> None:
        """Make the predefined networks at the first start. Devices are made by `NetworkHost.reconcile`, which knows
        what runs: one by one and without published ports would interrupt what an earlier engine has left."""
        names = {record.name for record in self._records.values()}
        await asyncio.to_thread(self._host.setup)
        for name, driver in (("none", "null"), ("host", "host")):
            if name not in names:
                record = NetworkRecord(new_id(), name, now(), driver, predefined=True)
                await self.store(record)
        if not self._settings.default_bridge:
            await self._without_bridge()
            return
        if "bridge" not in names:
            in_use = await asyncio.to_thread(self._host.subnets_in_use)
            await self.store(default_bridge.make(self._book, self._settings, lambda: in_use))
            return
        bridge = self.find("bridge")
        in_use = await asyncio.to_thread(self._host.subnets_in_use)
        own = self._book.subnets(bridge.spec) if bridge.spec is not None else []
        foreign = [network for network in in_use if not any(overlap(network, one) for one in own)]
        idle = not any(endpoint.spec for _, endpoint in self.members(bridge.id))
        revised = default_bridge.revise(bridge, self._book, self._settings, lambda: foreign, idle=idle)
        if revised is not bridge:
            await self.store(revised)

    async def _without_bridge(self) -> None:
        """The default bridge of an earlier start goes, unless containers run on it."""
        record = self.default
        if record is None:
            return
        if any(endpoint.spec for _, endpoint in self.members(record.id)):
            log.warning("the default bridge stays while containers run on it")
            return
        await self.forget(record)

    async def store(self, record: NetworkRecord) -> None:
        body = msgspec.json.encode(record)
        await asyncio.to_thread(self._metadata.put, Table.NETWORKS, record.id, body)
        self._records[record.id] = record

    # Look-up

    def find(self, name: str) -> NetworkRecord:
        """By name, id or a prefix of an id that only one network has. Raises `NotFound`, `Invalid`."""
        by_id = self._records.get(name)
        if by_id is not None:
            return by_id
        named = [record for record in self._records.values() if record.name == name]
        if named:
            # Whoever writes into a cluster's store must not take over the name of one of this host's networks.
            return min(named, key=lambda record: record.driver == OVERLAY)
        found = [record for key, record in self._records.items() if name and key.startswith(name)]
        if len(found) > 1:
            raise Invalid(f"network {name} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {name} not found")
        return found[0]

    @property
    def default(self) -> NetworkRecord | None:
        """The network "bridge", which an engine may be without."""
        return next((record for record in self._records.values() if record.name == "bridge"), None)

    def removing(self, network_id: str) -> bool:
        """Somebody here is removing it just now."""
        return network_id in self._removing

    def get(self, network_id: str) -> NetworkRecord | None:
        return self._records.get(network_id)

    def specs(self) -> tuple[NetworkSpec, ...]:
        """The networks that have something in the kernel, for `NetworkHost.reconcile`."""
        cluster = self.cluster
        return tuple(
            record.spec
            for record in self._records.values()
            if record.spec is not None
            and (record.driver != OVERLAY or (cluster is not None and cluster.uses(record.id)))
        )

    @property
    def host_addresses(self) -> tuple[str, ...]:
        """The host's own on the default bridge, IPv4 first (what `host-gateway` stands for); () without it."""
        if self._settings.host_gateways:
            return self._settings.host_gateways
        bridge = self.default
        if bridge is None:
            return ()
        spec = bridge.spec
        found = (spec.gateway, spec.gateway6) if spec is not None else ("127.0.0.1",)
        return tuple(address for address in found if address)

    # API

    async def create(self, body: NetworkCreate, given: GivenFamilies = _NOTHING_GIVEN) -> tuple[str, str]:
        """(id, warning). Raises `Invalid`, `Conflict`, `Denied`, `NotFound` in Docker's words."""
        source = body.config_from.network
        if not source:
            defaults = self._settings.network_options.get(body.driver or "bridge", {})
            body = options.families(replace(body, options={**defaults, **body.options}), given)
        plan.check_create(body)
        if source:
            body = configurations.apply(body, configurations.find(source, self._records.values()))
        options.check_parent(body, self.specs())
        if body.name in self._busy_names or any(one.name == body.name for one in self._records.values()):
            raise Conflict(f"network with name {body.name} already exists")
        self._busy_names.add(body.name)
        try:
            if body.config_only:
                record = configurations.record(body)
                await self.store(record)
            else:
                in_use = await asyncio.to_thread(self._host.subnets_in_use)
                if body.driver == OVERLAY:
                    return (await self._sharing().create(body, in_use)).id, ""
                record = replace(
                    plan.plan(body, self._book, self._settings, lambda: in_use), config_from=source
                )
                await self._make(record)
        finally:
            self._busy_names.discard(body.name)
        self.announce(record, "create")
        return record.id, ""

    def _check_bridge(self, record: NetworkRecord) -> None:
        """Raises `Denied`. A bridge of two networks would go with the first of them."""
        for other in (*self._records.values(), *self._making):
            if record.spec is None or other.spec is None or not record.spec.bridge:
                continue
            if other.id != record.id and other.spec.bridge == record.spec.bridge:
                raise Denied(
                    f"cannot create network {record.id} ({record.spec.bridge}): conflicts with network "
                    f"{other.id} ({other.spec.bridge}): networks have same bridge name"
                )

    def _sharing(self) -> SharedNetworks:
        if self._shared is None:
            raise Unavailable(  # Docker's words; here it takes no swarm
                'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
                "this node to swarm and try again.",
                hint="Here engines share overlay networks with --cluster-store; see 'sampan daemon --help'.",
            )
        return self._shared

    def announce(self, record: NetworkRecord, action: str) -> None:
        self._events.publish("network", action, record.id, {"name": record.name, "type": record.driver})

    async def _make(self, record: NetworkRecord) -> None:
        try:
            self._check_bridge(record)
        except BaseException:
            if record.spec is not None:
                self._book.close(record.spec)
            raise
        self._making.append(record)
        try:
            await self._make_checked(record)
        finally:
            self._making.remove(record)

    async def _make_checked(self, record: NetworkRecord) -> None:
        try:
            # The record first: a bridge without a record would be nobody's; a record without a bridge
            # gets it at the next start of the engine.
            await self.store(record)
            if record.spec is not None:
                await asyncio.to_thread(self._host.ensure, record.spec)
        except BaseException:
            await self.forget(record)
            raise

    async def remove(self, name: str) -> None:
        """Raises `NotFound`, `Denied` (predefined), `Conflict`-like `Denied` while containers run in it."""
        record = self.find(name)
        if record.predefined:
            raise Denied(f"{record.name} is a pre-defined network and cannot be removed")
        if record.config_only and any(one.config_from == record.name for one in self._records.values()):
            raise Denied(f'error while removing network: configuration network "{record.name}" is in use')
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
            if record.driver == OVERLAY and self.cluster is not None:
                await self.cluster.remove(record)
            await self.forget(record)
        finally:
            self._removing.discard(record.id)
        self.announce(record, "destroy")

    async def _settle(self, record: NetworkRecord) -> None:
        """Wait until every endpoint is a running container's or gone: others are starting or ending just now."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end:
            known = {endpoint.spec.id for _, endpoint in self.members(record.id) if endpoint.spec}
            if self._book.holders(record.id) <= known:
                return
            await asyncio.sleep(0.01)

    async def forget(self, record: NetworkRecord) -> None:
        """Its devices, its record, its addresses. Idempotent."""
        # Reverse order of creation: the kernel's side first, the record last.
        if record.spec is not None:
            await asyncio.to_thread(self._host.remove, record.spec)
        await asyncio.to_thread(self._metadata.delete, Table.NETWORKS, record.id)
        if record.spec is not None:
            self._book.close(record.spec)
        self._records.pop(record.id, None)

    async def prune(
        self,
        filters: Mapping[str, Sequence[str]],
        *,
        dry_run: bool = False,
        without: Collection[str] = (),
    ) -> Json:
        """Remove networks that no container is in.

        `dry_run`: nothing is removed, the answer is what would be, if there were no containers `without` (ids).
        """
        check_filters(filters, _PRUNE_FILTERS)
        until = [parse_time(text) for text in filters.get("until", ())]
        removed = []
        for record in tuple(self._records.values()):
            if record.predefined or record.config_only or not label_matches(record.labels, filters):
                continue
            if any(member.id not in without for member, _ in self.members(record.id)):
                continue
            if self._used_elsewhere(record):
                continue
            if until and epoch_ns(record.created) > min(until):
                continue
            if not dry_run and not await self._prune_one(record):
                continue
            removed.append(record.name)
        if not dry_run:
            self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": removed}

    def _used_elsewhere(self, record: NetworkRecord) -> bool:
        """A container of another host is in it."""
        return record.driver == OVERLAY and self.cluster is not None and bool(self.cluster.remote(record.id))

    async def _prune_one(self, record: NetworkRecord) -> bool:
        """False when it was put to use, or removed, just now."""
        try:
            await self.remove(record.id)
        except (Conflict, Denied, NotFound, Unavailable) as error:
            log.info("network %s is not pruned: %s", record.name, error.message)
            return False
        return True

    def list(self, filters: Mapping[str, Sequence[str]]) -> builtins.list[Json]:
        check_filters(filters, _LIST_FILTERS)
        views.check_values(filters)
        return [
            views.network_json(record)
            for record in self._records.values()
            if views.matches(record, filters, dangling=self._dangling(record))
        ]

    def inspect(self, name: str) -> Json:
        record = self.find(name)
        shown = views.inspect_json(record, self.members(record.id))
        cluster = self.cluster
        if record.driver != OVERLAY or cluster is None:
            return shown
        remote = cluster.remote(record.id)
        shown["Containers"].update(remote)
        return {**shown, "Peers": cluster.peers(record.id), "Cluster": cluster.state()}

    def _dangling(self, record: NetworkRecord) -> bool:
        return not (record.predefined or self.members(record.id) or self._used_elsewhere(record))

    # Addresses, for the containers

    def check_endpoint(self, record: NetworkRecord, asked: EndpointSettings) -> None:
        """What a person asks of an endpoint. Raises `Invalid` in Docker's words."""
        faults: list[str] = []
        if asked.ipam_config is not None:
            faults = ipam.fixed_address_faults(
                asked.ipam_config, record.fixed_pools, predefined=record.predefined
            )
        if asked.aliases and record.predefined:
            faults.append("network-scoped alias is supported only for containers in user defined networks")
        faults += endpoint_options.problems(asked)
        if faults:
            raise Invalid("invalid endpoint settings:\n" + ipam.joined(faults))
        if asked.mac_address and not endpoint_options.hardware_address(asked.mac_address):
            raise Invalid(f"invalid MAC address: {asked.mac_address}")

    def allocate(
        self, record: NetworkRecord, asked: EndpointSettings, *, used: Collection[str] = ()
    ) -> EndpointSpec | None:
        """An endpoint with addresses that are its own until `release`; None in networks without devices.

        It has no default route yet: see `gateways`. `used`: the names of the container's other interfaces. Raises
        `NotFound` when the network is being removed, `Conflict` when an address or the interface's name can't be had.
        """
        if record.id in self._removing or record.id not in self._records:
            raise NotFound(f"network {record.name} not found")
        if record.config_only:
            raise Denied("cannot create endpoint on configuration-only network")
        if record.spec is None:
            return None
        interface = endpoint_options.interface_name(record.spec, asked, used)
        return replace(
            self._book.allocate(record.spec, asked, interface=interface),
            sysctls=endpoint_options.sysctls(asked, interface),
            link_local=endpoint_options.link_local(asked),
        )

    async def prepare(self, record: NetworkRecord, asked: EndpointSettings) -> EndpointSettings:
        """Before `allocate`: in a network of the cluster the address is agreed on with the other hosts.

        Returns what to `allocate` with. Raises `Conflict`, `NotFound`, `Unavailable`, `Unsupported`.
        """
        if record.driver != OVERLAY:
            return asked
        if not self._book.has(record.id):
            raise Conflict(
                f"network {record.name} can not be used on this host: another network here has its subnet",
                hint="Remove that network, or create this one with another --subnet.",
            )
        config = asked.ipam_config or IpamConfig()
        address, address6 = await self._sharing().cluster.prepare(record, config)
        return replace(asked, ipam_config=replace(config, ipv4_address=address, ipv6_address=address6))

    def give_back(self, record: NetworkRecord, prepared: EndpointSettings) -> None:
        """What `prepare` gave and `allocate` did not take."""
        if record.driver == OVERLAY and self.cluster is not None and prepared.ipam_config is not None:
            config = prepared.ipam_config
            self.cluster.give_back(record.id, config.ipv4_address, config.ipv6_address)

    def adopt(self, endpoint: EndpointSpec) -> None:
        """Take the address of an endpoint that exists since before the engine started."""
        self._book.adopt(endpoint)
        record = self._records.get(endpoint.network_id)
        if self.cluster is not None and endpoint.driver == OVERLAY and record is not None and record.spec:
            self.cluster.adopt(endpoint, record.spec)

    def release(self, endpoint: EndpointSpec) -> None:
        self._book.release(endpoint)
        if self.cluster is not None and endpoint.driver == OVERLAY:
            self.cluster.release(endpoint)
