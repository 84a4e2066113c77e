"""`build --call outline` and `targets` as BuildKit prints them. Pure."""

from __future__ import annotations

from sampan.cli.table import align, harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def targets_text(result: dict[str, Any]) -> str:
    rows = [("TARGET", "DESCRIPTION")]
    for target in result["targets"]:
        name = target.get("name", "")
        if target.get("default"):
            name = f"{name} (default)" if name else "(default)"
        rows.append((name, target.get("description", "")))
    return _table(rows, 1)


def outline_text(result: dict[str, Any]) -> str:
    """Each part with an empty line below it; nothing for a target that takes nothing."""
    parts: list[str] = []
    name, description = result.get("name", ""), result.get("description", "")
    if name or description:
        head = [("TARGET:", name or "(default)"), *([("DESCRIPTION:", description)] if description else [])]
        parts.append(_table(head, 1))
    if result.get("args"):
        rows = [(one["name"], one.get("value", ""), one.get("description", "")) for one in result["args"]]
        parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows], 3))
    for title, key in (("SECRET", "secrets"), ("SSH", "ssh")):
        if result.get(key):
            wanted = [(one["name"], "true" if one.get("required") else "") for one in result[key]]
            parts.append(_table([(title, "REQUIRED"), *wanted], 3))
    return "".join(f"{part}\n" for part in parts)


def _table(rows: Iterable[tuple[str, ...]], padding: int) -> str:
    lines = ["\t".join(harmless(cell).replace("\t", " ") for cell in row) for row in rows]
    return align("\n".join(lines), 0, padding) + "\n"
