"""What hosts must not do at the same time, by transactions: making and removing networks, taking addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, ip_network

import msgspec
from msgspec.structs import replace

from sampan.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Unavailable
from sampan.network.overlay import schema
from sampan.network.overlay.control import Control
from sampan.network.overlay.own import candidates
from sampan.network.overlay.schema import Claim, Network
from sampan.network.overlay.store import Condition, Kind, Operation, Put, Snapshot
from sampan.network.overlay.view import View
from sampan.network.pools import overlap

DEFAULT_POOL = (IPv4Network("10.0.0.0/8"), 24)
"""Docker's for overlay networks."""
_ATTEMPTS = 20


async def create_network(control: Control, plan: Callable[[list[IPv4Network]], Network]) -> Network:
    """A new network with a number of its own. `plan` is told the subnets of the others, and may be asked again.

    Raises `Conflict` (name, subnet), `Unavailable`.
    """
    control.require()
    for _ in range(_ATTEMPTS):
        view = await _fresh(control)
        network = plan([IPv4Network(one.subnet) for one in view.networks.values() if one.ipv4])
        if any(one.name == network.name for one in view.networks.values()):
            raise Conflict(f"network with name {network.name} already exists")
        _check_free(view, network)
        network = replace(network, vni=_number(network.id, {one.vni for one in view.networks.values()}))
        conditions, operations = control.creation(network)
        # No network was made since we looked: two that overlap can't be made at the same time.
        conditions.append(Condition(Kind.PREFIX_UNTOUCHED, control.keys.networks, view.revision))
        if await control.store.commit(conditions, operations):
            return network
    raise Unavailable("other hosts make networks all the time", hint="try again")


def _check_free(view: View, network: Network) -> None:
    for other in view.networks.values():
        both = network.ipv4 and other.ipv4
        fours = (network.subnet, other.subnet) if both else ("", "")
        for one, two in (fours, (network.subnet6, other.subnet6)):
            if one and two and overlap(ip_network(one), ip_network(two)):
                raise Conflict(
                    "invalid pool request: Pool overlaps with other one on this address space",
                    hint=f"{one} overlaps {two}, the subnet of network {other.name}.",
                )


def _number(network_id: str, taken: set[int]) -> int:
    """Taken from the id, so that engines of unrelated clusters on one host hardly meet."""
    size = schema.LAST_VNI - schema.FIRST_VNI
    start = int(network_id[:12], 16) % size
    return next(
        number
        for step in range(len(taken) + 1)
        if (number := schema.FIRST_VNI + (start + step) % size) not in taken
    )


def choose_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first piece of the pool that overlaps none of these. Raises `Invalid`."""
    pool, prefix = DEFAULT_POOL
    busy = [network for network in taken if network.prefixlen and network.overlaps(pool)]
    for piece in pool.subnets(new_prefix=prefix):
        if not any(piece.overlaps(network) for network in busy):
            return piece
    raise Invalid(
        "all predefined address pools have been fully subnetted",
        hint="Remove unused networks, or give the network a subnet.",
    )


async def remove_network(control: Control, network: Network) -> None:
    """Raises `Denied` while a container of another host is in it, `Unavailable`. One that is gone is no error."""
    control.require()
    for _ in range(_ATTEMPTS):
        view = await _fresh(control)
        if network.id not in view.networks:
            return
        users = [
            f'name:"{_user(view, network.id, claim)}" id:"{claim.endpoint[:12]}"'
            for claim in view.claims.get(network.id, {}).values()
            if claim.endpoint and claim.host != control.own.host.id
        ]
        if users:
            raise Denied(
                f"error while removing network: network {network.name} has active endpoints ({', '.join(users)})"
            )
        addresses = control.keys.addresses(network.id)
        untouched = Condition(Kind.PREFIX_UNTOUCHED, addresses, view.revision)
        if await control.store.commit([untouched], control.removal(network)):
            control.own.drop(network.id)
            return
    raise Unavailable(f"network {network.name} is used by other hosts all the time", hint="try again")


def _user(view: View, network: str, claim: Claim) -> str:
    endpoint = view.endpoints.get(network, {}).get(claim.endpoint)
    return endpoint.name if endpoint is not None else f"of host {claim.host[:12]}"


async def take_address(control: Control, network: Network, wanted: str = "") -> str:
    """An address in the network that is this host's and no container's; held until it is announced or released.

    `wanted`: this one. Without the store only one that the host has kept. Raises `Conflict` in Docker's words,
    `NotFound` for a network that is gone, `Unavailable`.
    """
    own = control.own
    free = own.free(network.id)
    if (wanted and wanted in free) or (not wanted and free):
        address = wanted or free[0]
    else:
        control.require()
        if wanted:
            _check_wanted(control, network, wanted)
            if not await _claim(control, network, wanted):
                raise _in_use(await _fresh(control), network, wanted)
            address = wanted
        else:
            address = await _claim_any(control, network)
    own.hold(network.id, address)
    return address


async def take_addresses(control: Control, network: Network, wanted: str, wanted6: str) -> tuple[str, str]:
    """As `take_address`: the container's place, and its IPv6 address ("" in a network without)."""
    places = network.places
    if not wanted6:
        address = await take_address(control, network, wanted)
        return address, places.address6(address)
    place = places.place(wanted6)
    if place and wanted in ("", place):
        return await take_address(control, network, place), wanted6
    if not network.ipv4:
        raise Invalid(
            f"{wanted6} is too far in {network.subnet6} for a network of the cluster without IPv4",
            hint=f"Addresses up to {places.address6(str(IPv4Network(network.subnet)[-2]))} can be chosen.",
        )
    second = places.second(wanted, wanted6) if wanted else wanted6
    await _reserve(control, network, second, wanted6)
    try:
        return await take_address(control, network, wanted), wanted6
    except BaseException:
        control.own.unreserve(network.id, second)
        control.changed()
        raise


async def _reserve(control: Control, network: Network, second: str, address6: str) -> None:
    """The IPv6 address is this host's, wherever its container's place is. Raises `Conflict`, `Unavailable`."""
    if address6 == network.places.address6(network.gateway) or (network.id, second) in control.own.held:
        raise Conflict(
            "Address already in use", hint=f"{address6} belongs to another endpoint or the gateway."
        )
    if second in network.aux.values():
        raise Conflict("Address already in use", hint=f"The place of {address6} is an auxiliary address's.")
    if second in control.own.free(network.id):
        control.own.reserve(network.id, second)
        control.changed()
        return
    control.require()
    if not await _claim(control, network, second, reserved=True):
        raise _in_use(await _fresh(control), network, second)


async def keep_some(control: Control, network: Network, most: int) -> None:
    """Have this many addresses that no container has, if there are enough in the network. Raises `Unavailable`."""
    while len(control.own.free(network.id)) < most:
        address = next(
            (one for one in candidates(network, control.view) if not _held(control, network, one)), None
        )
        if address is None or not await _claim(control, network, address):
            return


def _check_wanted(control: Control, network: Network, wanted: str) -> None:
    if (network.id, wanted) in control.own.held or wanted in (network.gateway, *network.aux.values()):
        raise Conflict("Address already in use", hint=f"{wanted} belongs to another endpoint or the gateway.")


def _in_use(view: View, network: Network, wanted: str) -> Conflict:
    claim = view.claim_of(network.id, wanted)
    host = view.hosts.get(claim.host) if claim is not None else None
    where = f"host {host.name} ({host.address})" if host is not None else "another host"
    if claim is not None and host is None:
        where = f"a host that has gone ({claim.at}); it is free when that host's time is over"
    return Conflict("Address already in use", hint=f"{wanted} belongs to {where}.")


async def _claim_any(control: Control, network: Network) -> str:
    tried: set[str] = set()
    view = control.view
    for attempt in range(_ATTEMPTS):
        if attempt == 3:
            view = await _fresh(control)  # what we hear of is behind
        address = next(
            (
                one
                for one in candidates(network, view)
                if one not in tried and not _held(control, network, one)
            ),
            None,
        )
        if address is None:
            break
        tried.add(address)
        if await _claim(control, network, address):
            return address
    raise Exhausted(
        "no available IPv4 addresses on this network's address pools",
        hint=f"All addresses of {network.ip_range or network.subnet} are in use.",
    )


def _held(control: Control, network: Network, address: str) -> bool:
    return (network.id, address) in control.own.claims


async def _claim(control: Control, network: Network, address: str, *, reserved: bool = False) -> bool:
    """False when somebody else has it. `reserved`: see `Own.reserve`."""
    own, key = control.own, control.keys.address(network.id, address)
    body = msgspec.json.encode(own.reserved_claim() if reserved else own.kept_claim(address))
    there = Condition(Kind.PRESENT, control.keys.network(network.id))
    operations: list[Operation] = [Put(key, body, control.long_lease)]
    place = (network.id, address)
    own.claiming.add(place)
    try:
        if await control.store.commit([there, Condition(Kind.ABSENT, key)], operations):
            if reserved:
                own.reserve(network.id, address)
            else:
                own.claim(network.id, address)
            return True
    finally:
        own.claiming.discard(place)
        control.changed()
    if not await control.store.commit([there], []):
        raise NotFound(f"network {network.name} not found")
    return False


async def _fresh(control: Control) -> View:
    """What the store has at this moment."""
    snapshot: Snapshot = await control.store.read(control.keys.root)
    view = View(control.keys, quiet=True)
    view.replace(snapshot)
    return view
