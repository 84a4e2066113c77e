"""The published ports of running containers: which of a container's addresses they lead to, and their change."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from sampan.engine import ports
from sampan.engine.containers.base import Parts
from sampan.engine.containers.connecting import networking_failure
from sampan.engine.model import ContainerRecord, Endpoint
from sampan.engine.port_update import PortPlan
from sampan.engine.validate import container_of
from sampan.errors import Conflict, Invalid, SampanError
from sampan.network.model import EndpointSpec, PortBinding

log = logging.getLogger(__name__)


class Publishing:
    """Everything here blocks. It keeps no state: what is published says the container's record."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def publish(self, record: ContainerRecord, endpoints: Mapping[str, Endpoint]) -> tuple[PortBinding, ...]:
        """All ports of a container that starts with these endpoints; all or nothing. Raises Docker's errors."""
        return self._publish(record, endpoints, ports.requested(record.config, record.host))

    def _publish(
        self, record: ContainerRecord, endpoints: Mapping[str, Endpoint], wanted: Sequence[PortBinding]
    ) -> tuple[PortBinding, ...]:
        spec = publishing_address(endpoints)
        if not wanted or spec is None:
            return ()
        network = self._parts.networks.get(spec.network_id)
        if network is not None and network.internal:  # closed both ways: as with Docker nothing is published
            return ()
        if network is not None and network.spec is not None and network.spec.host_binding:
            host = network.spec.host_binding
            wanted = tuple(one if one.host_address else replace(one, host_address=host) for one in wanted)
        try:
            four, six = publishing_addresses(endpoints)
            return self._parts.network_host.publish(four, wanted, six)
        except SampanError as error:
            what = f"driver failed programming external connectivity on endpoint {record.name} ({spec.id})"
            raise networking_failure(error, what) from error

    def unpublish(self, record: ContainerRecord, bindings: Sequence[PortBinding] | None = None) -> None:
        """All of its ports, or these. Idempotent."""
        leaving = record.published if bindings is None else bindings
        four, six = publishing_addresses(record.endpoints)
        if leaving and (four or six):
            self._parts.network_host.unpublish(four, leaving, six)

    def follow(self, record: ContainerRecord, endpoints: Mapping[str, Endpoint]) -> tuple[PortBinding, ...]:
        """The ports of a running container whose endpoints have become these: they lead to where its default routes
        are now, and none is published where that is nowhere. When it raises, they lead to where they led."""
        if publishing_addresses(record.endpoints) == publishing_addresses(endpoints):
            return record.published
        wanted = _wanted(record)
        self.unpublish(record)
        try:
            return self._publish(record, endpoints, wanted)
        except BaseException:
            self._publish_again(record, record.published)
            raise

    def follow_what_can(
        self, record: ContainerRecord, endpoints: Mapping[str, Endpoint]
    ) -> tuple[PortBinding, ...]:
        """As `follow`, where there is no way back: what can't be published any more is reported, and the others are."""
        if publishing_addresses(record.endpoints) == publishing_addresses(endpoints):
            return record.published
        self.unpublish(record)
        found: list[PortBinding] = []
        for binding in _wanted(record):
            try:
                found += self._publish(record, endpoints, (binding,))
            except SampanError as error:
                log.error("a port of container %s is not published any more: %s", record.id, error.message)
        return tuple(found)

    def change(self, record: ContainerRecord, plan: PortPlan) -> tuple[PortBinding, ...]:
        """Make a plan real for a container that runs; what is published then. All or nothing.

        Connections through ports that stay are not touched.
        """
        if plan.added and publishing_address(record.endpoints) is None:
            raise Conflict(f"container {record.id} has no network that ports could be published from")
        self.unpublish(record, plan.removed)
        try:
            added = self._publish(record, record.endpoints, plan.added)
        except BaseException:
            self._publish_again(record, plan.removed)
            raise
        kept = tuple(one for one in record.published if one not in plan.removed)
        return (*kept, *added)

    def take_back(self, record: ContainerRecord, plan: PortPlan, published: Sequence[PortBinding]) -> None:
        """After `change` from this record: the ports of the record again."""
        self.unpublish(record, [one for one in published if one not in record.published])
        self._publish_again(record, plan.removed)

    def give_up(self, record: ContainerRecord) -> bool:
        """After a change of a running container's ports that failed: when it has ended meanwhile, those that were put
        back where they were are nobody's. Whether that is so."""
        if os.path.exists(f"/proc/{record.state.pid}/ns/net"):
            return False
        self.unpublish(record)
        return True

    def _publish_again(self, record: ContainerRecord, bindings: Sequence[PortBinding]) -> None:
        """Another program may have been faster."""
        try:
            self._publish(record, record.endpoints, bindings)
        except SampanError as error:
            log.error("ports of container %s could not be published again: %s", record.id, error.message)


def _wanted(record: ContainerRecord) -> tuple[PortBinding, ...]:
    return ports.kept(ports.requested(record.config, record.host), record.published)


def check_publishes(record: ContainerRecord) -> None:
    """Whether its ports can be changed: it has a network of its own. Raises `Conflict` or `Invalid`."""
    mode = record.host.network_mode
    if container_of(mode) is not None:
        raise Invalid("conflicting options: port publishing and the container type network mode")
    if mode in ("host", "none"):
        raise Conflict(f"container {record.id} has the network mode {mode}: it has no ports to publish")


def publishing_address(endpoints: Mapping[str, Endpoint]) -> EndpointSpec | None:
    """The endpoint that published ports lead to: the one with the default route.

    None when nothing leads outside, or that is on the link of a host's interface (macvlan, ipvlan): answers would not
    come back through us.
    """
    found = [_publisher(endpoints, version) for version in (4, 6)]
    return next((spec for spec in found if spec is not None), None)


def publishing_addresses(endpoints: Mapping[str, Endpoint]) -> tuple[str, str]:
    """Where published ports lead to: an IPv4 and an IPv6 address, without prefix length; "" where there is none.

    Each is in the network that the default route of its family goes through.
    """
    four, six = _publisher(endpoints, 4), _publisher(endpoints, 6)
    return (
        four.address.partition("/")[0] if four is not None else "",
        six.address6.partition("/")[0] if six is not None else "",
    )


def _publisher(endpoints: Mapping[str, Endpoint], version: int) -> EndpointSpec | None:
    specs = [endpoint.spec for endpoint in endpoints.values() if endpoint.spec is not None]
    routed = [spec for spec in specs if (spec.gateway if version == 4 else spec.gateway6) is not None]
    return next((spec for spec in routed if spec.driver not in ("macvlan", "ipvlan")), None)
