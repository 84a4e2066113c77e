"""Results of a check: as BuildKit prints them, and as SARIF 2.1.0 for services that show findings beside code. Pure."""

from __future__ import annotations

import base64

from sampan.cli.table import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_RULER = "-" * 20
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_MISTAKE = "InvalidDockerfile"


def summary(result: dict[str, Any]) -> str:
    count = len(result["warnings"] or ())
    if count == 0:
        return "Check complete, no warnings found."
    return f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!"


def as_text(result: dict[str, Any], shown: str) -> str:
    """What stands below the summary: each finding with the lines that it is about."""
    lines = _source(result)
    parts: list[str] = []
    for warning in result["warnings"] or ():
        url = warning.get("url", "")
        parts.append(f"\nWARNING: {warning['ruleName']}{f' - {url}' if url else ''}")
        parts.append(harmless(warning["detail"]))
        if not url and warning.get("fix"):
            parts.append(f"Fix: {warning['fix']}")
        parts += excerpt(lines, _ranges(warning["location"]), shown)
    return "\n".join(parts)


def mistake(result: dict[str, Any], shown: str) -> str:
    """What would end a build, with its lines; "" when nothing would."""
    error = result.get("buildError")
    if not error:
        return ""
    return "\n".join(
        [harmless(error["message"]), *excerpt(_source(result), _ranges(error["location"]), shown)]
    )


def excerpt(lines: list[str], ranges: list[tuple[int, int]], shown: str) -> list[str]:
    """The marked lines with at least two around them; nothing for a place that is not in the file."""
    if not ranges:
        return []
    first, last = ranges[0][0], min(max(end for _, end in ranges), len(lines))
    if not 1 <= first <= len(lines):
        return []
    start, end, padded = first, last, 0
    wanted = 4 if first == last else 2
    while padded < wanted:
        if start > 1:
            start, padded = start - 1, padded + 1
        if end != len(lines):
            end, padded = end + 1, padded + 1
        padded += 1
    marked = [
        f" {number:3d} | {'>>>' if first <= number <= last else '   '} {harmless(lines[number - 1])}"
        for number in range(start, end + 1)
    ]
    return [f"{harmless(shown)}:{first}", _RULER, *marked, _RULER]


def as_sarif(result: dict[str, Any], shown: str, version: str) -> dict[str, Any]:
    """`shown`: the Dockerfile's path from where the check was started."""
    from urllib.parse import quote

    warnings = list(result["warnings"] or ())
    named = {warning["ruleName"]: warning for warning in warnings}
    rules = [_sarif_rule(warning) for warning in named.values()]
    uri = quote(shown)
    results = [
        _sarif_result(
            warning["ruleName"], list(named).index(warning["ruleName"]), "warning", warning["detail"],
            warning["location"], uri,
        )
        for warning in warnings
    ]  # fmt: skip
    error = result.get("buildError")
    if error:
        rules.append({"id": _MISTAKE, "shortDescription": {"text": "The Dockerfile can't be built"}})
        results.append(_sarif_result(_MISTAKE, len(named), "error", error["message"], error["location"], uri))
    driver = {"name": "sampan", "version": version, "rules": rules}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _sarif_rule(warning: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "id": warning["ruleName"],
        "name": warning["ruleName"],
        "shortDescription": {"text": warning.get("description") or warning["ruleName"]},
        "defaultConfiguration": {"level": "warning"},
    }
    if warning.get("fix"):
        rule["help"] = {"text": warning["fix"]}
    if warning.get("url"):
        rule["helpUri"] = warning["url"]
    return rule


def _sarif_result(
    rule: str, index: int, level: str, text: str, location: dict[str, Any], uri: str
) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    ranges = _ranges(location)
    if ranges:
        physical["region"] = {"startLine": ranges[0][0], "endLine": ranges[-1][1]}
    return {
        "ruleId": rule,
        "ruleIndex": index,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": physical}],
    }


def _source(result: dict[str, Any]) -> list[str]:
    sources = result.get("sources") or [{"data": ""}]
    text = base64.b64decode(sources[0].get("data", "")).decode("utf-8", "replace")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _ranges(location: dict[str, Any]) -> list[tuple[int, int]]:
    found = []
    for each in location.get("ranges") or ():
        first = int(each["start"].get("line", 0))
        found.append((first, max(int(each["end"].get("line", 0)), first)))
    return found
