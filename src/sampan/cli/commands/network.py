"""`sampan network create`, `ls`, `rm`, `connect`, `disconnect`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.create import checks, texts
from sampan.cli.failure import Exit, Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import FORMAT_HELP, natural_order, print_listing
from sampan.cli.template_functions import Record
from sampan.client.api import ApiError, filters_query, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


def _record(network: dict[str, Any], *, full: bool) -> Record:
    labels = network.get("Labels") or {}
    identity = network.get("Id", "")

    def created() -> str:
        try:
            seconds, nanoseconds = units.parse_rfc3339(network.get("Created") or "")
        except ValueError:
            return str(network.get("Created", ""))
        text = units.local_time(seconds)
        return f"{text[:19]}.{nanoseconds:09d}".rstrip("0").rstrip(".") + text[19:]

    return Record(
        "networkContext",
        {
            "ID": lambda: identity if full else identity[:12],
            "Name": lambda: network.get("Name", ""),
            "Driver": lambda: network.get("Driver", ""),
            "Scope": lambda: network.get("Scope", ""),
            "IPv4": lambda: "true" if network.get("EnableIPv4") else "false",
            "IPv6": lambda: "true" if network.get("EnableIPv6") else "false",
            "Internal": lambda: "true" if network.get("Internal") else "false",
            "Labels": lambda: ",".join(f"{name}={labels[name]}" for name in sorted(labels)),
            "CreatedAt": created,
        },
        methods={"Label": lambda name: labels.get(name, "")},
    )


def _list(invocation: Invocation) -> int:
    flags = invocation.flags
    query = {"filters": filters_query(collect_filters(flags["filter"]))}
    networks = invocation.client().call("GET", "/networks", query) or []
    networks.sort(key=lambda network: natural_order(network.get("Name", "")))
    rows = [_record(network, full=flags["no-trunc"]) for network in networks]
    if flags["quiet"] and flags["format"] in ("", "table"):
        for row in rows:
            print(row.get("ID"))
        return 0
    print_listing(rows, flags["format"], ("ID", "Name", "Driver", "Scope"), _HEADERS)
    return 0


def _create(invocation: Invocation) -> int:
    flags = invocation.flags
    body: dict[str, Any] = {
        "Name": invocation.args[0],
        "Driver": flags["driver"],
        "Scope": flags["scope"],
        "EnableIPv6": flags["ipv6"],
        "IPAM": {
            "Driver": flags["ipam-driver"],
            "Options": texts.to_map(flags["ipam-opt"]),
            "Config": _pools(
                flags["subnet"], flags["ip-range"], flags["gateway"], texts.to_map(flags["aux-address"])
            ),
        },
        "Internal": flags["internal"],
        "Attachable": flags["attachable"],
        "Ingress": flags["ingress"],
        "ConfigOnly": flags["config-only"],
        "Options": texts.to_map(flags["opt"]),
        "Labels": texts.to_map(flags["label"]),
        "CheckDuplicate": True,
    }
    if not flags.changed("ipv6") and "com.docker.network.enable_ipv6" in body["Options"]:
        del body["EnableIPv6"]  # the option says it
    if flags.changed("ipv4"):
        invocation.client().require("1.48", "--ipv4")
        body["EnableIPv4"] = flags["ipv4"]
    if flags["config-from"]:
        body["ConfigFrom"] = {"Network": flags["config-from"]}
    answer = invocation.client().call("POST", "/networks/create", None, body)
    if answer.get("Warning"):
        print(f"WARNING: {answer['Warning']}", file=sys.stderr)
    print(answer["Id"])
    return 0


class _Pools:
    """The subnets of a new network, each with what lies in it."""

    def __init__(self, subnets: list[str]) -> None:
        import ipaddress

        self._parse = ipaddress.ip_network
        self._networks: list[tuple[Any, dict[str, Any]]] = []
        for subnet in subnets:
            if self._networks and any(self._overlap(subnet, known) for known, _ in self._networks):
                raise Failure("multiple overlapping subnet configuration is not supported")
            self._networks.append((subnet, {"Subnet": subnet}))

    def _overlap(self, one: str, other: str) -> bool:
        first, second = self._subnet(one), self._subnet(other)
        return bool(first.version == second.version and first.overlaps(second))

    def _subnet(self, text: str) -> Any:
        try:
            return self._block(text)
        except Failure as error:
            raise Failure(f"invalid subnet: {error}") from None

    def _block(self, text: str) -> Any:
        """A network in CIDR notation."""
        try:
            if "/" in text:
                return self._parse(text, strict=False)
        except ValueError:
            pass
        raise Failure(f"invalid CIDR address: {text}")

    def _address(self, text: str) -> Any:
        """Docker does not say that something is no address: nothing contains it."""
        try:
            return self._block(text) if "/" in text else self._parse(text)
        except ValueError:
            return None

    def _home(self, text: str, what: str) -> dict[str, Any]:
        for subnet, pool in self._networks:
            network = self._subnet(subnet)
            found = self._block(text) if what == "range" else self._address(text)
            if found is None or found.version != network.version:
                continue
            if found.network_address in network:
                return pool
        raise Failure(f"no matching subnet for {what} {text}")

    def add(self, key: str, what: str, texts: list[str], which: str) -> None:
        for text in texts:
            pool = self._home(text, what)
            if key in pool:
                raise Failure(
                    f"cannot configure multiple {what}s ({text}, {pool[key]}) {which} ({pool['Subnet']})"
                )
            pool[key] = text

    def reserve(self, addresses: dict[str, str]) -> None:
        for name, text in addresses.items():
            self._home(text, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = text

    def config(self) -> list[dict[str, Any]]:
        return [pool for _, pool in self._networks]


def _pools(
    subnets: list[str], ranges: list[str], gateways: list[str], auxiliary: dict[str, str]
) -> list[dict[str, Any]]:
    """Each subnet with the range, gateway and reserved addresses that lie in it. Raises `Failure`."""
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise Failure("every ip-range or gateway must have a corresponding subnet")
    if len(subnets) <= 1 and not ranges and not gateways and not auxiliary:
        return [{"Subnet": subnet} for subnet in subnets]
    pools = _Pools(subnets)
    pools.add("IPRange", "range", ranges, "on the same subnet")
    pools.add("Gateway", "gateway", gateways, "for the same subnet")
    pools.reserve(auxiliary)
    return pools.config()


def _remove(invocation: Invocation) -> int:
    from sampan.cli.main import describe
    from sampan.errors import SampanError

    client = invocation.client()
    failed = False
    for name in invocation.args:
        try:
            client.call("DELETE", f"/networks/{quote_path(name)}")
        except ApiError as error:
            if error.status == 404 and invocation.flags["force"]:
                continue
            print(describe(no_such("network", name, error)), file=sys.stderr)
            failed = True
            continue
        except SampanError as error:
            print(describe(error), file=sys.stderr)
            failed = True
            continue
        print(name, flush=True)
    if failed:
        raise Exit(1)
    return 0


def _driver_options(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Failure("invalid key/value pair format in driver options")
        found[name.strip()] = value.strip()
    return found


def _connect(invocation: Invocation) -> int:
    flags = invocation.flags
    network, container = invocation.args
    address = {
        "IPv4Address": flags["ip"],
        "IPv6Address": flags["ip6"],
        "LinkLocalIPs": flags["link-local-ip"],
    }
    endpoint: dict[str, Any] = {
        "IPAMConfig": {key: value for key, value in address.items() if value},
        "Links": flags["link"] or None,
        "Aliases": flags["alias"],
        "DriverOpts": _driver_options(flags["driver-opt"]),
    }
    if flags["gw-priority"]:
        invocation.client().require("1.48", "--gw-priority")
        endpoint["GwPriority"] = flags["gw-priority"]
    body = {"Container": container, "EndpointConfig": endpoint}
    invocation.client().call("POST", f"/networks/{quote_path(network)}/connect", None, body)
    return 0


def _disconnect(invocation: Invocation) -> int:
    network, container = invocation.args
    body = {"Container": container, "Force": invocation.flags["force"]}
    invocation.client().call("POST", f"/networks/{quote_path(network)}/disconnect", None, body)
    return 0


LS = Command(
    _list,
    "",
    (
        Flag("filter", "f", "filter", "Show only what meets these conditions"),
        Flag("format", "", "string", FORMAT_HELP),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("quiet", "q", "bool", "Show only IDs"),
    ),
    maximum=0,
    aliases=("network ls", "network list"),
)
CREATE = Command(
    _create,
    "NETWORK",
    (
        Flag("attachable", "", "bool", "Let containers be connected by hand"),
        Flag("aux-address", "", "map", "Addresses that no container gets (name=address)"),
        Flag("config-from", "", "string", "Take the configuration of this network"),
        Flag("config-only", "", "bool", "Make a configuration, no network"),
        Flag("driver", "d", "string", "Network driver", default="bridge"),
        Flag("gateway", "", "strings", "Gateway of a subnet"),
        Flag("ingress", "", "bool", "Make the swarm's ingress network"),
        Flag("internal", "", "bool", "Let nothing in or out"),
        Flag("ip-range", "", "strings", "Take containers' addresses from this part of a subnet"),
        Flag("ipam-driver", "", "string", "Driver of the address management", default="default"),
        Flag("ipam-opt", "", "map", "Options of the address management"),
        Flag("ipv4", "", "bool", "Use IPv4", default=True),
        Flag("ipv6", "", "bool", "Use IPv6"),
        Flag("label", "", "list", "Set labels", check=checks.label),
        Flag("opt", "o", "map", "Set options of the driver"),
        Flag("scope", "", "string", "Scope of the network"),
        Flag("subnet", "", "strings", "Subnet in CIDR form"),
    ),
    minimum=1,
    maximum=1,
)
RM = Command(
    _remove,
    "NETWORK [NETWORK...]",
    (Flag("force", "f", "bool", "Do not mind networks that do not exist"),),
    minimum=1,
    aliases=("network rm", "network remove"),
)
CONNECT = Command(
    _connect,
    "NETWORK CONTAINER",
    (
        Flag("alias", "", "strings", "Add an alias within the network"),
        Flag("driver-opt", "", "strings", "Options of the network's driver"),
        Flag("gw-priority", "", "int", "The highest one gives the default gateway"),
        Flag("ip", "", "string", "IPv4 address"),
        Flag("ip6", "", "string", "IPv6 address"),
        Flag("link", "", "list", "Link to another container", check=checks.link),
        Flag("link-local-ip", "", "strings", "Link-local addresses"),
    ),
    minimum=2,
    maximum=2,
)
DISCONNECT = Command(
    _disconnect,
    "NETWORK CONTAINER",
    (Flag("force", "f", "bool", "Disconnect although the container does not answer"),),
    minimum=2,
    maximum=2,
)
