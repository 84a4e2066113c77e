"""`sampan info`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import TEMPLATE_HELP, unescape
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _info(invocation: Invocation) -> int:
    text = invocation.flags["format"]
    failure: SampanError | None = None
    info: dict[str, Any] = {}
    try:
        info = invocation.client().call("GET", "/info")
    except SampanError as error:
        failure = error
    if text:
        if failure is not None:
            raise failure
        _by_template({**info, "ClientInfo": {"Debug": False, "Context": "default", "Plugins": []}}, text)
        return 0
    lines = ["Client:", " Context:    default", " Debug Mode: false", "", "Server:"]
    sys.stdout.write("\n".join(lines) + "\n")
    if failure is not None:
        sys.stdout.flush()
        from sampan.cli.main import describe

        print(f"ERROR: {describe(failure)}", file=sys.stderr)
        raise Failure("errors pretty printing info")
    sys.stdout.write("\n".join(_server_lines(info)) + "\n\n")
    sys.stdout.flush()
    for warning in info.get("Warnings") or ():
        print(warning, file=sys.stderr)
    return 0


def _by_template(info: dict[str, Any], text: str) -> None:
    from sampan.cli.template import Template, TemplateError

    try:
        print(Template("{{json .}}" if text == "json" else unescape(text)).render(info))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None


def _server_lines(info: dict[str, Any]) -> list[str]:
    lines = [
        f" Containers: {info.get('Containers', 0)}",
        f"  Running: {info.get('ContainersRunning', 0)}",
        f"  Paused: {info.get('ContainersPaused', 0)}",
        f"  Stopped: {info.get('ContainersStopped', 0)}",
        f" Images: {info.get('Images', 0)}",
    ]
    lines += _given(info, (("Server Version", "ServerVersion"), ("Storage Driver", "Driver")))
    lines += [f"  {name}: {value}" for name, value in info.get("DriverStatus") or ()]
    lines += _given(
        info,
        (
            ("Logging Driver", "LoggingDriver"),
            ("Cgroup Driver", "CgroupDriver"),
            ("Cgroup Version", "CgroupVersion"),
        ),
    )
    plugins = info.get("Plugins") or {}
    lines.append(" Plugins:")
    for name in ("Volume", "Network", "Authorization", "Log"):
        values = plugins.get(name) or []
        if values or name != "Authorization":
            lines.append(f"  {name}: {' '.join(values)}".rstrip())
    lines.append(f" Swarm: {(info.get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    lines += _given(info, (("Cluster Store", "ClusterStore"), ("Cluster Advertise", "ClusterAdvertise")))
    cluster = info.get("ClusterState") or {}
    if cluster:
        lines.append(f" Cluster State: {cluster.get('State', '')} ({cluster.get('Hosts', 0)} hosts)")
    lines += _runtime_lines(info)
    lines += _host_lines(info)
    lines += _registry_lines(info)
    lines.append(f" Live Restore Enabled: {_bool(info.get('LiveRestoreEnabled'))}")
    pools = info.get("DefaultAddressPools") or []
    if pools:
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools]
    return lines


def _runtime_lines(info: dict[str, Any]) -> list[str]:
    lines = []
    runtimes = info.get("Runtimes") or {}
    if runtimes:
        lines += [
            f" Runtimes: {' '.join(sorted(runtimes))}",
            f" Default Runtime: {info.get('DefaultRuntime', '')}",
        ]
    lines.append(f" Init Binary: {info.get('InitBinary', '')}")
    for title, key in (
        ("containerd version", "ContainerdCommit"),
        ("runc version", "RuncCommit"),
        ("init version", "InitCommit"),
    ):
        lines.append(f" {title}: {(info.get(key) or {}).get('ID', '')}")
    options = info.get("SecurityOptions") or []
    if options:
        lines.append(" Security Options:")
    for option in options:
        fields = dict(item.partition("=")[::2] for item in option.split(","))
        lines.append(f"  {fields.get('name', option)}")
        if fields.get("profile"):
            lines.append(f"   Profile: {fields['profile']}")
    return lines


def _host_lines(info: dict[str, Any]) -> list[str]:
    lines = _given(
        info,
        (
            ("Kernel Version", "KernelVersion"),
            ("Operating System", "OperatingSystem"),
            ("OSType", "OSType"),
            ("Architecture", "Architecture"),
        ),
    )
    lines += [f" CPUs: {info.get('NCPU', 0)}", f" Total Memory: {units.binary_size(info.get('MemTotal', 0))}"]
    lines += _given(info, (("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")))
    lines.append(f" Debug Mode: {_bool(info.get('Debug'))}")
    lines += _given(
        info,
        (
            ("HTTP Proxy", "HttpProxy"),
            ("HTTPS Proxy", "HttpsProxy"),
            ("No Proxy", "NoProxy"),
            ("Registry", "IndexServerAddress"),
        ),
    )
    labels = info.get("Labels") or []
    lines.append(" Labels:")
    lines += [f"  {label}" for label in labels]
    lines.append(f" Experimental: {_bool(info.get('ExperimentalBuild'))}")
    return lines


def _registry_lines(info: dict[str, Any]) -> list[str]:
    config = info.get("RegistryConfig") or {}
    indexes, networks = config.get("IndexConfigs") or {}, config.get("InsecureRegistryCIDRs") or []
    lines = []
    if indexes or networks:
        lines.append(" Insecure Registries:")
        lines += [
            f"  {entry.get('Name', name)}"
            for name, entry in sorted(indexes.items())
            if not entry.get("Secure")
        ]
        lines += [f"  {network}" for network in networks]
    if config.get("Mirrors"):
        lines.append(" Registry Mirrors:")
        lines += [f"  {mirror}" for mirror in config["Mirrors"]]
    return lines


def _given(info: dict[str, Any], rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [f" {title}: {info[key]}" for title, key in rows if info.get(key)]


def _bool(value: Any) -> str:
    return "true" if value else "false"


INFO = Command(
    _info,
    "",
    (Flag("format", "f", "string", TEMPLATE_HELP),),
    maximum=0,
    aliases=("system info", "info"),
)
