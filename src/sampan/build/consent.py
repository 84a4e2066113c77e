"""What steps may do beyond ordinary ones, and who has to agree: the person who builds, and the engine's owner. Pure.

Names and words are BuildKit's ("entitlements").
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.build.model import Instruction, Plan
from sampan.errors import Denied, Invalid, Unsupported

NETWORK_HOST = "network.host"
SECURITY_INSECURE = "security.insecure"
KNOWN = frozenset((NETWORK_HOST, SECURITY_INSECURE))
DEFAULT_ALLOWED = frozenset((NETWORK_HOST,))
"""By an engine whose owner says nothing, as in Docker."""


def parse_entitlements(names: Iterable[str]) -> frozenset[str]:
    """Raises `Invalid`, `Unsupported`."""
    found = set()
    for name in names:
        if name.partition("=")[0] == "device":
            raise Unsupported("the entitlement device is not supported: build steps get no devices")
        if name not in KNOWN:
            raise Invalid(f"unknown entitlement {name}", hint="entitlements: " + ", ".join(sorted(KNOWN)))
        found.add(name)
    return frozenset(found)


def check_granted(granted: frozenset[str], allowed: frozenset[str]) -> None:
    """`allowed`: by the engine's owner. Raises `Denied`."""
    for name in sorted(granted - allowed):
        raise Denied(
            f"granting entitlement {name} is not allowed by build daemon configuration",
            hint=f'daemon.json: {{"builder": {{"entitlements": {{"{name.replace(".", "-")}": true}}}}}}',
        )


def needed(network: str, security: str) -> frozenset[str]:
    """By a RUN with these values of `--network` and `--security`."""
    found = {NETWORK_HOST} if network == "host" else set()
    return frozenset(found | ({SECURITY_INSECURE} if security == "insecure" else set()))


def require(wanted: frozenset[str], granted: frozenset[str]) -> None:
    """Raises `Denied`."""
    for name in sorted(wanted - granted):
        raise Denied(f"{name} is not allowed", hint=f"who builds has to agree: --allow {name}")


def wanted_by(plan: Plan) -> list[tuple[Instruction, frozenset[str]]]:
    """The instructions of the stages that are built which need consent; triggers of base images show later."""
    found = []
    for stage in plan.stages:
        for instruction in stage.instructions:
            if instruction.keyword == "RUN":
                flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in instruction.flags)
                wanted = needed(flags.get("network", ""), flags.get("security", ""))
                if wanted:
                    found.append((instruction, wanted))
    return found
