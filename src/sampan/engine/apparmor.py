"""AppArmor (apparmor(7)): the profile that containers get where the host has it, under Docker's name."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

from sampan.errors import Unsupported

log = logging.getLogger(__name__)

DEFAULT_PROFILE = "docker-default"
UNCONFINED = "unconfined"
_PARSER = "apparmor_parser"
_PARSER_SECONDS = 60


def default_profile_text(name: str = DEFAULT_PROFILE) -> str:
    """The profile's source (apparmor.d(5)). Pure.

    What a container's own namespaces bound is allowed; written rules deny what lies beyond them: mounting, and the
    parts of /proc and /sys that are the whole host's. A denial wins over `file`. Of /proc a container writes to its
    processes' files, and to its shared memory's limits below /proc/sys. Signals and tracing stay between containers.
    """
    return f"""profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  unix,
  capability,
  file,
  umount,

  signal receive peer={UNCONFINED},
  signal (send, receive) peer={name},
  ptrace (trace, read, tracedby, readby) peer={name},

  deny mount,

  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{{sysrq-trigger,kcore}} rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def profile_of(asked: str, *, privileged: bool, supported: bool) -> str:
    """The name that a container's `AppArmorProfile` shows, by Docker's rules. Pure.

    `asked`: of `--security-opt apparmor=`, "" for none. Where the host has no AppArmor it stays without effect.
    """
    if not supported:
        return asked
    if privileged:
        return UNCONFINED
    return asked or DEFAULT_PROFILE


def applied_profile(asked: str, *, privileged: bool, supported: bool) -> str | None:
    """What a container's process changes to with its execve; None: nothing."""
    name = profile_of(asked, privileged=privileged, supported=supported)
    return name if supported and name != UNCONFINED else None


def find_parser(search: str | None = None) -> str | None:
    paths = os.environ.get("PATH", "") if search is None else search
    return shutil.which(_PARSER, path=f"{paths}:/usr/sbin:/sbin")


def is_enabled(sys_root: Path = Path("/sys")) -> bool:
    """Whether the kernel confines by AppArmor, and the policy's file system is here to be written to."""
    try:
        enabled = (sys_root / "module/apparmor/parameters/enabled").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return False
    return enabled == "Y" and (sys_root / "kernel/security/apparmor/profiles").exists()


def loaded_profiles(text: str) -> frozenset[str]:
    """The names in /sys/kernel/security/apparmor/profiles: lines of `name (mode)`. Pure."""
    return frozenset(line.rpartition(" (")[0] for line in text.splitlines() if " (" in line)


def prepare(sys_root: Path = Path("/sys"), parser: str | None = None) -> bool:
    """Blocking: whether containers are confined here; the default profile is loaded then.

    Not without the program that loads profiles, as in Docker. Raises `Unsupported` when that fails and the profile is
    not there from elsewhere.
    """
    if not is_enabled(sys_root):
        return False
    parser = parser or find_parser()
    if parser is None:
        log.warning(
            "AppArmor is enabled, but %s is not installed: containers are not confined by it", _PARSER
        )
        return False
    profiles = sys_root / "kernel/security/apparmor/profiles"
    if DEFAULT_PROFILE in loaded_profiles(profiles.read_text(encoding="utf-8", errors="replace")):
        return True
    source = default_profile_text()
    try:
        done = subprocess.run(
            [parser, "-Kr"],
            input=source,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PARSER_SECONDS,
        )
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise Unsupported(
            f"AppArmor enabled on system but the {DEFAULT_PROFILE} profile could not be loaded: {problem}"
        )
    return True
