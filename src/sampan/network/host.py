"""The host's side of bridge networks: one object per engine instance.

Everything here blocks and is thread-safe; the engine calls it through `asyncio.to_thread`. Nothing is
stored on disk: bridges and the nftables table live in the kernel, and `reconcile` puts them in order
again from the engine's records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from sampan.network.model import EndpointSpec, NetworkSpec, PortBinding, PublishMode


class NetworkHost:
    """Bridges, namespaces, address translation and published ports of one engine."""

    def __init__(self, instance: str, *, mode: PublishMode = PublishMode.AUTO) -> None:
        """`instance` tells engines on one host apart: it names the nftables table `sampan-<instance>`."""
        raise NotImplementedError

    def setup(self) -> None:
        """Make the nftables table and switch IPv4 forwarding on. Idempotent."""
        raise NotImplementedError

    def ensure(self, network: NetworkSpec) -> None:
        """Make the network's bridge, address and rules exist. Idempotent. Conflict when the device name is taken."""
        raise NotImplementedError

    def remove(self, network: NetworkSpec) -> None:
        """Remove the network's bridge and rules. Idempotent."""
        raise NotImplementedError

    def create_namespace(self) -> int:
        """A new network namespace with its loopback up; returns a descriptor owned by the caller.

        The namespace lives as long as the descriptor or a process in it.
        """
        raise NotImplementedError

    def attach(self, namespace: int, network: NetworkSpec, endpoint: EndpointSpec) -> None:
        """Make and configure the endpoint's interface in the namespace (a descriptor, not kept)."""
        raise NotImplementedError

    def detach(self, endpoint: EndpointSpec) -> None:
        """Remove the endpoint's interface (which also ends with its namespace). Idempotent."""
        raise NotImplementedError

    def publish(self, address: str, bindings: Sequence[PortBinding]) -> tuple[PortBinding, ...]:
        """Publish ports of the endpoint that has this address; all or nothing.

        Returns definite bindings, in order. Raises Conflict in Docker's words when a host port is taken.
        """
        raise NotImplementedError

    def unpublish(self, address: str, bindings: Sequence[PortBinding]) -> None:
        """Take back what `publish` returned. Idempotent."""
        raise NotImplementedError

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
        raise NotImplementedError

    def subnets_in_use(self) -> tuple[IPv4Network, ...]:
        """Subnets that the host's interfaces and routes use; a new network must avoid them."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of descriptors; networks and NAT stay as they are (the containers run on)."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Remove everything of this instance from the host: ports, bridges, table, relay."""
        raise NotImplementedError
