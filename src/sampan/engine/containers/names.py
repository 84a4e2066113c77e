"""Names of running containers: what they are called in their networks, and the name servers in their namespaces.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sampan.engine.containers.base import Parts
from sampan.engine.model import ContainerRecord, Endpoint, NetworkRecord
from sampan.engine.networks import gateways
from sampan.network import host_resolvers, resolvconf
from sampan.network.dns import ServedNamespace
from sampan.network.model import Member, Outlook

if TYPE_CHECKING:
    from sampan.network.overlay.schema import Endpoint as Remote

AUTO, RESOLVER, NAMES = "auto", "resolver", "names"
"""When containers on the default bridge alone ask the engine's name server: when the host's resolvers are out of their
reach, always, or always and for each other's names too."""


class ContainerNames:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._served: dict[str, ServedNamespace] = {}
        self._told: dict[str, dict[str, Member]] = {}
        if parts.networks.cluster is not None:
            parts.networks.cluster.tell = self._tell_remote

    def embedded(self, record: ContainerRecord, endpoints: Mapping[str, Endpoint]) -> bool:
        """Whether the container, with these endpoints, asks the engine's name server."""
        networks = self._networks(endpoints)
        if any(not network.predefined for network in networks):
            return True
        if not any(network.driver == "bridge" for network in networks):
            return False
        settings = self._parts.settings
        ipv6 = any(network.spec is not None and network.spec.subnet6 for network in networks)
        return settings.bridge_dns != AUTO or out_of_reach(record.host.dns or settings.dns, ipv6=ipv6)

    def serves(self, container_id: str) -> bool:
        return container_id in self._served

    async def serve(self, record: ContainerRecord, namespace: int) -> None:
        """A name server in the container's namespace, if it asks one; one that is there looks again."""
        if record.id in self._served:
            self._served[record.id].update(self._outlook(record))
        elif self.embedded(record, record.endpoints):
            self._served[record.id] = await self._parts.names.serve(namespace, self._outlook(record))

    async def adopt(self, record: ContainerRecord) -> None:
        """Of a container that ran already when the engine started."""
        if not record.endpoints or not self._asks_us(record):
            return
        namespace = os.open(f"/proc/{record.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._served[record.id] = await self._parts.names.serve(namespace, self._outlook(record))
        finally:
            os.close(namespace)

    def _asks_us(self, record: ContainerRecord) -> bool:
        """What was decided when it started."""
        if any(not network.predefined for network in self._networks(record.endpoints)):
            return True
        try:
            text = (self._parts.directory(record.id) / "resolv.conf").read_text(errors="replace")
        except OSError:
            return False
        return resolvconf.EMBEDDED in resolvconf.parse(text).nameservers

    def refresh(self, record: ContainerRecord) -> None:
        """Tell the others what it is called now, and it who they are: it starts, is renamed, comes or goes."""
        told, now = self._told.get(record.id, {}), self._members(record)
        for network in told.keys() - now.keys():
            self._parts.names.tell(network, record.id, None)
        for network, member in now.items():
            self._parts.names.tell(network, record.id, member)
        if now:
            self._told[record.id] = now
        else:
            self._told.pop(record.id, None)
        served = self._served.get(record.id)
        if served is not None and record.endpoints:
            served.update(self._outlook(record))
        cluster = self._parts.networks.cluster
        if cluster is not None:
            named = {one.network_id: dns_names(record, one) for one in record.endpoints.values()}
            cluster.present(record, named)

    def _tell_remote(
        self, network_id: str, endpoint_id: str, endpoint: Remote | None, addresses: tuple[str, ...]
    ) -> None:
        """What a container of another host is called; None: it is gone."""
        network = self._parts.networks.get(network_id)
        if network is None or endpoint is None:
            self._parts.names.tell(network_id, endpoint_id, None)
            return
        forms = forms_of(endpoint.names, network.name)
        found = Member(forms, addresses, f"{endpoint.name}.{network.name}")
        self._parts.names.tell(network_id, endpoint_id, found)

    def forget(self, container_id: str) -> None:
        """It has ended, or did not start."""
        if self._parts.networks.cluster is not None:
            self._parts.networks.cluster.gone(container_id)
        for network in self._told.pop(container_id, {}):
            self._parts.names.tell(network, container_id, None)
        served = self._served.pop(container_id, None)
        if served is not None:
            served.close()

    def _members(self, record: ContainerRecord) -> dict[str, Member]:
        found = {}
        for network_name, endpoint in record.endpoints.items():
            network = self._parts.networks.get(endpoint.network_id)
            if network is None or endpoint.spec is None or not self._named(network):
                continue
            found[network.id] = member(record, network_name, endpoint)
        return found

    def _named(self, network: NetworkRecord) -> bool:
        by_name = self._parts.settings.bridge_dns == NAMES and network.driver == "bridge"
        return not network.predefined or by_name

    def _networks(self, endpoints: Mapping[str, Endpoint]) -> list[NetworkRecord]:
        found = (self._parts.networks.get(endpoint.network_id) for endpoint in endpoints.values())
        return [network for network in found if network is not None]

    def _outlook(self, record: ContainerRecord) -> Outlook:
        order = gateways.ranking(record.endpoints, lambda one: self._parts.networks.get(one.network_id))
        networks = self._networks({name: record.endpoints[name] for name in order})
        host, settings = record.host, self._parts.settings
        servers = tuple(host.dns or settings.dns) or None
        options = tuple(host.dns_options or settings.dns_options)
        return Outlook(
            tuple(network.id for network in networks if self._named(network)),
            links(record),
            host_resolvers=not all(network.internal for network in networks),
            servers=servers,
            only_dotted=has_ndots(options or host_resolvers.read()[0].options),
        )


def has_ndots(options: Iterable[str]) -> bool:
    return any(option.startswith("ndots:") for option in options)


def out_of_reach(dns: Iterable[str], *, ipv6: bool = False) -> bool:
    """Whether the host has resolvers, but none that a container on the default bridge could ask itself.

    `dns` are those that somebody has chosen instead; `ipv6`: it has IPv6 too.
    """
    if tuple(dns):
        return False
    own, systemd = host_resolvers.read()
    return bool(own.nameservers) and not resolvconf.reachable(own, systemd, ipv6=ipv6)


def member(record: ContainerRecord, network_name: str, endpoint: Endpoint) -> Member:
    """The container as the others in a network know it."""
    forms = forms_of(dns_names(record, endpoint), network_name)
    addresses = endpoint.spec.bare_addresses if endpoint.spec is not None else ()
    return Member(forms, addresses, f"{record.name}.{network_name}")


def forms_of(names: Iterable[str], network_name: str) -> tuple[str, ...]:
    """The names alone, and with their network's."""
    lower = [name.lower() for name in names]
    forms = (form for name in lower for form in (name, f"{name}.{network_name}".lower()))
    return tuple(dict.fromkeys(forms))


def links(record: ContainerRecord) -> tuple[tuple[str, str], ...]:
    """The names that its `--link`s give to others, for it alone."""
    found = {}
    asked = (endpoint.asked.links or () for endpoint in record.endpoints.values())
    for link in (*(record.host.links or ()), *(link for links in asked for link in links)):
        name, _, alias = link.partition(":")
        found[(alias or name).lower()] = name.lower()
    return tuple(found.items())


def dns_names(record: ContainerRecord, endpoint: Endpoint) -> tuple[str, ...]:
    """What a container is called in a user-defined network."""
    own = (record.name, *(endpoint.asked.aliases or ()), record.id[:12])
    hostname = (record.config.hostname,) if record.config.hostname else ()
    return tuple(dict.fromkeys((*own, *hostname)))
