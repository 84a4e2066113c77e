"""The host's side of networks: one object per engine instance.

Everything here blocks and is thread-safe; the engine calls it through `asyncio.to_thread`. Nothing is
stored on disk: devices and the nftables table live in the kernel, and `reconcile` puts them in order
again from the engine's records. All of it belongs to the network namespace of the thread that calls.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence

from sampan.errors import Conflict, Invalid, SampanError
from sampan.linux.netlink_namespace import in_namespace, in_new_namespace
from sampan.linux.netlink_route import RouteSocket
from sampan.linux.nftables import Batch, Family, NftablesSocket
from sampan.network import bridge, impersonation_rules, passage, routes, rules
from sampan.network.drivers import driver_of, drivers
from sampan.network.impersonation import ImpersonationGuard, bridge_claim, endpoint_claim
from sampan.network.impersonation_rules import Claim
from sampan.network.model import EndpointSpec, Forward, HostPolicy, NetworkSpec, PortBinding, PublishMode
from sampan.network.no_rules import NoRules
from sampan.network.overlay.driver import OverlayDriver
from sampan.network.overlay.guard import Guard
from sampan.network.pools import AnyNetwork
from sampan.network.ports import PublishedPorts

_log = logging.getLogger(__name__)
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


class NetworkHost:
    """Bridges, namespaces, address translation and published ports of one engine."""

    def __init__(
        self,
        instance: str,
        *,
        mode: PublishMode = PublishMode.AUTO,
        policy: HostPolicy = HostPolicy(),  # noqa: B008 (frozen)
        overlay_address: str = "",
    ) -> None:
        """`instance` tells engines on one host apart: it names the nftables table `sampan-<instance>`.

        `overlay_address`: where other hosts of the cluster reach this one; "" where it is in none.
        The object belongs to the network namespace of the thread that makes it.
        """
        if not _INSTANCE.fullmatch(instance):
            raise Invalid(f"{instance!r} is not a name for an engine instance")
        self.instance = instance
        self._alias = f"sampan:{instance}"  # on our devices: how we know them again
        self._policy = policy
        self._overlay = OverlayDriver(self._alias, overlay_address, policy)
        self._drivers = drivers(self._alias, self._overlay, policy)
        self._table = rules.table_name(instance)
        self._lock = threading.RLock()
        self._nftables = NftablesSocket() if policy.rules else NoRules()
        mode = mode if policy.rules else PublishMode.RELAY
        self._ports = PublishedPorts(instance, mode, self._nftables, self._lock, policy)
        self._impersonation = ImpersonationGuard(self._table, self._nftables, self._lock, self._ports.commit)
        self._impersonation.supported = policy.rules
        self._networks: dict[str, NetworkSpec] = {}
        self._guard = Guard(instance, self._nftables)
        self._forwards: dict[str, Mapping[str, Forward]] = {}  # of overlay networks, as last told
        self._endpoints: dict[str, EndpointSpec] = {}  # those that are attached

    def setup(self) -> None:
        """Switch IPv4 forwarding on, and make the nftables table, unless an earlier engine has left one: then its
        ports and borders stay until `reconcile` says in one transaction what holds from now on. Idempotent."""
        self._forward()
        if not self._policy.rules:
            self._remove_all_rules()
            return
        self._remove_old_table()
        if self._nftables.table_handle(rules.FAMILY, self._table) is None:
            self._write_rules()

    def _forward(self) -> None:
        if self._policy.forward:
            bridge.write_sysctl("ipv4/ip_forward", "1")

    def _remove_all_rules(self) -> None:
        """What an engine of this name has written that was allowed to."""
        with NftablesSocket() as nftables:
            passage.close(nftables, self._alias)
            for family in (rules.FAMILY, impersonation_rules.FAMILY, Family.IPV4):
                if nftables.table_handle(family, self._table) is not None:
                    batch = Batch(family)
                    rules.delete_table(batch, self._table)
                    nftables.commit(batch)

    def _remove_old_table(self) -> None:
        """Earlier engines had a table of family ip with this name; its rules would act beside ours."""
        if self._nftables.table_handle(Family.IPV4, self._table) is not None:
            batch = Batch(Family.IPV4)
            rules.delete_table(batch, self._table)
            self._nftables.commit(batch)

    def ensure(self, network: NetworkSpec) -> None:
        """Make the network's devices, addresses and rules exist. Idempotent. Conflict: the device name is taken."""
        with self._lock:
            if network.bridge in self._ports.foreign:
                raise Conflict(
                    f"network interface {network.bridge} already exists",
                    hint="It is another engine's bridge; give the network another bridge name.",
                )
            with RouteSocket() as route:
                driver_of(self._drivers, network.driver).ensure(route, network)
                if network.bridge:
                    self._impersonation.add(network.id, self._bridge_claim(route, network))
            self._networks[network.id] = network
            self._write_rules()

    def remove(self, network: NetworkSpec) -> None:
        """Remove the network's devices and rules. Idempotent."""
        with self._lock:
            self._networks.pop(network.id, None)
            self._forwards.pop(network.id, None)
            self._impersonation.remove(network.id)
            if not any(network.parent and network.parent == one.parent for one in self._networks.values()):
                with RouteSocket() as route:
                    driver_of(self._drivers, network.driver).remove(route, network)
            self._write_rules()

    def create_namespace(self) -> int:
        """A new network namespace with its loopback up; returns a descriptor owned by the caller.

        The namespace lives as long as the descriptor or a process in it.
        """
        descriptor, _ = in_new_namespace(bridge.configure_loopback)
        return descriptor

    def prepare_namespace(self, namespace: int) -> None:
        """As `create_namespace`, for an empty namespace that was made elsewhere (a descriptor, not kept)."""
        in_namespace(namespace, bridge.configure_loopback)

    def attach(self, namespace: int, network: NetworkSpec, endpoint: EndpointSpec) -> None:
        """Make and configure the endpoint's interface in the namespace (a descriptor, not kept)."""
        if network.bridge:  # before anything can be sent
            self._impersonation.add(endpoint.id, _endpoint_claim(endpoint))
        try:
            with RouteSocket() as route:
                driver_of(self._drivers, network.driver).attach(route, namespace, network, endpoint)
        except BaseException:
            self._impersonation.remove(endpoint.id)
            raise
        self._endpoints[endpoint.id] = endpoint

    def detach(self, endpoint: EndpointSpec, namespace: int | None = None) -> None:
        """Remove the endpoint's interface (which also ends with its namespace). Idempotent.

        `namespace`: a descriptor of the container's (not kept) while it runs.
        """
        self._endpoints.pop(endpoint.id, None)
        with RouteSocket() as route:
            driver_of(self._drivers, endpoint.driver).detach(route, endpoint, namespace)
        self._impersonation.remove(endpoint.id)

    def change_default_routes(
        self, namespace: int, before: Sequence[EndpointSpec], after: Sequence[EndpointSpec]
    ) -> None:
        """In the namespace of a container (a descriptor, not kept) that had these endpoints, and has those now."""
        in_namespace(namespace, lambda: routes.change_default_routes(before, after))

    def publish(
        self, address: str, bindings: Sequence[PortBinding], address6: str = ""
    ) -> tuple[PortBinding, ...]:
        """Publish ports of the container that has these addresses ("": none of that family); all or nothing.

        Returns definite bindings, in order. Raises Conflict in Docker's words when a host port is taken,
        Invalid when the host address is not the host's.
        """
        return self._ports.publish(_without_prefix(address), bindings, _without_prefix(address6))

    def unpublish(self, address: str, bindings: Sequence[PortBinding], address6: str = "") -> None:
        """Take back what `publish` returned. Idempotent."""
        self._ports.unpublish(_without_prefix(address), bindings, _without_prefix(address6))

    def program_overlay(self, forwards: Mapping[str, Mapping[str, Forward]], peers: frozenset[str]) -> None:
        """Where containers on other hosts are (network id -> MAC -> ...), and which hosts may send to us."""
        with self._lock:
            self._guard.peers = peers
            self._guard.write(self._networks.values())
            with RouteSocket() as route:
                for network_id, found in forwards.items():
                    self._forwards[network_id] = found
                    network = self._networks.get(network_id)
                    if network is not None and network.vni:
                        self._overlay.program(route, network, found)

    def publish_mode(self, binding: PortBinding) -> str:
        """How a definite binding is published now: "nat", "relay" or "routed"; "" when it is not. Does not block."""
        return self._ports.mode_of(binding)

    def reconcile(
        self,
        networks: Sequence[NetworkSpec],
        endpoints: Sequence[EndpointSpec],
        published: Mapping[str, Sequence[PortBinding]],
    ) -> tuple[PortBinding, ...]:
        """Bring the kernel to exactly this state after the engine was started again.

        `endpoints` are those of running containers, `published` maps their addresses to definite bindings.
        Returns the bindings that could not be restored (their port was taken meanwhile).
        """
        with self._lock:
            self._forward()
            with RouteSocket() as route:
                self._tidy(route, networks, endpoints)
                for network in networks:
                    try:
                        driver_of(self._drivers, network.driver).ensure(route, network)
                    except SampanError as error:
                        if network.bridge == self.instance:
                            raise  # the default bridge, which an engine is not without
                        # A parent that is gone, say: its containers run on, and the other networks are needed.
                        _log.warning("network %s is not complete: %s", network.name, error.message)
                self._impersonation.restore(self._claims(route, networks, endpoints))
            self._networks = {network.id: network for network in networks}
            self._guard.write(networks)
            self._endpoints = {endpoint.id: endpoint for endpoint in endpoints}
            self._mend_devices()
            plain = {_without_prefix(address): bindings for address, bindings in published.items()}
            self._ports.foreign = self._bridges_among(passage.foreign_bridges(self._nftables))
            lost = self._ports.restore(self._networks.values(), plain)
            self._open_passage()
            return lost

    def refresh(self) -> tuple[str, ...]:
        """Look what others did to the host's rules and devices, and mend it: our table removed (`nft flush ruleset`),
        a filter of the input set up or removed, our way through a foreign filter closed, a bridge deleted. Returns
        what was done, in words.

        Changes nothing when there is nothing to mend, so that engines that hear of each other's changes come to rest.
        """
        with self._lock:
            done = [*self._mend_forwarding(), *self._mend_devices(), *self._ports.refresh()]
            if self._guard.mend():
                done.append("the table of overlay networks was removed, and is back")
            if self._impersonation.refresh():
                done.append("the rules that keep containers from taking others' addresses are written anew")
            if self._open_passage():
                done.append("its filter now lets our bridges pass")
            return tuple(done)

    def _mend_forwarding(self) -> tuple[str, ...]:
        """A file of /etc/sysctl.d that is loaded again, say, cuts every container off."""
        if not self._policy.forward:
            return ()
        done = []
        if bridge.read_sysctl("ipv4/ip_forward") != "1":
            bridge.write_sysctl("ipv4/ip_forward", "1")
            done.append("IPv4 is forwarded again")
        routed6 = any(network.bridge and network.subnet6 for network in self._networks.values())
        if routed6 and bridge.read_sysctl("ipv6/conf/all/forwarding") == "0":
            bridge.forward_ipv6()
            done.append("IPv6 is forwarded again")
        return tuple(done)

    def _mend_devices(self) -> tuple[str, ...]:
        done: list[str] = []
        endpoints = tuple(self._endpoints.values())
        with RouteSocket() as route:
            for network in self._networks.values():
                of_it = [endpoint for endpoint in endpoints if endpoint.network_id == network.id]
                try:
                    mended = driver_of(self._drivers, network.driver).mend(route, network, of_it)
                    if mended and network.vni:
                        self._overlay.program(route, network, self._forwards.get(network.id, {}))
                    done += mended
                except SampanError as error:
                    _log.warning("network %s can not be mended: %s", network.name, error.message)
        return tuple(done)

    @property
    def netlink_port(self) -> int:
        """The netlink port id under which this object changes nftables rules."""
        return self._nftables.port

    def subnets_in_use(self) -> tuple[AnyNetwork, ...]:
        """Subnets that the host's interfaces and routes use; a new network must avoid them."""
        with RouteSocket() as route:
            return bridge.subnets_in_use(route)

    @property
    def relay_process(self) -> int | None:
        """The process id of the port relay, when it runs."""
        return self._ports.relay_process

    def close(self) -> None:
        """Let go of descriptors; networks, NAT and the relay stay as they are (the containers run on)."""
        with self._lock:
            self._ports.close(stop=False)
            self._nftables.close()

    def teardown(self) -> None:
        """Remove everything of this instance from the host: ports, bridges, table, relay; then close."""
        with self._lock:
            self._ports.close(stop=True)
            self._networks.clear()
            self._guard.write(())
            with RouteSocket() as route:
                self._tidy(route, (), ())
            if self._policy.rules:
                passage.close(self._nftables, self._alias)
            self._impersonation.clear()
            batch = Batch(rules.FAMILY)
            rules.delete_table(batch, self._table)
            self._nftables.commit(batch)
            self._remove_old_table()
            self._nftables.close()

    def _tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        for driver in self._drivers.values():
            driver.tidy(route, networks, endpoints)

    def _claims(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> dict[str, Claim]:
        bridged = {network.id: network for network in networks if network.bridge}
        claims = {network.id: self._bridge_claim(route, network) for network in bridged.values()}
        for endpoint in endpoints:
            if endpoint.network_id in bridged:
                claims[endpoint.id] = _endpoint_claim(endpoint)
        return claims

    @staticmethod
    def _bridge_claim(route: RouteSocket, network: NetworkSpec) -> Claim:
        link = route.link(network.bridge)
        return bridge_claim(network, link.address if link is not None else "")

    def _write_rules(self) -> None:
        with self._lock:
            self._ports.write_rules(self._networks.values())
            self._guard.write(self._networks.values())
            self._open_passage()

    def _open_passage(self) -> bool:
        """Whether a foreign filter was changed. What is known of other engines' bridges is followed."""
        if not self._policy.rules:
            return False
        bridges = [network.bridge for network in self._networks.values() if network.bridge]
        found = passage.open_for(self._nftables, self._alias, bridges, ipv6=self._policy.rules6)
        self._ports.seclude(self._bridges_among(found.foreign))
        return found.changed

    @staticmethod
    def _bridges_among(names: frozenset[str]) -> frozenset[str]:
        """A chain of an administrator's may have a name like Docker's and speak of the host's uplink."""
        if not names:
            return names
        with RouteSocket() as route:
            return frozenset(
                link.name for link in route.links() if link.kind == "bridge" and link.name in names
            )


def _without_prefix(address: str) -> str:
    return address.partition("/")[0]


def _endpoint_claim(endpoint: EndpointSpec) -> Claim:
    return endpoint_claim(endpoint, bridge.host_interface(endpoint.id))
