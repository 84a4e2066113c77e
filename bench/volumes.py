"""Backup of a volume beside what a person would use without it: tar and zstd -T0, and the disk that both read."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import measure
from engines import Contestant
from report import Result

TITLE = "volume backup of 1 GB"
_PAGE = 8192


def run_all(contestants: list[Contestant], state: Path, repeat: int, only: str | None) -> list[Result]:
    sampan = next(each for each in contestants if each.name == "sampan")
    if not measure.is_chosen(TITLE, only):
        return []
    sampan.run("volume", "create", "bench-volume")
    try:
        tree = Path(json.loads(sampan.run("volume", "inspect", "bench-volume"))[0]["Mountpoint"])
        size = _fill(tree)
        out = state / "backup.tar.zst"
        works: dict[str, Callable[[], object]] = {
            "sampan": lambda: sampan.run("volume", "backup", "bench-volume", str(out)),
            "tar+zstd -T0": lambda: subprocess.run(
                f"set -o pipefail; tar -C {tree} -cf - . | zstd -q -T0 > {out}",
                shell=True,
                executable="/bin/bash",
                check=True,
            ),
            "the disk": lambda: subprocess.run(
                ["find", tree, "-type", "f", "-exec", "cat", "{}", "+"], stdout=subprocess.DEVNULL, check=True
            ),
        }
        samples: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(repeat):
            for name, work in works.items():
                _forget(tree)
                out.unlink(missing_ok=True)
                samples[name].append(size / 1e6 / measure.seconds(work))
        values = {name: sorted(rates)[len(rates) // 2] for name, rates in samples.items()}
    finally:
        sampan.run("volume", "rm", "bench-volume")
    print(f"  {TITLE}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
    return [Result(TITLE, "MB/s", values, 0.7, more=True, best=True)]


def _fill(tree: Path) -> int:
    """Tables of pages that compress to about a third, and small files; bytes in all."""
    chance = random.Random(1)
    words = [
        bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(4000)
    ]
    pages = [
        (b" ".join(chance.choices(words, k=1000))[: _PAGE * 3 // 4] + chance.randbytes(_PAGE // 4))[:_PAGE]
        for _ in range(4096)
    ]
    size = 0
    for number in range(16):
        with open(tree / f"table{number}", "wb") as file:
            for _ in range(7680):
                size += file.write(chance.choice(pages))
    (tree / "small").mkdir()
    for number in range(2000):
        size += (tree / f"small/{number}").write_bytes(chance.choice(pages)[: chance.randint(1, _PAGE)])
    os.sync()
    return size


def _forget(tree: Path) -> None:
    """Nobody reads from memory what the one before has read from the disk."""
    for directory, _, names in os.walk(tree):
        for name in names:
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
