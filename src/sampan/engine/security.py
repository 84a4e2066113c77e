"""Security options of a container. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.engine.host_facts import HostFacts
from sampan.engine.seccomp_profile import load_profile
from sampan.engine.settings import Settings
from sampan.errors import Invalid

BUILTIN, UNCONFINED = "builtin", "unconfined"


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """`seccomp`: "" is the engine's default, "builtin" Docker's, "unconfined" none, else the JSON text of a profile."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    paths_unconfined: bool = False


def parse_security(options: Iterable[str], *, no_new_privileges: bool = False) -> SecurityOptions:
    """`--security-opt` values; `no_new_privileges` where they don't say it. Raises `Invalid` in Docker's words."""
    seccomp = apparmor = ""
    unconfined = False
    for option in options:
        separator = "=" if "=" in option else ":"
        name, found, value = option.partition(separator)
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise Invalid(f'invalid --security-opt 2: "{option}"')
            no_new_privileges = value != "false"
        elif not found or not value:
            raise Invalid(f'invalid --security-opt 1: "{option}"')
        elif name == "seccomp":
            seccomp = value
            _check_profile(seccomp)
        elif name == "apparmor":
            apparmor = value
        elif name == "systempaths":
            if value != "unconfined":
                raise Invalid(f'invalid --security-opt 2: "{option}"')
            unconfined = True
        elif name != "label":  # SELinux: accepted, and without effect on hosts that do not have it
            raise Invalid(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(no_new_privileges, seccomp, apparmor, unconfined)


def apparmor_option(options: Iterable[str]) -> str:
    """The profile that options which were accepted name, "" for none."""
    found = ""
    for option in options:
        name, _, value = option.partition("=" if "=" in option else ":")
        found = value if name == "apparmor" else found
    return found


def _check_profile(text: str) -> None:
    if text not in ("", BUILTIN, UNCONFINED):
        load_profile(text.encode())


def announced(settings: Settings, facts: HostFacts) -> tuple[str, ...]:
    """`SecurityOptions` of `info`: what containers of this engine are confined by, in Docker's order."""
    seccomp = settings.seccomp_profile_path or BUILTIN
    found = (
        ("apparmor", facts.apparmor),
        (f"seccomp,profile={seccomp}", True),
        ("selinux", facts.selinux is not None),
        ("userns", facts.remapped),
        ("cgroupns", facts.cgroup_namespace),
        ("no-new-privileges", settings.no_new_privileges),
    )
    return tuple(f"name={name}" for name, present in found if present)
