"""Looking into containers: `top`, `port`, `diff`."""

from __future__ import annotations

from sampan.cli.failure import Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.table import align
from sampan.client.api import ApiError, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHANGES = ("C", "A", "D")


def _top(invocation: Invocation) -> int:
    name, *arguments = invocation.args
    query = {"ps_args": " ".join(arguments)}
    answer = invocation.client().call("GET", f"/containers/{quote_path(name)}/top", query)
    rows = [answer.get("Titles") or [], *(answer.get("Processes") or [])]
    print(align("\n".join("\t".join(row) for row in rows), minimum=20, padding=3))
    return 0


def _port(invocation: Invocation) -> int:
    name, *wanted = invocation.args
    try:
        container = invocation.client().call("GET", f"/containers/{quote_path(name)}/json")
    except ApiError as error:
        raise no_such("container", name, error) from None
    settings: dict[str, Any] = container.get("NetworkSettings") or {}
    ports: dict[str, Any] = settings.get("Ports") or {}
    modes: dict[str, str] | None = None
    if invocation.flags["mode"]:
        modes = settings.get("PublishedBy") or {}
    if wanted:
        port, slash, protocol = wanted[0].partition("/")
        key = f"{port}/{protocol if slash else 'tcp'}"
        if not ports.get(key):
            raise Failure(f"Error: No public port '{wanted[0]}' published for {name}")
        for binding in ports[key]:
            print(_address(binding) + _mode(modes, binding, key))
        return 0
    lines = [
        f"{port} -> {_address(binding)}{_mode(modes, binding, port)}"
        for port, bindings in ports.items()
        for binding in bindings or ()
    ]
    for line in sorted(lines, key=_natural):
        print(line)
    return 0


def _natural(line: str) -> tuple[int, str]:
    number = line.partition("/")[0]
    return (int(number) if number.isdigit() else 0, line)


def _address(binding: dict[str, str]) -> str:
    address = binding.get("HostIp", "")
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def _mode(modes: dict[str, str] | None, binding: dict[str, str], port: str) -> str:
    """How it is published: ` (nat)`, ` (relay)`; nothing when nobody asks."""
    if modes is None:
        return ""
    mode = modes.get(f"{_address(binding)}/{port.partition('/')[2]}")
    return f" ({mode or 'unknown'})"


def _diff(invocation: Invocation) -> int:
    name = invocation.args[0]
    if not name:
        raise Failure("Container name cannot be empty")
    for change in invocation.client().call("GET", f"/containers/{quote_path(name)}/changes") or ():
        print(_CHANGES[change["Kind"]], change["Path"])
    return 0


TOP = Command(_top, "CONTAINER [ps OPTIONS]", minimum=1, interspersed=False, aliases=("container top", "top"))
PORT = Command(
    _port,
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    (Flag("mode", "", "bool", "Show how: nat (past the host's input rules) or relay (obeying them)"),),
    minimum=1,
    maximum=2,
    aliases=("container port", "port"),
)
DIFF = Command(_diff, "CONTAINER", minimum=1, maximum=1, aliases=("container diff", "diff"))
