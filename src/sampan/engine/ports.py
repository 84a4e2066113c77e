"""Published ports: from PortBindings and ExposedPorts to requests for the network, and back to Docker's JSON. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, HostConfig, HostPort
from sampan.errors import Invalid
from sampan.network.model import PortBinding

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp`, `80` -> (80, "tcp"). Raises `Invalid`."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise Invalid(f"invalid proto: {protocol}")
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise Invalid(f"invalid port specification: {text!r}")
    return int(number), protocol


def parse_range(text: str) -> tuple[int, int]:
    """A host port: "", "80" or "80-90" -> (first, last); (0, 0) is any."""
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise Invalid(f"invalid port specification: {text!r}")
    low, high = int(first), int(last) if dash else int(first)
    if not 0 <= low <= high < 65536:
        raise Invalid(f"invalid port specification: {text!r}")
    return low, high


def requested(config: ContainerConfig, host: HostConfig) -> tuple[PortBinding, ...]:
    """What is to be published when the container starts. Raises `Invalid` for a bad specification."""
    found: list[PortBinding] = []
    for text, bindings in (host.port_bindings or {}).items():
        port, protocol = parse_port(text)
        found += [binding_of(port, protocol, binding) for binding in bindings or ()]
    if host.publish_all_ports:
        named = {(binding.container_port, binding.protocol) for binding in found}
        for text in sorted(config.exposed_ports or {}):
            port, protocol = parse_port(text)
            if (port, protocol) not in named:
                found.append(PortBinding(port, protocol))
    return tuple(found)


def binding_of(port: int, protocol: str, binding: HostPort) -> PortBinding:
    """One entry of PortBindings as a request. Raises `Invalid`."""
    if binding.host_ip:
        _check_address(binding.host_ip)
    low, high = parse_range(binding.host_port)
    return PortBinding(port, protocol, binding.host_ip, low, high if high > low else 0)


def meets(definite: PortBinding, request: PortBinding) -> bool:
    """Can this binding have come from that request, of the same port of the container?"""
    if request.host_address not in ("", definite.host_address):
        return False
    last = max(request.host_port, request.host_port_end)
    return request.host_port == 0 or request.host_port <= definite.host_port <= last


def kept(requests: Sequence[PortBinding], published: Sequence[PortBinding]) -> tuple[PortBinding, ...]:
    """The requests of a container whose ports are published: one that leaves the host port open asks for what it got.

    What is open without a port of the host (a gateway mode) says nothing of that.
    """
    left = [one for one in published if one.host_port]
    found: list[PortBinding] = []
    for request in requests:
        own = [
            one
            for one in left
            if (one.container_port, one.protocol) == (request.container_port, request.protocol)
            and meets(one, request)
        ]
        if own:
            left = [one for one in left if one not in own or one.host_port != own[0].host_port]
            request = replace(request, host_port=own[0].host_port, host_port_end=0)
        found.append(request)
    return tuple(found)


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(f"invalid IP address: {text}") from None


def exposed(config: ContainerConfig, host: HostConfig) -> dict[str, dict[str, str]]:
    """ExposedPorts in full: ports named in PortBindings are exposed too."""
    names = {f"{port}/{protocol}" for port, protocol in map(parse_port, config.exposed_ports or {})}
    names |= {f"{port}/{protocol}" for port, protocol in map(parse_port, host.port_bindings or {})}
    return {name: {} for name in sorted(names)}


def port_name(binding: PortBinding) -> str:
    """`0.0.0.0:8080/tcp`, `[::]:8080/tcp`: a definite binding's place on the host."""
    host = f"[{binding.host_address}]" if ":" in binding.host_address else binding.host_address
    return f"{host}:{binding.host_port}/{binding.protocol}"


def ports_json(config: ContainerConfig, published: Sequence[PortBinding]) -> dict[str, Any]:
    """NetworkSettings.Ports of a running container: exposed ports without a binding are null."""
    found: dict[str, Any] = dict.fromkeys(config.exposed_ports or {})
    for binding in published:
        # One that is open at the container's own address (a gateway mode) has no port of the host's.
        entry = {"HostIp": binding.host_address, "HostPort": str(binding.host_port or "")}
        name = f"{binding.container_port}/{binding.protocol}"
        found[name] = [*(found.get(name) or ()), entry]
    return found


def summary_json(config: ContainerConfig, published: Iterable[PortBinding]) -> list[dict[str, Any]]:
    """Ports of one entry of the container list."""
    found: list[dict[str, Any]] = []
    bound = set()
    for binding in sorted(published, key=lambda one: (one.container_port, one.protocol, one.host_address)):
        bound.add(f"{binding.container_port}/{binding.protocol}")
        entry = {"IP": binding.host_address, "PrivatePort": binding.container_port}
        if binding.host_port:
            entry["PublicPort"] = binding.host_port
        found.append({**entry, "Type": binding.protocol})
    for name in config.exposed_ports or {}:
        if name not in bound:
            port, protocol = parse_port(name)
            found.append({"PrivatePort": port, "Type": protocol})
    return found
