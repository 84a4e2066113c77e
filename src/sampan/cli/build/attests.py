"""`--attest`, `--provenance` and `--sbom` as one list, the short forms last: they replace the long ones."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Values


def attests(flags: Values) -> list[str]:
    found = list(flags["attest"])
    found += [f"type={name},{flags[name]}" for name in ("provenance", "sbom") if flags[name]]
    return found
