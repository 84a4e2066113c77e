"""The world of the reachability matrix: one network of each kind, containers in them, and everything to reach there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sampan.testing.reachability import (
    HOST,
    HOST6,
    NEIGHBOUR,
    NEIGHBOUR6,
    SERVICE,
    WEB,
    Guest,
    Network,
    Target,
    World,
)

NAME_WIDTH = 28
"""Of a table's first column, in characters."""


def _six(number: int) -> tuple[str, ...]:
    return ("--ipv6", "--subnet", f"fd00:250:{number}::/64", "--gateway", f"fd00:250:{number}::1")


def _flags(number: int, *more: str) -> tuple[str, ...]:
    return ("--subnet", f"10.250.{number}.0/24", "--gateway", f"10.250.{number}.1", *more)


@dataclass(frozen=True)
class Layout:
    """A world, and what the newest Docker (28.5.2) lets through in it: `table`, see `parse`."""

    networks: tuple[Network, ...]
    guests: tuple[Guest, ...]
    table: str

    @property
    def places(self) -> tuple[str, ...]:
        return ("host", "neighbour", *(guest.name for guest in self.guests))

    def expected(self, places: Sequence[str] = ()) -> dict[str, str]:
        """By target, the signs of these places (default: all); of the others' targets nothing."""
        chosen = places or self.places
        missing = tuple(name for name in self.places if name not in chosen)
        return {
            target: "".join(sign for place, sign in zip(self.places, signs, strict=True) if place in chosen)
            for target, signs in parse(self.table).items()
            if not (missing and target.startswith(missing))
        }


_NETWORKS = (
    Network("one", _flags(1)),
    Network("two", _flags(2)),
    Network("closed", _flags(3, "--internal")),
    Network("silent", _flags(4, "-o", "com.docker.network.bridge.enable_icc=false")),
    Network("six", _flags(5, *_six(5))),
)
_GUESTS = (
    Guest("plain1", flags=("-p", "8001:80")),
    Guest("plain2"),
    Guest("one1", ("one",), ("-p", "8002:80", "-p", "127.0.0.1:8003:80", "-p", "[::1]:8003:80")),
    Guest("one2", ("one",)),
    Guest("two1", ("two",)),
    Guest("both", ("one", "two")),
    Guest("closed1", ("closed",), ("-p", "8004:80")),
    Guest("closed2", ("closed",)),
    Guest("silent1", ("silent",), ("-p", "8005:80")),
    Guest("silent2", ("silent",)),
    Guest("six1", ("six",), ("-p", "8006:80")),
    Guest("six2", ("six",)),
)
_MODE = "com.docker.network.bridge.gateway_mode_ipv"
_ON_UPLINK = ("-o", "parent=uplink", "--subnet", "192.0.2.0/24", "--gateway", NEIGHBOUR)
_MODES = (
    Network("routed", _flags(6, *_six(6), "-o", f"{_MODE}4=routed", "-o", f"{_MODE}6=routed")),
    Network(
        "open", _flags(7, *_six(7), "-o", f"{_MODE}4=nat-unprotected", "-o", f"{_MODE}6=nat-unprotected")
    ),
    Network("shut", ("--internal", "--subnet", "10.250.8.0/24", "-o", f"{_MODE}4=isolated")),
    Network("lan", ("-d", "macvlan", *_ON_UPLINK, "--ip-range", "192.0.2.64/26")),
)
_OF_MODES = (
    Guest("plain1", flags=("-p", "8001:80")),
    Guest("routed1", ("routed",), ("-p", "8002:80")),
    Guest("routed2", ("routed",)),
    Guest("open1", ("open",), ("-p", "8003:80")),
    Guest("shut1", ("shut",)),
    Guest("shut2", ("shut",)),
    Guest("lan1", ("lan",)),
    Guest("lan2", ("lan",)),
)


def targets(world: World, guests: Sequence[Guest]) -> tuple[Target, ...]:
    """In the rows' order: every address of every container, the hosts, the published ports."""
    found = []
    for guest, networks in world.addresses.items():
        for network, (address, address6) in networks.items():
            where = f"{guest}@{network}" if len(networks) > 1 else guest
            if address:
                found.append(Target(where, address, WEB, guest))
            if address6:
                found.append(Target(f"{where}/6", address6, WEB, guest))
    found.sort(key=lambda target: target.name)
    published = _published(guests, "")
    return (
        *found,
        Target("gateway", "{gateway}", SERVICE, "host"),
        Target("host", HOST, SERVICE, "host"),
        Target("host/6", HOST6, SERVICE, "host"),
        Target("neighbour", NEIGHBOUR, SERVICE, "neighbour"),
        Target("neighbour/6", NEIGHBOUR6, SERVICE, "neighbour"),
        *(Target(f"{name} published", HOST, port, name) for name, port in published.items()),
        *(Target(f"{name} published/6", HOST6, port, name) for name, port in published.items()),
        *(Target(f"{name} via gateway", "{gateway}", port, name) for name, port in published.items()),
        *(Target(f"{name} via 127.0.0.1", "127.0.0.1", port, name) for name, port in published.items()),
        *(Target(f"{name} via ::1", "::1", port, name) for name, port in published.items()),
        *(
            Target(f"{name} local{what}", address, port, name)
            for name, port in _published(guests, "127.0.0.1:").items()
            for what, address in _LOCALLY.items()
        ),
    )


_LOCALLY = {"": "127.0.0.1", "/6": "::1", ", from afar": HOST, ", from afar/6": HOST6}


def _published(guests: Sequence[Guest], address: str) -> dict[str, int]:
    """By container, the host port of its `-p ADDRESS:PORT:80`."""
    pattern = re.compile(rf"{re.escape(address)}(\d+):{WEB}")
    return {
        guest.name: int(match[1])
        for guest in guests
        for flag in guest.flags
        if (match := pattern.fullmatch(flag))
    }


def matrix(world: World, guests: Sequence[Guest], expected: Mapping[str, str]) -> dict[str, str]:
    """By target, a sign for each of the world's places (see `World.row`). All places ask at the same time."""
    wanted = targets(world, guests)
    names = list(world.places)

    def ask(number: int) -> str:
        hoped = "".join(expected.get(target.name, "")[number : number + 1] or "?" for target in wanted)
        return world.row(names[number], wanted, hoped)

    with ThreadPoolExecutor(len(names)) as pool:
        rows = list(pool.map(ask, range(len(names))))
    return {target.name: "".join(row[n] for row in rows) for n, target in enumerate(wanted)}


def parse(table: str) -> dict[str, str]:
    """By target the signs of a line; the first line names the places."""
    lines = [line for line in table.strip("\n").splitlines()[1:] if line.strip()]
    return {line[:NAME_WIDTH].strip(): "".join(line[NAME_WIDTH:].split()) for line in lines}


def show(places: Sequence[str], found: Mapping[str, str]) -> str:
    """As `parse` reads it."""
    head = " " * NAME_WIDTH + " ".join(places)
    lines = [
        f"{name:{NAME_WIDTH}}"
        + " ".join(f"{sign:^{len(place)}}" for place, sign in zip(places, signs, strict=True)).rstrip()
        for name, signs in found.items()
    ]
    return "\n".join([head, *lines])


USUAL = Layout(
    _NETWORKS,
    _GUESTS,
    """
                            host neighbour plain1 plain2 one1 one2 two1 both closed1 closed2 silent1 silent2 six1 six2
both@one                     +       -       -      -     +    +    -    +      -       -       -       -     -    -
both@two                     +       -       -      -     -    -    +    +      -       -       -       -     -    -
closed1                      +       -       -      -     -    -    -    -      +       +       -       -     -    -
closed2                      +       -       -      -     -    -    -    -      +       +       -       -     -    -
one1                         +       -       -      -     +    +    -    +      -       -       -       -     -    -
one2                         +       -       -      -     +    +    -    +      -       -       -       -     -    -
plain1                       +       -       +      +     -    -    -    -      -       -       -       -     -    -
plain2                       +       -       +      +     -    -    -    -      -       -       -       -     -    -
silent1                      +       -       -      -     -    -    -    -      -       -       +       -     -    -
silent2                      +       -       -      -     -    -    -    -      -       -       -       +     -    -
six1                         +       -       -      -     -    -    -    -      -       -       -       -     +    +
six1/6                       +       -       -      -     -    -    -    -      -       -       -       -     +    +
six2                         +       -       -      -     -    -    -    -      -       -       -       -     +    +
six2/6                       +       -       -      -     -    -    -    -      -       -       -       -     +    +
two1                         +       -       -      -     -    -    +    +      -       -       -       -     -    -
gateway                      -       -       +      +     +    +    +    +      +       +       +       +     +    +
host                         +       +       +      +     +    +    +    +      -       -       +       +     +    +
host/6                       +       +       -      -     -    -    -    -      -       -       -       -     +    +
neighbour                    +       +       +      +     +    +    +    +      -       -       +       +     +    +
neighbour/6                  +       +       -      -     -    -    -    -      -       -       -       -     +    +
plain1 published             +       +       +      +     +    +    +    +      -       -       +       +     +    +
one1 published               +       +       +      +     +    +    +    +      -       -       +       +     +    +
closed1 published            -       -       -      -     -    -    -    -      -       -       -       -     -    -
silent1 published            +       +       +      +     +    +    +    +      -       -       +       +     +    +
six1 published               +       +       +      +     +    +    +    +      -       -       +       +     +    +
plain1 published/6           +       +       -      -     -    -    -    -      -       -       -       -     +    +
one1 published/6             +       +       -      -     -    -    -    -      -       -       -       -     +    +
closed1 published/6          -       -       -      -     -    -    -    -      -       -       -       -     -    -
silent1 published/6          +       +       -      -     -    -    -    -      -       -       -       -     +    +
six1 published/6             +       +       -      -     -    -    -    -      -       -       -       -     +    +
plain1 via gateway           -       -       +      +     +    +    +    +      -       -       +       +     +    +
one1 via gateway             -       -       +      +     +    +    +    +      -       -       +       +     +    +
closed1 via gateway          -       -       -      -     -    -    -    -      -       -       -       -     -    -
silent1 via gateway          -       -       +      +     +    +    +    +      -       -       +       +     +    +
six1 via gateway             -       -       +      +     +    +    +    +      -       -       +       +     +    +
plain1 via 127.0.0.1         +       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 via 127.0.0.1           +       -       -      -     -    -    -    -      -       -       -       -     -    -
closed1 via 127.0.0.1        -       -       -      -     -    -    -    -      -       -       -       -     -    -
silent1 via 127.0.0.1        +       -       -      -     -    -    -    -      -       -       -       -     -    -
six1 via 127.0.0.1           +       -       -      -     -    -    -    -      -       -       -       -     -    -
plain1 via ::1               +       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 via ::1                 +       -       -      -     -    -    -    -      -       -       -       -     -    -
closed1 via ::1              -       -       -      -     -    -    -    -      -       -       -       -     -    -
silent1 via ::1              +       -       -      -     -    -    -    -      -       -       -       -     -    -
six1 via ::1                 +       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 local                   +       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 local/6                 +       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 local, from afar        -       -       -      -     -    -    -    -      -       -       -       -     -    -
one1 local, from afar/6      -       -       -      -     -    -    -    -      -       -       -       -     -    -
""",
)
"""The default bridge and networks of one's own, open and closed."""

MODES = Layout(
    _MODES,
    _OF_MODES,
    """
                            host neighbour plain1 routed1 routed2 open1 shut1 shut2 lan1 lan2
lan1                         -       +       -       -       -      -     -     -    +    +
lan2                         -       +       -       -       -      -     -     -    +    +
open1                        +       +       -       -       -      +     -     -    -    -
open1/6                      +       +       -       -       -      +     -     -    -    -
plain1                       +       -       +       -       -      -     -     -    -    -
routed1                      +       +       +       +       +      +     -     -    -    -
routed1/6                    +       +       -       +       +      +     -     -    -    -
routed2                      +       -       -       +       +      -     -     -    -    -
routed2/6                    +       -       -       +       +      -     -     -    -    -
shut1                        -       -       -       -       -      -     +     +    -    -
shut2                        -       -       -       -       -      -     +     +    -    -
gateway                      -       -       +       +       +      +     -     -    -    -
host                         +       +       +       +       +      +     -     -    -    -
host/6                       +       +       -       +       +      +     -     -    -    -
neighbour                    +       +       +       +       +      +     -     -    +    +
neighbour/6                  +       +       -       +       +      +     -     -    -    -
plain1 published             +       +       +       +       +      +     -     -    -    -
routed1 published            -       -       -       -       -      -     -     -    -    -
open1 published              +       +       +       +       +      +     -     -    -    -
plain1 published/6           +       +       -       +       +      +     -     -    -    -
routed1 published/6          -       -       -       -       -      -     -     -    -    -
open1 published/6            +       +       -       +       +      +     -     -    -    -
plain1 via gateway           -       -       +       +       +      +     -     -    -    -
routed1 via gateway          -       -       -       -       -      -     -     -    -    -
open1 via gateway            -       -       +       +       +      +     -     -    -    -
plain1 via 127.0.0.1         +       -       -       -       -      -     -     -    -    -
routed1 via 127.0.0.1        -       -       -       -       -      -     -     -    -    -
open1 via 127.0.0.1          +       -       -       -       -      -     -     -    -    -
plain1 via ::1               +       -       -       -       -      -     -     -    -    -
routed1 via ::1              -       -       -       -       -      -     -     -    -    -
open1 via ::1                +       -       -       -       -      -     -     -    -    -
""",
)
"""Gateway modes of bridges, and macvlan."""
