"""Which networks a container may be connected to, and which it can leave; what is told when it fails. Pure."""

from __future__ import annotations

from sampan.engine.model import ContainerRecord, NetworkRecord
from sampan.engine.validate import container_of
from sampan.errors import Conflict, Denied, Exhausted, Internal, Invalid, NotFound, SampanError, Unsupported

_FAILED = "failed to set up container networking: "


def check_connect(record: ContainerRecord, wanted: NetworkRecord) -> None:
    """Raises `Denied` in Docker's words. One that does not run can be connected anew: with other settings."""
    if record.host.network_mode == "host" or container_of(record.host.network_mode) is not None:
        raise Denied(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if wanted.driver == "host":
        raise Denied(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if record.running and wanted.name in record.endpoints:
        raise Denied(f"endpoint with name {record.name} already exists in network {wanted.name}")
    if wanted.config_only:
        raise Denied("cannot create endpoint on configuration-only network")
    if wanted.driver == "null" or "none" in record.endpoints:
        raise Denied(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def check_disconnect(record: ContainerRecord, wanted: NetworkRecord) -> None:
    """Raises `Denied` in Docker's words."""
    if wanted.name not in record.endpoints:
        the = "" if record.running else "the "  # so Docker has it
        raise Denied(f"container {record.id} is not connected to {the}network {wanted.name}")
    if wanted.driver == "host":
        raise Denied(
            "cannot disconnect container from host network - container was created in host network mode"
        )


def networking_failure(error: SampanError, what: str = "") -> SampanError:
    """Of a container that starts, as Docker tells it; `what` comes before the error's own message."""
    if error.message.startswith(_FAILED):
        return error
    kinds = (Exhausted, NotFound, Conflict, Invalid, Denied, Unsupported)
    kind = next((kind for kind in kinds if isinstance(error, kind)), Internal)
    return kind(f"{_FAILED}{what}: {error.message}" if what else _FAILED + error.message, hint=error.hint)
