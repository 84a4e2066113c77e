"""The name server that containers on a network of their own ask: dnsperf in the asker's network namespace."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engines import Contestant

_NETWORK = "benchnames"
_ASKED = 64  # names
_SECONDS = 4
_AT_ONCE = 64  # queries under way
_STEADY = 2000  # queries a second, which every engine can answer


@contextlib.contextmanager
def _asker(each: Contestant) -> Iterator[tuple[str, Path]]:
    """The process id of a container beside another one with many names, and a file of questions for them."""
    each.run("network", "create", _NETWORK)
    names = [f"service{number}" for number in range(_ASKED)]
    aliases = [flag for name in names for flag in ("--network-alias", name)]
    try:
        for name, options in (("bench-asked", aliases), ("bench-asker", [])):
            sleeper = ("bench/busybox", "sleep", "1000")
            each.run(
                "run", "-d", "--name", name, "--network", _NETWORK, *options, *each.run_options, *sleeper
            )
        process = each.run("inspect", "--format", "{{.State.Pid}}", "bench-asker").strip()
        with tempfile.TemporaryDirectory() as directory:
            questions = Path(directory, "questions")
            questions.write_text("".join(f"{name} A\n" for name in names))
            yield process, questions
    finally:
        each.run("rm", "-f", "bench-asked", "bench-asker")
        each.run("network", "rm", _NETWORK)


def _dnsperf(process: str, questions: Path, *options: str, prompt: bool = False) -> str:
    """`prompt`: the kernel lets nobody else go before it, so that what is measured is how long the engine takes."""
    inside = ["nsenter", "--net", "--target", process, *(["chrt", "--fifo", "1"] if prompt else [])]
    command = ["dnsperf", "-s", "127.0.0.11", "-d", str(questions), "-l", str(_SECONDS), *options]
    out = questions.with_name("answers")  # a pipe that is not read at once would keep it from taking answers
    with open(out, "w") as file:
        subprocess.run([*inside, *command], check=True, stdout=file)
    return out.read_text()


def queries_per_second(each: Contestant) -> float:
    """As many as are answered; raises RuntimeError when some are not."""
    with _asker(each) as (process, questions):
        out = _dnsperf(process, questions, "-q", str(_AT_ONCE))
    found = dict(line.strip().split(":", 1) for line in out.splitlines() if ":" in line)
    if "100.00%" not in found["Queries completed"] or "NOERROR" not in found["Response codes"]:
        raise RuntimeError(f"{each.name}: {out}")
    return float(found["Queries per second"])


def loaded_p99_microseconds(each: Contestant) -> float:
    """With as many queries at once as `queries_per_second` has."""
    return _p99(each, "-q", str(_AT_ONCE))


def steady_p99_microseconds(each: Contestant) -> float:
    """Of queries that come at a rate which every engine can answer."""
    return _p99(each, "-Q", str(_STEADY), prompt=True)


def _p99(each: Contestant, *options: str, prompt: bool = False) -> float:
    with _asker(each) as (process, questions):
        out = _dnsperf(process, questions, *options, "-v", prompt=prompt)
    # "> NOERROR NAME TYPE SECONDS"
    took = sorted(float(line.split()[-1]) for line in out.splitlines() if line.startswith("> NOERROR"))
    if len(took) < _STEADY * _SECONDS * 0.9:
        raise RuntimeError(f"{each.name}: only {len(took)} answers\n{out[-2000:]}")
    return took[int(len(took) * 0.99)] * 1e6
