"""Legacy links (`--link` on the default bridge): names in the hosts file, variables in the environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sampan.engine.containers.store import ContainerStore
from sampan.engine.model import ContainerRecord
from sampan.engine.ports import parse_port
from sampan.errors import Conflict, NotFound
from sampan.network.model import EndpointSpec

_OF_EVERY_IMAGE = ("HOME", "PATH")


def hosts(record: ContainerRecord, store: ContainerStore) -> list[tuple[str, str]]:
    """(address, names) of what the container is linked to. Raises `Conflict` when that does not run."""
    found = []
    for other, alias in _linked(record, store):
        spec = _endpoint(other)
        if spec is None and other.running:
            raise Conflict(f"container {other.id} not attached to default bridge network")
        if spec is None:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}")
        names = " ".join(dict.fromkeys((alias, other.config.hostname, other.name)))
        found += [(address, names) for address in spec.bare_addresses]
    return found


def variables(record: ContainerRecord, store: ContainerStore) -> tuple[str, ...]:
    """What the links give to the container's environment; of those that run."""
    found: list[str] = []
    for other, alias in _linked(record, store):
        spec = _endpoint(other)
        if spec is not None:
            address = spec.address.partition("/")[0]
            ports = [parse_port(text) for text in other.config.exposed_ports or ()]
            found += environment(f"/{record.name}/{alias}", address, other.config.env or (), ports)
    return tuple(found)


def _linked(record: ContainerRecord, store: ContainerStore) -> Iterator[tuple[ContainerRecord, str]]:
    if "bridge" not in record.endpoints:
        return  # in other networks links are names that the name server knows
    for link in record.host.links or ():
        name, _, alias = link.partition(":")
        try:
            other = store.find(name).record
        except NotFound:
            continue  # removed since
        yield other, alias or other.name


def _endpoint(record: ContainerRecord) -> EndpointSpec | None:
    endpoint = record.endpoints.get("bridge")
    return endpoint.spec if endpoint is not None else None


def environment(
    path: str, address: str, variables: Iterable[str], ports: Iterable[tuple[int, str]]
) -> list[str]:
    """`path` is the link's name, "/container/alias"; the others are the linked container's: its address, its
    environment ("A=b"), its exposed ports as (number, protocol)."""
    alias = path.rpartition("/")[2].upper().replace("-", "_")
    ordered = sorted(ports, key=lambda port: (port[1] != "tcp", port[1], port[0]))
    found = []
    if ordered:
        number, protocol = ordered[0]
        found.append(f"{alias}_PORT={protocol}://{address}:{number}")
    for run in _runs(ordered):
        for number, protocol in run:
            prefix = _prefix(alias, number, protocol)
            found += [
                f"{prefix}={protocol}://{address}:{number}",
                f"{prefix}_ADDR={address}",
                f"{prefix}_PORT={number}",
                f"{prefix}_PROTO={protocol}",
            ]
        if len(run) > 1:
            (first, protocol), (last, _) = run[0], run[-1]
            prefix = _prefix(alias, first, protocol)
            found += [
                f"{prefix}_START={protocol}://{address}:{first}",
                f"{prefix}_PORT_START={first}",
                f"{prefix}_END={protocol}://{address}:{last}",
                f"{prefix}_PORT_END={last}",
            ]
    found.append(f"{alias}_NAME={path}")
    for variable in variables:
        name, equals, value = variable.partition("=")
        if equals and name not in _OF_EVERY_IMAGE:
            found.append(f"{alias}_ENV_{name}={value}")
    return found


def _prefix(alias: str, number: int, protocol: str) -> str:
    return f"{alias}_PORT_{number}_{protocol.upper()}"


def _runs(ports: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """Consecutive numbers of one protocol are a range."""
    runs: list[list[tuple[int, str]]] = []
    for port in ports:
        if runs and runs[-1][-1] == (port[0] - 1, port[1]):
            runs[-1].append(port)
        else:
            runs.append([port])
    return runs
