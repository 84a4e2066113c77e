"""In place of the nftables socket where the engine may write no rules (Docker's `iptables: false`)."""

from __future__ import annotations

from sampan.linux.nftables import Batch, Family, NftablesSocket


class NoRules(NftablesSocket):
    """Reads what others have written; nothing is written, and what would have been is not there."""

    def commit(self, batch: Batch) -> None:
        return

    def table_handle(self, family: Family, name: str) -> int | None:
        return None
