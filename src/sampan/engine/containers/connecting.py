"""Which networks a container may be connected to, and which it can leave. Pure."""

from __future__ import annotations

from sampan.engine.model import ContainerRecord, NetworkRecord
from sampan.engine.validate import container_of
from sampan.errors import Denied


def check_connect(record: ContainerRecord, wanted: NetworkRecord) -> None:
    """Raises `Denied` in Docker's words."""
    if record.host.network_mode == "host" or container_of(record.host.network_mode) is not None:
        raise Denied(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if wanted.driver == "host":
        raise Denied(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if wanted.name in record.endpoints:
        raise Denied(f"endpoint with name {record.name} already exists in network {wanted.name}")
    if wanted.driver == "null" or "none" in record.endpoints:
        raise Denied(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def check_disconnect(record: ContainerRecord, wanted: NetworkRecord) -> None:
    """Raises `Denied` in Docker's words."""
    if wanted.name not in record.endpoints:
        raise Denied(f"container {record.id} is not connected to network {wanted.name}")
    if wanted.driver == "host":
        raise Denied("container cannot be disconnected from host network or connected to host network")
