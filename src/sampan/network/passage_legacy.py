"""The way through the legacy iptables' forward chain: see `passage.py`.

The kernel takes this table only whole, in a format of its own, so it is changed by the program that the host has for
it. Where there is none (another program's rules in a container's image, say), the administrator has to accept the
bridges' traffic; that is logged.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sampan.errors import Unavailable
from sampan.linux import xtables

if TYPE_CHECKING:
    from sampan.network.passage import Pass

_log = logging.getLogger(__name__)
_PROGRAMS = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_SECONDS = 10
_DROPS = ("DROP", "REJECT")
_CHAINS = ("DOCKER-USER", "FORWARD")

_told: set[str] = set()


def replace(version: int, mark: str, wanted: Callable[[frozenset[str]], Sequence[Pass]]) -> bool:
    """Make our rules in this table exactly those; False when they were so. `wanted` is given Docker's bridges.

    Blocks for some milliseconds, where the legacy iptables is in use at all.
    """
    if not xtables.in_use(version):
        return False
    program = _PROGRAMS[version]
    if shutil.which(program, path=_PATH) is None:
        _tell_once(version, program)
        return False
    lines = [shlex.split(line) for line in _run(program, "--wait", "--list-rules").splitlines()]
    present = [line for line in lines if _comment(line).startswith(f"{mark} ")]
    others = [line for line in lines if line not in present]
    target = choose_chain(others)
    wished = wanted(docker_bridges(others))
    passes = wished if target is not None else ()
    if [(line[1], _comment(line)) for line in present] == [(target, one.comment) for one in passes]:
        return False
    orders = [["-D", *line[1:]] for line in present]
    orders += [["-I", target or "", *_specification(one)] for one in reversed(passes)]
    text = "".join(" ".join(map(_quoted, order)) + "\n" for order in orders)
    _run(f"{program}-restore", "--wait", "--noflush", text=f"*filter\n{text}COMMIT\n")
    return True


def choose_chain(lines: Sequence[Sequence[str]]) -> str | None:
    """As `passage.choose_chain`, of what `iptables -S` prints."""
    refuses = any(
        line[:3] == ["-P", "FORWARD", "DROP"]
        or (line[:2] == ["-A", "FORWARD"] and _after(line, "-j") in _DROPS)
        for line in lines
    )
    known = {line[1] for line in lines if line and line[0] in ("-P", "-N")}
    return next((name for name in _CHAINS if name in known), None) if refuses else None


def docker_bridges(lines: Sequence[Sequence[str]]) -> frozenset[str]:
    chains = [line for line in lines if line[0] == "-A" and line[1].startswith("DOCKER")]
    return frozenset(name for line in chains if line[1] != "DOCKER-USER" and (name := _after(line, "-o")))


def _quoted(word: str) -> str:
    """As iptables-restore reads it: it knows double quotes alone."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if " " in word else word


def _specification(one: Pass) -> list[str]:
    words = ["-i", one.source] if one.source else []
    words += ["-o", one.sink] if one.sink else []
    return [*words, "-m", "comment", "--comment", one.comment, "-j", "ACCEPT" if one.accept else "RETURN"]


def _comment(line: Sequence[str]) -> str:
    return _after(line, "--comment")


def _after(line: Sequence[str], word: str) -> str:
    """The value of an option; "" when it is not there or is negated."""
    if word not in line[:-1]:
        return ""
    place = list(line).index(word)
    return "" if line[place - 1] == "!" else line[place + 1]


def _run(*command: str, text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={"PATH": _PATH},
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{command[0]} does not end: another program holds its lock") from exc
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _tell_once(version: int, program: str) -> None:
    drops = xtables.forward_can_drop(version)
    if drops and program not in _told:
        _told.add(program)
        _log.warning(
            "the legacy iptables of this host may drop what containers send, and there is no %s to let it pass",
            program,
        )
