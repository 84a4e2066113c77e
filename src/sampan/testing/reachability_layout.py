"""The world of the reachability matrix: one network of each kind, containers in them, and everything to reach there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

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


def _flags(number: int, *more: str) -> tuple[str, ...]:
    return ("--subnet", f"10.250.{number}.0/24", "--gateway", f"10.250.{number}.1", *more)


NETWORKS = (
    Network("one", _flags(1)),
    Network("two", _flags(2)),
    Network("closed", _flags(3, "--internal")),
    Network("silent", _flags(4, "-o", "com.docker.network.bridge.enable_icc=false")),
)
SIX = Network("six", _flags(5, "--ipv6", "--subnet", "fd00:250:5::/64", "--gateway", "fd00:250:5::1"))

GUESTS = (
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
)
SIX_GUESTS = (Guest("six1", ("six",), ("-p", "8006:80")), Guest("six2", ("six",)))


def targets(world: World) -> tuple[Target, ...]:
    """In the columns' order: every address of every container, the hosts, the published ports."""
    found = []
    for guest, networks in world.addresses.items():
        for network, (address, address6) in networks.items():
            where = f"{guest}@{network}" if len(networks) > 1 else guest
            if address:
                found.append(Target(where, address, WEB, guest))
            if address6:
                found.append(Target(f"{where}/6", address6, WEB, guest))
    found.sort(key=lambda target: target.name)
    published = {
        "plain1": 8001, "one1": 8002, "closed1": 8004, "silent1": 8005,
        **({"six1": 8006} if "six1" in world.addresses else {}),
    }  # fmt: skip
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
        Target("one1 local", "127.0.0.1", 8003, "one1"),
        Target("one1 local/6", "::1", 8003, "one1"),
        Target("one1 local, from afar", HOST, 8003, "one1"),
        Target("one1 local, from afar/6", HOST6, 8003, "one1"),
    )


def matrix(world: World, expected: Mapping[str, str]) -> dict[str, str]:
    """By target, a sign for each of the world's places (see `World.row`). All places ask at the same time."""
    wanted = targets(world)
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


EXPECTED = """
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
"""
"""What the newest Docker (28.5.2) lets through with these networks and containers."""


def expected(places: Sequence[str]) -> dict[str, str]:
    """The part of the table that is about these places and what they serve."""
    known = EXPECTED.strip("\n").splitlines()[0].split()
    missing = tuple(name for name in known if name not in places)
    return {
        target: "".join(sign for place, sign in zip(known, signs, strict=True) if place in places)
        for target, signs in parse(EXPECTED).items()
        if not (missing and target.startswith(missing))
    }
