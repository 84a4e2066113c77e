"""Does the host filter its input? Then published ports must not go around that filter.

A port published by NAT is translated before the input hook and so escapes the host's own rules. Where the
host has an input filter, ports are published by the relay instead, whose packets pass it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sampan.linux.nftables import NF_ACCEPT, Chain, Family, Hook, NftablesSocket, Rule
from sampan.linux.nftables_expressions import Verdict

_FAMILIES = {4: (Family.INET, Family.IPV4), 6: (Family.INET, Family.IPV6)}
_CAN_DROP = frozenset(
    ("reject", "queue", "lookup verdict", "synproxy", "target REJECT", "target NFQUEUE", "target TARPIT")
)


def filters_input(chains: Iterable[Chain], rules: Sequence[Rule], version: int = 4) -> bool:
    """Can a chain on the input hook that sees this version of IP drop or reject, itself or in chains it calls?"""
    return can_drop(chains, rules, Hook.INPUT, _FAMILIES[version])


def can_drop(chains: Iterable[Chain], rules: Sequence[Rule], hook: Hook, families: Collection[int]) -> bool:
    """Can a chain on this hook, of these families, drop or reject a packet, itself or in chains it calls?"""
    seen: set[tuple[int, str, str]] = set()
    waiting = []
    for chain in chains:
        if chain.family in families and chain.base is not None and chain.base.hook == hook:
            if chain.base.policy != NF_ACCEPT:
                return True
            waiting.append((chain.family, chain.table, chain.name))
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        for rule in rules:
            if (rule.family, rule.table, rule.chain) != place:
                continue
            if _CAN_DROP.intersection(rule.expressions):
                return True
            for code, target in rule.verdicts:
                if code == Verdict.DROP:
                    return True
                if target:
                    waiting.append((rule.family, rule.table, target))
    return False


def nftables_filter_input(nftables: NftablesSocket) -> frozenset[int]:
    """Which versions of IP (4, 6) are filtered in the socket's namespace by nf_tables, also as iptables-nft.

    For the legacy iptables see `xtables`.
    """
    chains = nftables.chains()
    if not any(chain.base is not None and chain.base.hook == Hook.INPUT for chain in chains):
        return frozenset()
    rules = nftables.rules()
    return frozenset(version for version in _FAMILIES if filters_input(chains, rules, version))
