"""A report as BuildKit's `result.json` of `--call check`, with the fix of each finding added. Pure."""

from __future__ import annotations

import base64

from sampan.build.errors import DockerfileError
from sampan.build.rules.check import Report
from sampan.build.rules.finding import Finding

Json = dict[str, object]

_MANY_LINES = 100


def lint_result(report: Report, raw: bytes, file: str) -> Json:
    """`buildError` is what a build would end with, if anything."""
    result: Json = {
        "warnings": [_warning(item) for item in report.findings],
        "sources": [source(raw, file)],
    }
    mistake = report.mistake
    if mistake is not None:
        ranges: list[Json] = []
        message = mistake.message
        if isinstance(mistake, DockerfileError):
            ranges = line_ranges(mistake.line, mistake.line)
            message = message.splitlines()[0]
        result["buildError"] = {"message": message, "location": {"ranges": ranges}}
    elif report.violation:
        result["buildError"] = {"message": report.violation, "location": {"ranges": []}}
    return result


def source(raw: bytes, file: str) -> Json:
    return {"filename": file, "language": "Dockerfile", "data": base64.b64encode(raw).decode()}


def line_ranges(first: int, last: int) -> list[Json]:
    """One for each line, as BuildKit has it; of a long here-document one for all."""
    if last - first > _MANY_LINES:
        return [{"start": {"line": first}, "end": {"line": last}}]
    return [{"start": {"line": line}, "end": {"line": line}} for line in range(first, last + 1)]


def _warning(finding: Finding) -> Json:
    rule = finding.rule
    texts = {
        "ruleName": rule.name,
        "description": rule.description,
        "url": rule.url,
        "detail": finding.message,
        "fix": rule.fix,
    }
    return {
        **{name: text for name, text in texts.items() if text},
        "location": {"ranges": line_ranges(finding.first, finding.last)},
    }
