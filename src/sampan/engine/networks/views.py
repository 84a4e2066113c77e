"""Networks as Docker's JSON, and which of them a list's filters mean. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sampan.engine.config import encode
from sampan.engine.filters import label_matches
from sampan.engine.model import ContainerRecord, Endpoint, IpamPool, NetworkRecord
from sampan.engine.name_filter import name_matches
from sampan.errors import Invalid
from sampan.network.model import EndpointSpec

Json = dict[str, Any]
Member = tuple[ContainerRecord, Endpoint]


def network_json(record: NetworkRecord) -> Json:
    """As in a list: without the containers."""
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": scope(record),
        "Driver": record.driver,
        "EnableIPv4": record.enable_ipv4,
        "EnableIPv6": record.enable_ipv6,
        "IPAM": {
            "Driver": record.ipam_driver,
            "Options": record.ipam_options,
            "Config": [_pool_json(pool) for pool in record.ipam_config],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Containers": {},
        "Options": dict(sorted(record.options.items())),
        "Labels": dict(sorted(record.labels.items())),
    }


def scope(record: NetworkRecord) -> str:
    """Docker's word for how far a network reaches; of overlay networks without a swarm it said "global"."""
    return "global" if record.driver == "overlay" else "local"


def inspect_json(record: NetworkRecord, members: Iterable[Member]) -> Json:
    """With the containers that run in it."""
    found = {
        container.id: _member_json(container, endpoint.spec)
        for container, endpoint in members
        if endpoint.spec is not None
    }
    return {**network_json(record), "Containers": found}


def _member_json(container: ContainerRecord, spec: EndpointSpec) -> Json:
    return {
        "Name": container.name,
        "EndpointID": spec.id,
        "MacAddress": spec.mac,
        "IPv4Address": spec.address,
        "IPv6Address": spec.address6,
    }


def _pool_json(pool: IpamPool) -> Json:
    plain = encode(pool)
    return {name: value for name, value in plain.items() if value}


def check_values(filters: Mapping[str, Sequence[str]]) -> None:
    """Raises `Invalid` for values that are none, whatever networks there are."""
    for value in filters.get("dangling", ()):
        _truth("dangling", value)
    for value in filters.get("type", ()):
        if value not in ("custom", "builtin"):
            raise Invalid(f"invalid filter: 'type'='{value}'")


def matches(record: NetworkRecord, filters: Mapping[str, Sequence[str]], *, dangling: bool) -> bool:
    """`dangling`: no container is in it, and it is not a predefined one. The filters' values have been checked."""
    checks: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: record.driver == value,
        "id": record.id.startswith,
        "name": lambda value: name_matches(value, record.name),
        "scope": lambda value: value == scope(record),
        "type": lambda value: record.predefined == (value == "builtin"),
        "dangling": lambda value: dangling == _truth("dangling", value),
    }
    for name, check in checks.items():
        values = filters.get(name, ())
        if values and not any(check(value) for value in values):
            return False
    return label_matches(record.labels, filters)


def _truth(name: str, value: str) -> bool:
    if value not in ("true", "1", "false", "0"):
        raise Invalid(f'invalid value for filter \'{name}\', must be "true" (or "1"), or "false" (or "0")')
    return value in ("true", "1")
