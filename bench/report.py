"""Results as a table for the terminal, a page (docs/benchmarks.md) and a chart (SVG)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """`values` by contestant. `target` is the ratio to Docker that is aimed at; higher is better if `more`.

    `best`: the ratio is to the lowest of the others, not to Docker's: the best time, the slower of two rates.
    """

    title: str
    unit: str
    values: dict[str, float]
    target: float | None = None
    more: bool = False
    best: bool = False

    def ratio(self, name: str) -> float | None:
        others = [value for other, value in self.values.items() if other != "sampan"]
        against = min(others, default=None) if self.best else self.values.get("docker")
        return self.values[name] / against if against and name in self.values else None

    @property
    def verdict(self) -> str:
        ratio = self.ratio("sampan")
        if ratio is None or self.target is None:
            return ""
        reached = ratio >= self.target if self.more else ratio <= self.target
        return "reached" if reached else "missed"


def table(results: list[Result], names: list[str], against: str) -> str:
    """A Markdown table, which reads well on a terminal too. `against`: what the ratio is to."""
    head = ["work", *names, f"sampan / {against}", "aim", ""]
    rows = [head, ["---"] * len(head)]
    for result in results:
        ratio = result.ratio("sampan")
        sign = "≥" if result.more else "≤"
        rows.append(
            [
                result.title,
                *(_number(result.values.get(name), result.unit) for name in names),
                "" if ratio is None else f"{ratio:.2f}",
                "" if result.target is None else f"{sign} {result.target:.2f}",
                result.verdict,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
    if unit == "MB":
        return f"{value / 1e6:.0f} MB"
    return f"{value:,.0f} {unit}"


def tables(results: list[Result], names: list[str]) -> str:
    """What has other contestants has a table of its own."""
    usual = [result for result in results if not result.best]
    parts = [table(usual, names, "docker")] if usual else []
    others: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if result.best:
            others.setdefault(tuple(result.values), []).append(result)
    for group, found in others.items():
        parts.append(table(found, list(group), "the slower" if found[0].more else "the best"))
    return "\n\n".join(parts)


def page(results: list[Result], names: list[str], versions: dict[str, str]) -> str:
    machine = f"{platform.machine()}, Linux {platform.release()}"
    made = datetime.now(UTC).strftime("%Y-%m-%d")
    listed = "\n".join(f"* {name}: {version}" for name, version in versions.items())
    return f"""# Benchmarks

Written by `make bench` on {made} ({machine}). All engines ran side by side in one run and took turns;
figures are medians. Absolute figures belong to that machine; the ratio to Docker is what counts.

{tables(results, names)}

![chart](benchmarks.svg)

{listed}

What is measured:

* *run --rm*: the whole command from the shell, image `busybox`, command `true`.
* *40 starts*: 40 × `run -d` at the same time, until the last command has ended.
* *memory*: the proportional set size of every process of the engine (daemon, shims, proxies, the containers
  themselves) with 40 idle containers.
* *exec*: the whole command `exec CONTAINER true`, the best of five, median of several.
* *stop*: of a container that ends on SIGTERM. *rm -f of 40*: 40 running containers in one command.
* *stats of 40, CPU*: processor time of all the engine's processes in ten seconds of `stats` with 40 containers.
* *log throughput*: 200 MB of lines of about 100 bytes from `cat`, into the `json-file` driver without rotation.
* *pull*: from a registry on loopback, image not present before.
* *cold build*: `build --no-cache` of a five-step Dockerfile; *cached build*: the same again.
* *build: …*: `build` after one build of the same context, each engine with a context of its own; buildkit is the
  one in Docker's daemon, newest that of the command in SAMPAN_NEWEST_DOCKER. *demo*: six instructions, 200 files,
  no network; cold is with `--no-cache`. *ten stages*: ten independent stages with a RUN each, and a COPY from each.
  *COPY of 1 GB*: 512 files of 2 MB, one of them new.
* *DNS queries*: names of another container, asked by dnsperf in a container's network namespace, 64 at once.
  *DNS p99*: 99 of 100 are answered within this time, under that load and at 2,000 queries a second.
* *volume backup of 1 GB*: to a file; database-like pages and 2,000 small files, nothing of them in memory. *The
  disk*: the same files read, and not kept.
* *CLI start*: `version`, with its request to the daemon.
* *API*: `GET /containers/json` on one connection, one request after the other, no containers.
"""


def chart(results: list[Result]) -> str:
    """Bars of sampan's ratio to Docker; shorter is better (requests per second are inverted)."""
    bars = [(result.title, _burden(result)) for result in results if result.ratio("sampan")]
    row, left, scale = 28, 240, 360
    height = row * len(bars) + 50
    top = max([1.0, *(min(value, 2.0) for _, value in bars)])
    docker = left + scale / top
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="720" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="18" fill="#444">time or memory of sampan, Docker = 1 (shorter is better)</text>',
    ]
    for index, (title, value) in enumerate(bars):
        y = 34 + index * row
        width = min(value, 2.0) / top * scale
        colour = "#2a7f62" if value <= 1 else "#b5541c"
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" fill="#222">{title}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 14}" fill="#222">{value:.2f}</text>')
    parts.append(
        f'<line x1="{docker:.1f}" y1="28" x2="{docker:.1f}" y2="{height - 12}" stroke="#888" stroke-dasharray="4 3"/>'
    )
    parts.append("</svg>\n")
    return "\n".join(parts)


def _burden(result: Result) -> float:
    ratio = result.ratio("sampan") or 0.0
    return 1 / ratio if result.more and ratio else ratio


def write(results: list[Result], names: list[str], versions: dict[str, str], docs: Path) -> None:
    (docs / "benchmarks.md").write_text(page(results, names, versions))
    (docs / "benchmarks.svg").write_text(chart(results))
