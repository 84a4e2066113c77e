"""Security options of a container. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.engine.seccomp_profile import load_profile
from sampan.errors import Invalid


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """`seccomp`: "" is the default profile, "unconfined" none, else the JSON text of a profile."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    paths_unconfined: bool = False


def parse_security(options: Iterable[str]) -> SecurityOptions:
    """`--security-opt` values. Raises `Invalid` in Docker's words."""
    no_new_privileges = False
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
            seccomp = "" if value == "builtin" else value
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
    if text not in ("", "unconfined"):
        load_profile(text.encode())
