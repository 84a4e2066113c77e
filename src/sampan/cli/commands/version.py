"""`sampan version`."""

from __future__ import annotations

import sys

from sampan import __version__
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import TEMPLATE_HELP
from sampan.cli.units import local_time, parse_rfc3339
from sampan.client.api import API_VERSION
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def _client_part(api_version: str) -> dict[str, Any]:
    import os

    machine = os.uname().machine
    return {
        "Platform": {"Name": ""},
        "Version": __version__,
        "ApiVersion": api_version,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": _MACHINES.get(machine, machine),
        "Context": "default",
    }


def _version(invocation: Invocation) -> int:
    client = invocation.client()
    failure: SampanError | None = None
    server: dict[str, Any] | None = None
    try:
        server = client.call("GET", "/version")
    except SampanError as error:
        failure = error
    data = {"Client": _client_part(client.version), "Server": server}
    if invocation.flags["format"]:
        _by_template(data, invocation.flags["format"])
    else:
        sys.stdout.write(_text(data))
    if failure is not None:
        sys.stdout.flush()
        raise failure
    return 0


def _by_template(data: dict[str, Any], text: str) -> None:
    from sampan.cli.listing import unescape
    from sampan.cli.template import Template, TemplateError

    if text == "json":
        text = "{{json .}}"
    try:
        print(Template(unescape(text)).render(data))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None


def _text(data: dict[str, Any]) -> str:
    client = data["Client"]
    api = client["ApiVersion"]
    if api != client["DefaultAPIVersion"]:
        api = f"{api} (downgraded from {client['DefaultAPIVersion']})"
    lines = ["Client:"]
    lines += _rows(
        [
            ("Version", client["Version"]),
            ("API version", api),
            ("Python version", client["PythonVersion"]),
            ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
            ("Context", client["Context"]),
        ],
        1,
    )
    server = data["Server"]
    if server:
        lines += ["", f"Server: {(server.get('Platform') or {}).get('Name', '')}".rstrip()]
        for component in server.get("Components") or [_as_component(server)]:
            lines.append(f" {component.get('Name', '')}:")
            lines += _rows(_component_rows(component), 2)
    return "\n".join(lines) + "\n"


def _as_component(server: dict[str, Any]) -> dict[str, Any]:
    return {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}


def _component_rows(component: dict[str, Any]) -> list[tuple[str, str]]:
    details = component.get("Details") or {}
    rows = [("Version", component.get("Version", ""))]
    if "ApiVersion" in details:
        minimum = details.get("MinAPIVersion", "")
        rows.append(("API version", f"{details['ApiVersion']} (minimum version {minimum})"))
    named = {"GoVersion": "Go version", "PythonVersion": "Python version", "GitCommit": "Git commit"}
    if component.get("Name") != "Engine":
        return rows + [(key, str(value)) for key, value in sorted(details.items())]
    rows += [(title, str(details[key])) for key, title in named.items() if details.get(key)]
    if details.get("BuildTime"):
        rows.append(("Built", _built(str(details["BuildTime"]))))
    rows.append(("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"))
    if "Experimental" in details:
        rows.append(("Experimental", str(details["Experimental"])))
    return rows


def _built(text: str) -> str:
    try:
        seconds, _ = parse_rfc3339(text)
    except ValueError:
        return text
    return local_time(seconds, "%a %b %e %H:%M:%S %Y")


def _rows(rows: list[tuple[str, str]], indent: int) -> list[str]:
    """Name and value columns, 18 columns for the name as in Docker's output."""
    return [f"{' ' * indent}{name + ':':<{19 - indent}}{value}".rstrip() for name, value in rows]


VERSION = Command(
    _version,
    "",
    (Flag("format", "f", "string", TEMPLATE_HELP),),
    maximum=0,
)
