"""`sampan volume create`, `ls`, `rm`, `update`."""

from __future__ import annotations

from sampan.cli.commands.lifecycle import for_each
from sampan.cli.commands.prune import DRY_RUN, trial_of
from sampan.cli.create import checks, texts
from sampan.cli.failure import Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import FORMAT_HELP, natural_order, print_listing
from sampan.cli.template_functions import Record
from sampan.client.api import ApiError, filters_query, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}


def volume_record(volume: dict[str, Any]) -> Record:
    labels = volume.get("Labels") or {}
    usage = volume.get("UsageData") or {}

    def size() -> str:
        from sampan.cli import units

        return units.human_size(usage["Size"]) if usage.get("Size", -1) >= 0 else "N/A"

    return Record(
        "volumeContext",
        {
            "Name": lambda: volume.get("Name", ""),
            "Driver": lambda: volume.get("Driver", ""),
            "Scope": lambda: volume.get("Scope", ""),
            "Mountpoint": lambda: volume.get("Mountpoint", ""),
            "Labels": lambda: ",".join(f"{name}={labels[name]}" for name in sorted(labels)),
            "Links": lambda: str(usage["RefCount"]) if usage else "N/A",
            "Size": size,
            "Availability": lambda: "N/A",
            "Group": lambda: "N/A",
            "Status": lambda: "N/A",
        },
        methods={"Label": lambda name: labels.get(name, "")},
    )


def _create(invocation: Invocation) -> int:
    flags = invocation.flags
    if any(flags[flag.name] for flag in _CLUSTER):
        raise _no_cluster()
    name = invocation.args[0] if invocation.args else ""
    if flags["name"]:
        if name:
            raise Failure(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
            )
        name = flags["name"]
    body = {
        "Name": name,
        "Driver": flags["driver"],
        "DriverOpts": texts.to_map(flags["opt"]),
        "Labels": texts.to_map(flags["label"]),
    }
    print(invocation.client().call("POST", "/volumes/create", None, body)["Name"])
    return 0


def _no_cluster() -> Failure:
    return Failure(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again.",
        hint="There are no swarms here, and so no cluster volumes: volumes of several hosts are a volume plugin's "
        "(--driver) or a file server's (--opt type=nfs).",
    )


def _update(invocation: Invocation) -> int:
    """Docker changes cluster volumes alone; its own words for any other volume."""
    name = invocation.args[0]
    try:
        invocation.client().call("GET", f"/volumes/{quote_path(name)}")
    except ApiError as error:
        raise no_such("volume", name, error) from None
    raise Failure("can only update cluster volumes")


def _list(invocation: Invocation) -> int:
    flags = invocation.flags
    query = {"filters": filters_query(collect_filters(flags["filter"]))}
    answer = invocation.client().call("GET", "/volumes", query)
    volumes = sorted(answer.get("Volumes") or [], key=lambda volume: natural_order(volume["Name"]))
    columns: tuple[str, ...] = ("Driver", "Name")
    if flags["cluster"]:
        volumes = [volume for volume in volumes if volume.get("ClusterVolume")]
        columns = ("Name", "Group", "Driver", "Availability", "Status")
    if flags["quiet"] and flags["format"] in ("", "table"):
        for volume in volumes:
            print(volume["Name"])
        return 0
    print_listing([volume_record(item) for item in volumes], flags["format"], columns, _HEADERS)
    return 0


def _remove(invocation: Invocation) -> int:
    trial = trial_of(invocation)
    client = invocation.client()
    query = {"force": invocation.flags["force"], **trial.query}
    told: list[str] = []
    reclaimed = 0

    def remove(name: str) -> None:
        nonlocal reclaimed
        try:
            answer = client.call("DELETE", f"/volumes/{quote_path(name)}", query)
        except ApiError as error:
            raise no_such("volume", name, error) from None
        if trial.dry:
            told.extend(answer["VolumesDeleted"])
            reclaimed += answer["SpaceReclaimed"]

    try:
        return for_each(invocation.args, remove, show=not trial.dry)
    finally:
        if trial.dry:
            print(
                "\n".join([*([f"{trial.verb} Volumes:", *told, ""] if told else ()), trial.total(reclaimed)])
            )


_AVAILABILITY = Flag("availability", "", "string", "Availability of a cluster volume", hidden=True)
_CLUSTER = (
    _AVAILABILITY,
    *(
        Flag(name, "", kind, "Of cluster volumes", hidden=True)
        for name, kind in (
            ("group", "string"),
            ("limit-bytes", "bytes"),
            ("required-bytes", "bytes"),
            ("scope", "string"),
            ("secret", "map"),
            ("sharing", "string"),
            ("topology-preferred", "list"),
            ("topology-required", "list"),
            ("type", "string"),
        )
    ),
)
CREATE = Command(
    _create,
    "[VOLUME]",
    (
        *_CLUSTER,
        Flag("driver", "d", "string", "Volume driver", default="local"),
        Flag("label", "", "list", "Set labels", check=checks.label),
        Flag("name", "", "string", "Name of the volume", hidden=True),
        Flag("opt", "o", "map", "Set options of the driver"),
    ),
    maximum=1,
)
UPDATE = Command(_update, "VOLUME", (_AVAILABILITY,), minimum=1, maximum=1)
LS = Command(
    _list,
    "",
    (
        Flag("cluster", "", "bool", "Show only cluster volumes", hidden=True),
        Flag("filter", "f", "filter", "Show only what meets these conditions"),
        Flag("format", "", "string", FORMAT_HELP),
        Flag("quiet", "q", "bool", "Show only names"),
    ),
    maximum=0,
    aliases=("volume ls", "volume list"),
)
RM = Command(
    _remove,
    "VOLUME [VOLUME...]",
    (DRY_RUN, Flag("force", "f", "bool", "Do not mind volumes that do not exist; remove snapshots too")),
    minimum=1,
    aliases=("volume rm", "volume remove"),
)
