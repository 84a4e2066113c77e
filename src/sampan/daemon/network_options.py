"""Options of the daemon about networks and addresses, from flags and file to values. Raises `Invalid`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from sampan.errors import Invalid, Unsupported


def bridge_address(text: str | None, version: int) -> str | None:
    if text is None:
        return None
    try:
        interface = ip_interface(text)
        if interface.version != version:
            raise ValueError(f"it is not an IPv{version} address")
    except ValueError as error:
        raise Invalid(f"invalid bridge address {text!r}: {error}") from error
    return str(interface)


def switch(values: Mapping[str, Any], flag: str, *, default: bool = True) -> bool:
    """As `default` unless said otherwise."""
    value = values[flag]
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Invalid(f"{flag.replace('_', '-')}: expected true or false, not {value!r}")
    return value


def rules(values: Mapping[str, Any]) -> bool:
    """Docker's `iptables`: without it there are none for IPv6 either."""
    switch(values, "userland_proxy")
    wanted = switch(values, "iptables")
    if not wanted and values["port_mode"] == "nat":
        raise Invalid("iptables: ports can not be published by NAT without rules", hint="See --port-mode.")
    if not wanted and values["cluster_store"]:
        raise Unsupported(
            "iptables: overlay networks need rules",
            hint="Without them any host could send packets into the cluster's networks.",
        )
    if values["port_mode"] == "nat" and not switch(values, "ip6tables"):
        raise Invalid(
            "ip6tables: IPv6 ports can not be published by NAT without rules", hint="See --port-mode."
        )
    return wanted


def host_gateways(texts: tuple[str, ...]) -> tuple[str, ...]:
    """At most one address of each family, IPv4 first."""
    try:
        found = sorted((ip_address(text) for text in texts), key=lambda one: one.version)
    except ValueError as error:
        raise Invalid(f"invalid host-gateway-ip: {error}") from error
    if len({one.version for one in found}) < len(found):
        raise Invalid("only one IPv4 and one IPv6 host gateway IP address can be specified")
    return tuple(str(one) for one in found)


def fixed_cidr(values: Mapping[str, Any], flag: str, version: int) -> str | None:
    text = values[flag]
    if not text:
        return None
    try:
        network = ip_network(text, strict=False)
        if network.version != version:
            raise ValueError(f"it is not an IPv{version} network")
    except ValueError as error:
        raise Invalid(f"invalid {flag.replace('_', '-')}: {error}") from error
    return str(network)


def pool(pool: object) -> tuple[str, int]:
    """`base=10.0.0.0/8,size=24`, or the file's {"base": "10.0.0.0/8", "size": 24}."""
    fields = (
        pool
        if isinstance(pool, dict)
        else dict(part.split("=", 1) for part in str(pool).split(",") if "=" in part)
    )
    try:
        base, size = ip_network(fields["base"]), int(fields["size"])
    except (KeyError, ValueError) as error:
        raise Invalid(f"invalid address pool {pool!r}: expected base=CIDR,size=PREFIX") from error
    most = base.max_prefixlen - 2
    if not base.prefixlen <= size <= most:
        raise Invalid(f"invalid address pool {pool!r}: size must be between {base.prefixlen} and {most}")
    return str(base), size


def address(values: Mapping[str, Any], flag: str, *versions: int) -> str:
    """ "" when nothing is said."""
    text = values[flag]
    if not text:
        return ""
    try:
        found = ip_address(text)
        if found.version not in versions:
            raise ValueError(f"it is not an IPv{versions[0]} address")
    except ValueError as error:
        raise Invalid(f"invalid {flag.replace('_', '-')}: {error}") from error
    return str(found)


def by_driver(value: object) -> dict[str, dict[str, str]]:
    """A list of `DRIVER=KEY=VALUE`, or the file's {"DRIVER": {"KEY": "VALUE"}}."""
    found: dict[str, dict[str, str]] = {}
    if isinstance(value, dict):
        for driver, options in value.items():
            if not isinstance(options, dict) or not all(isinstance(one, str) for one in options.values()):
                raise Invalid(f"default-network-opts: expected strings for the driver {driver}")
            found[driver] = dict(options)
        return found
    for item in value if isinstance(value, list) else ():
        driver, first, rest = str(item).partition("=")
        name, second, text = rest.partition("=")
        if not first or not second or not driver or not name:
            raise Invalid(f"invalid default network option {item!r}: expected DRIVER=KEY=VALUE")
        found.setdefault(driver, {})[name] = text
    return found
