"""Networks that are only the configuration of others (`--config-only`, `--config-from`). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from sampan.engine.model import NetworkRecord, new_id, now
from sampan.engine.networks.requests import Ipam, NetworkCreate
from sampan.errors import Denied, NotFound


def check(body: NetworkCreate) -> None:
    """Raises `Denied` in Docker's words for what neither kind can have."""
    if body.config_only and (body.ingress or body.internal or body.attachable or body.scope):
        raise Denied(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if not body.config_from.network:
        return
    if body.config_only:
        raise Denied("a configuration network cannot depend on another configuration network")
    ipam = body.ipam
    own = (ipam.driver not in ("", "default"), ipam.options, ipam.config, body.labels, body.enable_ipv6)
    if any(own) or not body.enable_ipv4:
        raise Denied(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if body.options:
        raise Denied(
            "network driver options are not supported if the network depends on a configuration network"
        )


def find(name: str, records: Iterable[NetworkRecord]) -> NetworkRecord:
    """Raises `NotFound`."""
    for record in records:
        if record.config_only and record.name == name:
            return record
    raise NotFound(f'configuration network "{name}" does not exist')


def record(body: NetworkCreate) -> NetworkRecord:
    """Of a configuration: what was asked for, as it was asked for."""
    return NetworkRecord(
        new_id(),
        body.name,
        now(),
        "null",
        enable_ipv6=body.enable_ipv6,
        options=dict(body.options),
        labels=dict(body.labels),
        ipam_options=body.ipam.options or {},
        ipam_config=body.ipam.config or (),
        config_only=True,
    )


def apply(body: NetworkCreate, source: NetworkRecord) -> NetworkCreate:
    """The network that was asked for, with the configuration of `source`."""
    return replace(
        body,
        enable_ipv6=source.enable_ipv6,
        options=source.options,
        labels=source.labels,
        ipam=Ipam(options=source.ipam_options, config=source.ipam_config),
    )
