"""A way through the forward chain of a firewall that drops what it does not know.

Docker sets the policy of iptables' FORWARD chain to DROP, ufw does, and many a saved rule set ends it with a REJECT.
A packet has to be accepted by every base chain of the hook, so whatever our own table says, our containers' packets
would end there. iptables offers the chain DOCKER-USER for such cases; without it, FORWARD itself is the place. We put
rules at its top, marked with our alias in their comments, and take them away again. They only say that our bridges'
traffic may pass there: our own forward chain has decided already which does. What goes to Docker's own bridges is
not let pass but left to Docker's rules. Before version 28 those leave it to FORWARD's policy whether others reach
the unpublished ports of Docker's containers, so our own chain keeps our containers from them (`Result.foreign`).

There are up to four such chains: of IPv4 and of IPv6, in nf_tables and in the legacy iptables (`passage_legacy.py`).
firewalld rejects what it was not told of, also what bridges forward (br_netfilter); the chain of its table
gets the same rules. Its reload removes them, and the watch puts them back. Where firewalld owns its table, it is
asked instead (`passage_firewalld.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from sampan.linux import nftables_expressions as ex
from sampan.linux.netlink import NetlinkError
from sampan.linux.nftables import Batch, Chain, Family, Hook, NftablesSocket, Rule
from sampan.network import passage_firewalld, passage_legacy
from sampan.network.firewall import can_drop


@dataclass(frozen=True, slots=True)
class Place:
    """Where another program's forward chain is. Rules go into the first of `chains` that is there; the last one is
    the base chain, which decides whether that is needed."""

    family: Family
    table: str
    chains: tuple[str, ...]


IPTABLES = Place(Family.IPV4, "filter", ("DOCKER-USER", "FORWARD"))
IP6TABLES = Place(Family.IPV6, "filter", ("DOCKER-USER", "FORWARD"))
FIREWALLD = Place(Family.INET, "firewalld", ("filter_FORWARD",))
_PLACES = (IPTABLES, IP6TABLES, FIREWALLD)


@dataclass(frozen=True, slots=True)
class Result:
    """`changed`: something was written. `foreign`: bridges that other engines' rules speak of."""

    changed: bool
    foreign: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pass:
    """One rule: packets from (`source`) or to (`sink`) an interface; "" is any. `accept` False: the chain's other
    rules and its policy decide. `comment` tells the rules apart."""

    comment: str
    source: str
    sink: str
    accept: bool


def wanted(mark: str, bridges: Iterable[str], foreign: Collection[str]) -> list[Pass]:
    """The rules in their order. `foreign`: bridges of Docker's."""
    found: list[Pass] = []
    for name in bridges:
        found += [Pass(f"{mark} from {name} to {other}", name, other, False) for other in sorted(foreign)]
        found.append(Pass(f"{mark} from {name}", name, "", True))
        found.append(Pass(f"{mark} to {name}", "", name, True))
    return found


def choose_chain(place: Place, chains: Sequence[Chain], rules: Sequence[Rule]) -> str | None:
    """The chain that must let us pass; None when the base chain is not there or lets everything."""
    there = {
        chain.name: chain for chain in chains if (chain.family, chain.table) == (place.family, place.table)
    }
    base = place.chains[-1]
    if base not in there or not can_drop(there.values(), rules, Hook.FORWARD, (place.family,)):
        return None
    return next(name for name in place.chains if name in there)


def docker_bridges(rules: Iterable[Rule]) -> frozenset[str]:
    """The output interfaces that Docker's own chains speak of."""
    return frozenset(
        rule.output
        for rule in rules
        if rule.output and rule.chain.startswith("DOCKER") and rule.chain != "DOCKER-USER"
    )


def open_for(nftables: NftablesSocket, mark: str, bridges: Sequence[str], *, ipv6: bool = True) -> Result:
    """Exactly these bridges may pass; rules of ours for others are removed. `ipv6`: by IPv6 too."""
    chains = nftables.chains()
    known: set[str] = set()

    def passes(foreign: frozenset[str]) -> list[Pass]:
        known.update(foreign)
        return wanted(mark, bridges, foreign)

    def no_passes(foreign: frozenset[str]) -> list[Pass]:
        passes(foreign)
        return []

    passes6 = passes if ipv6 else no_passes
    changed = [
        _replace(nftables, place, chains, mark, bridges, passes6 if place is IP6TABLES else passes)
        for place in _PLACES
    ]
    changed += [passage_legacy.replace(version, mark, wish) for version, wish in ((4, passes), (6, passes6))]
    return Result(any(changed), frozenset(known - set(bridges)))


def foreign_bridges(nftables: NftablesSocket) -> frozenset[str]:
    """Those that iptables-nft has rules for; the legacy iptables' are known only after `open_for`."""
    found = [docker_bridges(_rules(nftables, place, nftables.chains())) for place in (IPTABLES, IP6TABLES)]
    return frozenset().union(*found)


def close(nftables: NftablesSocket, mark: str) -> None:
    open_for(nftables, mark, ())


def _rules(nftables: NftablesSocket, place: Place, chains: Sequence[Chain]) -> Sequence[Rule]:
    if not any((chain.family, chain.table) == (place.family, place.table) for chain in chains):
        return ()
    return nftables.rules(place.family, place.table)


def _replace(
    nftables: NftablesSocket,
    place: Place,
    chains: Sequence[Chain],
    mark: str,
    bridges: Sequence[str],
    wish: Callable[[frozenset[str]], list[Pass]],
) -> bool:
    rules = _rules(nftables, place, chains)
    present = [rule for rule in rules if rule.comment.startswith(f"{mark} ")]
    others = [rule for rule in rules if rule not in present]
    target = choose_chain(place, chains, others)
    wished = wish(docker_bridges(others))
    passes = wished if target is not None else []
    if [(rule.chain, rule.comment) for rule in present] == [(target, one.comment) for one in passes]:
        if place is FIREWALLD and not passes and passage_firewalld.trusts(mark):
            return passage_firewalld.trust(mark, ())
        return False  # nothing is written: everybody who watches the ruleset would have to look at it again
    batch = Batch(place.family)
    for rule in present:
        batch.delete_rule(place.table, rule.chain, rule.handle)
    for one in reversed(passes):  # each goes before those that are there
        match = (ex.input_is(one.source) if one.source else b"") + (
            ex.output_is(one.sink) if one.sink else b""
        )
        verdict = ex.verdict(ex.Verdict.ACCEPT if one.accept else ex.Verdict.RETURN)
        batch.add_rule(
            place.table, target or "", match, ex.counter(), verdict, comment=one.comment, first=True
        )
    try:
        nftables.commit(batch)
    except NetlinkError as exc:
        if place is not FIREWALLD or exc.errno != errno.EPERM:
            raise
        return passage_firewalld.trust(mark, bridges)  # its owner alone may write to it
    return True
