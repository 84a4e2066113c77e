"""Docker's JSON of one container (inspect) and of the list's entries. Pure but for the clock and sizes given."""

from __future__ import annotations

import hashlib
import shlex
from typing import Any

from msgspec.structs import replace

from sampan.engine import apparmor, default_spec
from sampan.engine.config import config_json, encode, host_config_json
from sampan.engine.containers.base import Parts, log_driver
from sampan.engine.containers.names import dns_names
from sampan.engine.model import ContainerRecord, Endpoint, MountPoint, State, epoch_ns
from sampan.engine.networks import gateways
from sampan.engine.ports import port_name, ports_json, summary_json
from sampan.engine.security import apparmor_option
from sampan.engine.validate import container_of
from sampan.errors import SampanError
from sampan.logs.status import LogStatus, read_status

Json = dict[str, Any]


def _main_mac(record: ContainerRecord) -> str:
    """The MAC address that was asked for in the container's first network."""
    if record.config.mac_address:
        return record.config.mac_address
    mode = record.host.network_mode
    endpoint = record.endpoints.get("bridge" if mode in ("", "default") else mode)
    return endpoint.asked.mac_address if endpoint is not None else ""


def inspect_json(record: ContainerRecord, parts: Parts, exec_ids: list[str]) -> Json:
    directory = parts.directory(record.id)
    argv = record.config.argv
    driver, options = log_driver(record, parts.settings)
    host = host_config_json(record.host)
    host["LogConfig"] = {"Type": driver, "Config": options}
    if not record.host.privileged:
        # What it has by default is said, so that one sees what another engine would have to do.
        host["MaskedPaths"] = _paths(record.host.masked_paths, default_spec.MASKED_PATHS)
        host["ReadonlyPaths"] = _paths(record.host.readonly_paths, default_spec.READONLY_PATHS)
    host["Links"] = _links(record, parts)
    # Docker's newer clients ask for the address with the first network; it is shown here all the same.
    config = config_json(replace(record.config, mac_address=_main_mac(record)))
    # A health check needs it; Docker does not take it over from the image.
    config.pop("Shell", None)
    started = record.state.started_at != "0001-01-01T00:00:00Z"

    def place(name: str) -> str:
        return str(directory / name) if started or record.running else ""

    return {
        "Id": record.id,
        "Created": record.created,
        "Path": argv[0] if argv else "",
        "Args": list(argv[1:]),
        "State": state_json(record.state),
        "Image": record.image_id,
        "ResolvConfPath": place("resolv.conf"),
        "HostnamePath": place("hostname"),
        "HostsPath": place("hosts"),
        "LogPath": place(f"{record.id}-json.log") if driver == "json-file" else "",
        **_log_status_json(record, parts),
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": record.platform,
        "MountLabel": record.mount_label,
        "ProcessLabel": record.process_label,
        "AppArmorProfile": apparmor.profile_of(
            apparmor_option(record.host.security_opt or ()),
            privileged=record.host.privileged,
            supported=parts.facts.apparmor,
        ),
        "ExecIDs": exec_ids or None,
        "HostConfig": host,
        "GraphDriver": {"Data": _graph(record, parts), "Name": "overlay2"},
        "Mounts": [mount_json(point) for point in record.mounts],
        "Config": config,
        "NetworkSettings": {
            **_with_gateways(network_json(record), record, parts),
            **_published_by(record, parts),
        },
    }


def _paths(own: tuple[str, ...] | None, default: tuple[str, ...]) -> list[str]:
    return list(default if own is None else own)


def _published_by(record: ContainerRecord, parts: Parts) -> Json:
    """Beyond Docker's: whether a port goes around the host's input rules (nat) or obeys them (relay)."""
    if not record.running or not record.published:
        return {}
    return {"PublishedBy": {port_name(one): parts.network_host.publish_mode(one) for one in record.published}}


def _with_gateways(settings: Json, record: ContainerRecord, parts: Parts) -> Json:
    """Docker names the gateway of every network, also of those that the default route does not go through."""
    for name, endpoint in record.endpoints.items():
        network = parts.networks.get(endpoint.network_id)
        if endpoint.spec is None or network is None or network.spec is None or network.spec.internal:
            continue
        four, six = gateways.named(network.spec, endpoint.spec)
        shown = {"Gateway": four, "IPv6Gateway": six}
        settings["Networks"][name].update(shown)
        if name == "bridge":
            settings.update(shown)
    return settings


def _links(record: ContainerRecord, parts: Parts) -> list[str] | None:
    """`/other:/this/alias`, as Docker shows links of the default bridge; others as they were asked for."""
    if record.host.links is None or record.host.network_mode not in ("default", "bridge"):
        return list(record.host.links) if record.host.links is not None else None
    shown = []
    for link in record.host.links:
        name, _, alias = link.partition(":")
        try:
            name = parts.store.find(name).record.name
        except SampanError:
            pass  # It has been removed: what was asked for is all there is.
        shown.append(f"/{name}:/{record.name}/{alias or name}")
    return shown


def _log_status_json(record: ContainerRecord, parts: Parts) -> Json:
    """Beyond Docker's: what of the output could not be delivered; only where something went wrong."""
    status = read_status(parts.settings.log_status_path(record.id))
    if status is None or status == LogStatus():
        return {}
    return {
        "LogStatus": {
            "LostLines": status.lost_lines,
            "LostBytes": status.lost_bytes,
            "Error": status.error,
            "WriterRestarts": status.writer_restarts,
        }
    }


def _graph(record: ContainerRecord, parts: Parts) -> Json:
    snapshot = parts.settings.root / "snapshots" / record.id
    return {"UpperDir": str(snapshot / "upper"), "WorkDir": str(snapshot / "work")}


def state_json(state: State) -> Json:
    status = state.status
    body: Json = {
        "Status": status,
        "Running": status in ("running", "paused", "restarting"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }
    if state.health is not None:
        body["Health"] = encode(state.health)
    return body


def mount_json(point: MountPoint) -> Json:
    body: Json = {"Type": point.type}
    if point.type in ("volume", "image"):
        body["Name"] = point.name
    body["Source"] = point.source
    body["Destination"] = point.destination
    if point.type == "volume":
        body["Driver"] = point.driver or "local"
    body.update({"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation})
    return body


def endpoint_json(record: ContainerRecord, endpoint: Endpoint, *, user_defined: bool = True) -> Json:
    asked, spec = endpoint.asked, endpoint.spec
    body: Json = {
        "IPAMConfig": encode(asked.ipam_config) if asked.ipam_config else None,
        "Links": asked.links,
        "Aliases": asked.aliases,
        "MacAddress": asked.mac_address,
        "DriverOpts": asked.driver_opts,
        "GwPriority": asked.gw_priority,
        "NetworkID": endpoint.network_id,
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": list(dns_names(record, endpoint)) if user_defined else None,
    }
    if spec is not None:
        address, _, prefix = spec.address.partition("/")
        address6, _, prefix6 = spec.address6.partition("/")
        body.update(
            {
                "MacAddress": spec.mac,
                "EndpointID": spec.id,
                "Gateway": spec.gateway or "",
                "IPAddress": address,
                "IPPrefixLen": int(prefix or 0),
                "IPv6Gateway": spec.gateway6 or "",
                "GlobalIPv6Address": address6,
                "GlobalIPv6PrefixLen": int(prefix6 or 0),
            }
        )
    return body


_PREDEFINED = ("bridge", "host", "none")
_NEVER = "0001-01-01T00:00:00Z"


def networks_json(record: ContainerRecord) -> Json:
    shown = {
        name: endpoint_json(record, endpoint, user_defined=name not in _PREDEFINED)
        for name, endpoint in record.endpoints.items()
    }
    for name, body in shown.items():
        if record.state.started_at == _NEVER:
            # Docker resolves the name of a network at the first start.
            body["NetworkID"] = ""
        elif record.running and not body["EndpointID"]:
            body["EndpointID"] = _made_up(record, "endpoint", name)
    return shown


def _made_up(record: ContainerRecord, *what: str) -> str:
    """An id for what Docker gives one and we need none for: the same while the container runs."""
    return hashlib.sha256(" ".join((record.id, record.state.started_at, *what)).encode()).hexdigest()


def network_json(record: ContainerRecord) -> Json:
    default = record.endpoints.get("bridge")
    shown = default if default is not None and default.spec is not None else Endpoint("")
    flat = endpoint_json(record, shown)
    own = record.endpoints or (record.running and container_of(record.host.network_mode) is None)
    sandbox = _made_up(record, "sandbox") if own and record.state.started_at != _NEVER else ""
    return {
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if record.state.pid else "",
        "Ports": ports_json(record.config, record.published) if _leads_outside(record) else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": flat["EndpointID"],
        "Gateway": flat["Gateway"],
        "GlobalIPv6Address": flat["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": flat["GlobalIPv6PrefixLen"],
        "IPAddress": flat["IPAddress"],
        "IPPrefixLen": flat["IPPrefixLen"],
        "IPv6Gateway": flat["IPv6Gateway"],
        "MacAddress": flat["MacAddress"] if flat["EndpointID"] else "",
        "Networks": networks_json(record),
    }


def _leads_outside(record: ContainerRecord) -> bool:
    """It runs, and not on internal networks alone: there Docker names no ports, exposed or not."""
    specs = [one.spec for one in record.endpoints.values() if one.spec is not None]
    return record.running and any(one.gateway is not None or one.gateway6 is not None for one in specs)


def summary(record: ContainerRecord, image: str) -> Json:
    """One entry of GET /containers/json, but for `Status`, which depends on the time."""
    host: Json = {"NetworkMode": record.host.network_mode}
    if record.host.annotations:
        host["Annotations"] = record.host.annotations
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image,
        "ImageID": record.image_id,
        "Command": command_text(record),
        "Created": epoch_ns(record.created) // 1_000_000_000,
        "Ports": summary_json(record.config, record.published) if record.running else [],
        "Labels": record.labels,
        "State": record.state.status,
        "Status": "",
        "HostConfig": host,
        "NetworkSettings": {"Networks": networks_json(record)},
        "Mounts": [mount_json(point) for point in record.mounts],
    }


def command_text(record: ContainerRecord) -> str:
    """The command line as `docker ps` shows it: words in single quotes where the shell needs them."""
    argv = record.config.argv
    return " ".join([*argv[:1], *(_quoted(word) for word in argv[1:])])


def _quoted(word: str) -> str:
    if " " not in word and "'" not in word:
        return word
    return shlex.quote(word)


def status_text(state: State, now_ns: int) -> str:
    """`Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`, as Docker says it."""
    started, finished = epoch_ns(state.started_at), epoch_ns(state.finished_at)
    if state.status in ("running", "paused"):
        text = f"Up {human_duration(now_ns - started)}"
        if state.status == "paused":
            return f"{text} (Paused)"
        if state.health is not None:
            shown = "health: starting" if state.health.status == "starting" else state.health.status
            return f"{text} ({shown})"
        return text
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {human_duration(now_ns - finished)} ago"
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    if started == 0:
        return "Created"
    if finished == 0:
        return ""
    return f"Exited ({state.exit_code}) {human_duration(now_ns - finished)} ago"


def human_duration(nanoseconds: int) -> str:
    """Docker's rounding of durations (units.HumanDuration)."""
    seconds = nanoseconds // 1_000_000_000
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = (seconds + 1800) // 3600
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{days // 365} years"
