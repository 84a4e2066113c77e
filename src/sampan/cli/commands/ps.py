"""`sampan ps` / `container ls`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import FORMAT_HELP, print_listing, render_rows
from sampan.cli.template_functions import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
_HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
}


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last one an ellipsis when something was cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def display_ports(ports: list[dict[str, Any]]) -> str:
    """Ports as one cell: neighbouring ones as ranges, "0.0.0.0:8080->80/tcp"."""
    groups: dict[str, tuple[int, int]] = {}
    result: list[str] = []
    mapped: list[str] = []
    for port in sorted(ports, key=_port_order):
        private, public = port.get("PrivatePort", 0), port.get("PublicPort", 0)
        protocol, address = port.get("Type", ""), port.get("IP") or ""
        key = protocol
        if address:
            if public != private:
                mapped.append(f"{_host(address)}:{public}->{private}/{protocol}")
                continue
            key = f"{address}/{protocol}"
        group = groups.get(key)
        if group is None:
            groups[key] = (private, private)
        elif private == group[1] + 1:
            groups[key] = (group[0], private)
        elif private != group[1]:
            result.append(_port_group(key, *group))
            groups[key] = (private, private)
    result += [_port_group(key, *group) for key, group in groups.items()]
    return ", ".join(result + mapped)


def _port_order(port: dict[str, Any]) -> tuple[int, str, int, str]:
    return port.get("PrivatePort", 0), port.get("IP") or "", port.get("PublicPort", 0), port.get("Type", "")


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _port_group(key: str, first: int, last: int) -> str:
    address, slash, protocol = key.rpartition("/")
    text = str(first) if first == last else f"{first}-{last}"
    if slash:
        text = f"{_host(address)}:{text}->{text}"
    return f"{text}/{protocol}"


def _names(container: dict[str, Any], full: bool) -> str:
    names = [name.removeprefix("/") for name in container.get("Names") or []]
    if not full:
        # A name with a slash is another container's link to this one.
        names = [name for name in names if "/" not in name][:1] or names
    return ",".join(names)


def _image(container: dict[str, Any], full: bool) -> str:
    name = container.get("Image") or "<no image>"
    identity = str(container.get("ImageID", "")).removeprefix("sha256:")
    if not full:
        if name.removeprefix("sha256:") == identity and identity:
            return identity[:12]
        if "@" in name and ":" in name.rsplit("/", 1)[-1].split("@", 1)[0]:
            return str(name.split("@", 1)[0])
    return str(name)


def _size(container: dict[str, Any]) -> str:
    text = units.human_size(container.get("SizeRw") or 0, 3)
    virtual = container.get("SizeRootFs") or 0
    return f"{text} (virtual {units.human_size(virtual, 3)})" if virtual else text


def _mounts(container: dict[str, Any], full: bool) -> str:
    names = [mount.get("Name") or mount.get("Source", "") for mount in container.get("Mounts") or []]
    return ",".join(name if full else shorten(name, 15) for name in names)


def _command(container: dict[str, Any], full: bool) -> str:
    from sampan.cli.flags import go_quote

    command = container.get("Command") or ""
    return go_quote(command if full else shorten(command, 20))


def container_record(container: dict[str, Any], *, full: bool = False) -> Record:
    """A container's row; `full` leaves nothing out (--no-trunc)."""
    created = container.get("Created") or 0
    labels = container.get("Labels") or {}
    identity = container.get("Id", "")
    return Record(
        "ContainerContext",
        {
            "ID": lambda: identity if full else identity[:12],
            "Names": lambda: _names(container, full),
            "Image": lambda: _image(container, full),
            "Command": lambda: _command(container, full),
            "CreatedAt": lambda: units.local_time(created),
            "RunningFor": lambda: units.ago(created),
            "Ports": lambda: display_ports(container.get("Ports") or []),
            "State": lambda: container.get("State", ""),
            "Status": lambda: container.get("Status", ""),
            "Size": lambda: _size(container),
            "Labels": lambda: ",".join(f"{name}={labels[name]}" for name in sorted(labels)),
            "Mounts": lambda: _mounts(container, full),
            "LocalVolumes": lambda: str(
                sum(mount.get("Driver") == "local" for mount in container.get("Mounts") or [])
            ),
            "Networks": lambda: ",".join(
                sorted((container.get("NetworkSettings") or {}).get("Networks") or {})
            ),
        },
        methods={"Label": lambda name: labels.get(name, "")},
    )


def _shows_size(text: str) -> bool:
    """Whether a template uses the size, which the engine only computes on request. Raises `Failure` for a bad one."""
    if text in ("", "table", "json"):
        return False
    used: list[str] = []

    def size() -> str:
        used.append("Size")
        return ""

    row = container_record({})
    probe = Record(row.kind, {**row.fields, "Size": size}, row.methods)
    render_rows([probe], text.removeprefix("table "))
    return bool(used)


def _ps(invocation: Invocation) -> int:
    flags = invocation.flags
    from sampan.client.api import filters_query

    last = flags["last"]
    if flags["latest"] and last == -1:
        last = 1
    template = flags["format"]
    query = {
        "all": flags["all"],
        "limit": last if last > 0 else None,
        "size": flags["size"] or (not flags["quiet"] and _shows_size(template)),
        "filters": filters_query(collect_filters(flags["filter"])),
    }
    containers = invocation.client().call("GET", "/containers/json", query) or []
    rows = [container_record(item, full=flags["no-trunc"]) for item in containers]
    if flags["quiet"] and template in ("", "table"):
        sys.stdout.write("".join(row.get("ID") + "\n" for row in rows))
        return 0
    columns = _COLUMNS + (("Size",) if flags["size"] else ())
    print_listing(rows, template, columns, _HEADERS)
    return 0


_FLAGS = (
    Flag("all", "a", "bool", "Show all containers (by default only running ones)"),
    Flag("filter", "f", "filter", "Show only what meets these conditions"),
    Flag("format", "", "string", FORMAT_HELP),
    Flag("last", "n", "int", "Show the N containers created last, in any state", default=-1),
    Flag("latest", "l", "bool", "Show the container created last, in any state"),
    Flag("no-trunc", "", "bool", "Shorten nothing"),
    Flag("quiet", "q", "bool", "Show only IDs"),
    Flag("size", "s", "bool", "Show sizes"),
)
_ALIASES = ("container ls", "container list", "container ps", "ps")
PS = Command(_ps, "", _FLAGS, maximum=0, aliases=_ALIASES)
CONTAINER_LS = PS
