"""A way through firewalld's forward chain where its table is its own alone: see `passage.py`.

From its version 2 on firewalld owns its table, and the kernel lets nobody else write to it. Then the bridges are put
into its zone "trusted", as Docker puts its own into a zone that accepts all: what they send, to the host too, is let
pass. firewalld forgets that at a reload, and is told again.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence

from sampan.errors import Unavailable

_log = logging.getLogger(__name__)
_PROGRAM = "firewall-cmd"
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_ZONE = "--zone=trusted"
_SECONDS = 20

_ours: dict[str, set[str]] = {}
_told: set[str] = set()


def trust(mark: str, bridges: Sequence[str]) -> bool:
    """Exactly these of our bridges are trusted; False when they were so. Blocks for some tenths of a second."""
    if shutil.which(_PROGRAM, path=_PATH) is None:
        if mark not in _told:
            _told.add(mark)
            _log.warning("firewalld may drop what containers send, and there is no %s to tell it", _PROGRAM)
        return False
    present = set(_run(_ZONE, "--list-interfaces").split())
    missing = [name for name in bridges if name not in present]
    leaving = sorted(_ours.get(mark, set()) & present - set(bridges))
    for name in missing:
        _run(_ZONE, f"--change-interface={name}")
    for name in leaving:
        _run(_ZONE, f"--remove-interface={name}")
    _ours[mark] = (_ours.get(mark, set()) | set(missing)) & set(bridges)
    return bool(missing or leaving)


def trusts(mark: str) -> bool:
    """Some of our bridges are in the zone because of us."""
    return bool(_ours.get(mark))


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            [_PROGRAM, *words], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable("firewalld does not answer") from exc
    if done.returncode:
        raise Unavailable(f"firewall-cmd {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
