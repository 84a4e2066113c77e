"""userns-remap: the host's accounts and subordinate ids, and a trial of what the kernel has for it."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from sampan.engine.settings import Settings
from sampan.engine.userns import Account, IdMaps, id_maps, parse_remap
from sampan.errors import Invalid, SampanError, Unsupported
from sampan.runtime.launcher_client import LauncherClient

DEFAULT_USER = "dockremap"
"""Docker's: an engine that takes over from it finds the same ranges."""
_SUBUID, _SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
_FIRST, _COUNT = 100_000, 65_536


def with_id_maps(settings: Settings) -> Settings:
    """The settings with `userns_remap` looked up. Makes the default user with ranges when they are missing.

    Raises `Invalid` when there is no such account or range.
    """
    if not settings.userns_remap:
        return settings
    return replace(settings, id_maps=_look_up(settings.userns_remap))


def _look_up(value: str) -> IdMaps:
    name = DEFAULT_USER if value == "default" else value
    if value == "default":
        _make_default_user()
    user, group = parse_remap(name, _find_user, _find_group)
    if user.number == 0:
        raise Invalid("--userns-remap: root can't be remapped to itself", hint="leave the option out")
    return id_maps(user, group, _read(_SUBUID), _read(_SUBGID))


def _find_user(text: str) -> Account | None:
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        return None
    return Account(found.pw_name, found.pw_uid)


def _find_group(text: str) -> Account | None:
    try:
        found = grp.getgrgid(int(text)) if text.isdecimal() else grp.getgrnam(text)
    except (KeyError, OverflowError):
        return None
    return Account(found.gr_name, found.gr_gid)


def _make_default_user() -> None:
    """As Docker does: a system user without a shell, and a range of ids for each kind behind all that are given."""
    if _find_user(DEFAULT_USER) is None:
        _run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", DEFAULT_USER)
    for path, flag in ((_SUBUID, "--add-subuids"), (_SUBGID, "--add-subgids")):
        text = _read(path)
        if not any(line.startswith(f"{DEFAULT_USER}:") for line in text.splitlines()):
            first = next_free(text)
            _run("usermod", flag, f"{first}-{first + _COUNT - 1}", DEFAULT_USER)


def next_free(text: str) -> int:
    """The first id behind all ranges in the contents of a subuid(5) file. Pure."""
    ends = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        first, _, count = rest.strip().partition(":")
        if first.isdecimal() and count.isdecimal():
            ends.append(int(first) + int(count))
    return max((_FIRST, *ends))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unsupported(
            f"--userns-remap=default: {command[0]} is not there to make the user {DEFAULT_USER}",
            hint="make it, with ranges in /etc/subuid and /etc/subgid, and try again",
        ) from error
    if done.returncode:
        raise Unsupported(f"--userns-remap=default: {' '.join(command)}: {done.stderr.strip()}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def check_kernel(settings: Settings, launcher: LauncherClient) -> None:
    """Blocking: whether root file systems below our root can be shown with mapped ids. Raises `Unsupported`."""
    if settings.id_maps is None:
        return
    # As a snapshot that is being made: the next start sweeps up what a crash leaves.
    directory = settings.root / "snapshots" / f".create-probe-{secrets.token_hex(4)}"
    directory.mkdir(mode=0o700)
    try:
        made = launcher.user_namespace(settings.id_maps.uids, settings.id_maps.gids, probe=str(directory))
        for descriptor in made:
            os.close(descriptor)
    except SampanError as error:
        raise Unsupported(f"--userns-remap: {error.message}", hint=error.hint) from error
    finally:
        shutil.rmtree(directory)
