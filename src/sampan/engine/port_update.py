"""What `update` makes of a container's published ports. Pure.

Beyond Docker, which publishes only what a container was created with (wished for as moby/moby#21282).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, Docker, HostConfig, HostPort
from sampan.engine.ports import binding_of, meets, parse_port, parse_range
from sampan.errors import Conflict, NotFound
from sampan.network.model import PortBinding

PortMap = dict[str, tuple[HostPort, ...] | None]


class PortChanges(Docker, frozen=True):
    """Members of the body of POST /containers/{id}/update; both have the form of HostConfig.PortBindings.

    A port of `publish_remove` without entries loses all of its bindings. An entry there takes away those
    that have its address (any, when it names none) and its host port (any, when it names none).
    """

    publish_add: PortMap | None = None
    publish_remove: PortMap | None = None

    @property
    def wanted(self) -> bool:
        return bool(self.publish_add or self.publish_remove)


NO_PORT_CHANGES = PortChanges()


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The container's new configuration, and what changes while it runs: `removed` are definite bindings of it,
    `added` requests."""

    config: ContainerConfig
    host: HostConfig
    removed: tuple[PortBinding, ...]
    added: tuple[PortBinding, ...]


def planned(
    config: ContainerConfig, host: HostConfig, published: Sequence[PortBinding], changes: PortChanges
) -> PortPlan:
    """Removals come before additions. Raises `Invalid`, `NotFound` (nothing to remove), `Conflict` (it is there)."""
    if not changes.wanted:
        return PortPlan(config, host, (), ())
    bindings = _definite_map(config, host)
    removed: list[PortBinding] = []
    for text, wanted in (changes.publish_remove or {}).items():
        for one in wanted or (HostPort(),):
            removed += _remove(bindings, published, text, one)
    added: list[PortBinding] = []
    exposed = dict(config.exposed_ports or {})
    for text, wanted in (changes.publish_add or {}).items():
        number, protocol = parse_port(text)
        name = f"{number}/{protocol}"
        for one in wanted or (HostPort(),):
            added.append(binding_of(number, protocol, one))
            present = bindings.setdefault(name, [])
            if one.host_port and one in present:
                raise Conflict(f"Bind for {_address(one)} failed: port is already allocated")
            present.append(one)
        exposed.setdefault(name, {})
    bound: PortMap = {name: tuple(entries) for name, entries in bindings.items() if entries}
    return PortPlan(
        replace(config, exposed_ports=exposed or config.exposed_ports),
        replace(host, port_bindings=bound, publish_all_ports=False),
        tuple(dict.fromkeys(removed)),
        tuple(added),
    )


def _definite_map(config: ContainerConfig, host: HostConfig) -> dict[str, list[HostPort]]:
    """PortBindings, in which `--publish-all` has become what it means here: so one of its ports can go."""
    bindings: dict[str, list[HostPort]] = {}
    for text, entries in (host.port_bindings or {}).items():
        number, protocol = parse_port(text)
        bindings.setdefault(f"{number}/{protocol}", []).extend(entries or ())
    if host.publish_all_ports:
        for text in sorted(config.exposed_ports or {}):
            number, protocol = parse_port(text)
            bindings.setdefault(f"{number}/{protocol}", [HostPort()])
    return bindings


def _remove(
    bindings: dict[str, list[HostPort]], published: Sequence[PortBinding], text: str, wanted: HostPort
) -> list[PortBinding]:
    number, protocol = parse_port(text)
    name = f"{number}/{protocol}"
    request = binding_of(number, protocol, wanted)  # also checks it
    live = [one for one in published if (one.container_port, one.protocol) == (number, protocol)]
    chosen = [one for one in live if one.host_port and meets(one, request)]
    entries = bindings.get(name, [])
    leaving = [entry for entry in entries if _is_meant(entry, wanted, chosen)]
    if not leaving:
        hint = "`sampan port` shows what is published; what is on all addresses is named without one."
        raise NotFound(f"No public port '{name}' published at {_address(wanted)}", hint=hint)
    bindings[name] = staying = [entry for entry in entries if entry not in leaving]
    found = [one for one in chosen if any(meets(one, binding_of(number, protocol, it)) for it in leaving)]
    return found + [one for one in live if one not in found and _is_closed(one, leaving, staying)]


def _is_closed(one: PortBinding, leaving: Sequence[HostPort], staying: Sequence[HostPort]) -> bool:
    """Does what is open at the container's own address (a gateway mode; no port of the host's) go with these entries?

    It is there once, however many entries ask for it.
    """
    if one.host_port:
        return False
    return any(_opens(entry, one) for entry in leaving) and not any(_opens(entry, one) for entry in staying)


def _opens(entry: HostPort, one: PortBinding) -> bool:
    return not entry.host_ip or (":" in entry.host_ip) == (":" in one.host_address)


def _is_meant(entry: HostPort, wanted: HostPort, chosen: Sequence[PortBinding]) -> bool:
    """Is this binding of the configuration the one that a person names? `chosen`: what runs under that name."""
    if wanted.host_ip not in ("", entry.host_ip):
        return False
    if wanted.host_port in ("", entry.host_port):
        return True
    return _is_open(entry) and any(
        meets(one, binding_of(one.container_port, one.protocol, entry)) for one in chosen
    )


def _is_open(entry: HostPort) -> bool:
    """The host port is chosen at each start."""
    low, high = parse_range(entry.host_port)
    return low == 0 or high > low


def _address(entry: HostPort) -> str:
    host = f"[{entry.host_ip}]" if ":" in entry.host_ip else entry.host_ip or "0.0.0.0"
    return f"{host}:{entry.host_port or '*'}"
