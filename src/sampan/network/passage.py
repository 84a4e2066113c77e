"""A way through another program's forward chain that drops by policy.

Docker sets the policy of the FORWARD chains of iptables and ip6tables to DROP. A packet has to be accepted by
every base chain of the hook, so whatever our own table says, our containers' packets would end there. iptables
offers the chain DOCKER-USER for such cases; without it, FORWARD itself is the place. We put two rules per bridge at its
top, marked with our alias in their comments, and take them away again. They only say that our bridges' traffic may
pass there: our own forward chain has decided already which does. Where that filter is the legacy
iptables (not nf_tables), which can't be changed by netlink, the administrator has to accept the bridges' traffic.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.linux import nftables_expressions as ex
from sampan.linux.nftables import NF_ACCEPT, Batch, Chain, Family, NftablesSocket, Rule

_TABLE = "filter"
_CHAINS = ("DOCKER-USER", "FORWARD")
_FAMILIES = (Family.IPV4, Family.IPV6)


def choose_chain(chains: Sequence[Chain], family: Family = Family.IPV4) -> str | None:
    """The chain of iptables' (ip6tables') filter table that must let us pass; None: its policy lets everything."""
    names = {chain.name: chain for chain in chains if chain.family == family and chain.table == _TABLE}
    forward = names.get("FORWARD")
    if forward is None or forward.base is None or forward.base.policy == NF_ACCEPT:
        return None
    return next(name for name in _CHAINS if name in names)


def open_for(nftables: NftablesSocket, mark: str, bridges: Sequence[str]) -> bool:
    """Exactly these bridges may pass; rules of ours for others are removed. False when it was so already."""
    changed = [
        _replace(nftables, family, mark, choose_chain(nftables.chains(family), family), bridges)
        for family in _FAMILIES
    ]
    return any(changed)


def close(nftables: NftablesSocket, mark: str) -> None:
    for family in _FAMILIES:
        _replace(nftables, family, mark, None, ())


def _replace(
    nftables: NftablesSocket, family: Family, mark: str, target: str | None, bridges: Sequence[str]
) -> bool:
    present: list[Rule] = []
    if any(chain.table == _TABLE for chain in nftables.chains(family)):
        present = [rule for rule in nftables.rules(family, _TABLE) if _is_ours(rule, mark)]
    wanted = {} if target is None else _wanted(mark, bridges)
    if len(present) == len(wanted) and {(rule.chain, rule.comment) for rule in present} == {
        (target, comment) for comment in wanted
    }:
        return False  # nothing is written: everybody who watches the ruleset would have to look at it again
    batch = Batch(family)
    for rule in present:
        batch.delete_rule(_TABLE, rule.chain, rule.handle)
    if target is not None:
        accept = ex.counter() + ex.verdict(ex.Verdict.ACCEPT)
        for comment, match in wanted.items():
            batch.add_rule(_TABLE, target, match, accept, comment=comment, first=True)
    nftables.commit(batch)
    return True


def _wanted(mark: str, bridges: Sequence[str]) -> dict[str, bytes]:
    """Comment (which tells the rules apart) -> what the rule matches."""
    found: dict[str, bytes] = {}
    for name in bridges:
        found[f"{mark} from {name}"] = ex.input_is(name)
        found[f"{mark} to {name}"] = ex.output_is(name)
    return found


def _is_ours(rule: Rule, mark: str) -> bool:
    return rule.comment.startswith(f"{mark} ")
