"""Facts about this engine and its host: `version`, `info`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan import __version__
from sampan.engine.resource_checks import missing_limits
from sampan.engine.settings import Settings
from sampan.linux.cgroups import CgroupHost
from sampan.linux.cgroups.features import detect_features
from sampan.logs.options import DRIVERS
from sampan.registry.proxies import masked

Json = dict[str, object]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Counts:
    running: int
    paused: int
    stopped: int
    images: int


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What `info` says of the cluster that the engine is in, with Docker's members of the time when it had them."""

    json: Json
    warnings: Sequence[str]


class System:
    def __init__(
        self,
        settings: Settings,
        engine_id: str,
        cgroups: CgroupHost,
        counts: Callable[[], Counts],
        *,
        layer_kind: str,
        security_options: Sequence[str] = (),
        cluster: Callable[[], ClusterFacts | None] = lambda: None,
        volume_drivers: Callable[[], Sequence[str]] = lambda: ("local",),
    ) -> None:
        """`counts` is asked at every `info`; `layer_kind` is "erofs" or "dir"; `security_options` are `info`'s."""
        self._security_options = tuple(security_options)
        self._settings = settings
        self._id = engine_id
        self._cgroups = cgroups
        self._counts = counts
        self._layer_kind = layer_kind
        self._cluster = cluster
        self._volume_drivers = volume_drivers

    def version(self) -> Json:
        details = {"KernelVersion": platform.release(), "Os": "linux", "Arch": architecture()}
        return {
            "Platform": {"Name": "sampan"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            "GitCommit": "",
            "PythonVersion": platform.python_version(),
            "GoVersion": f"python{platform.python_version()}",
            **details,
        }

    def info(self) -> Json:
        counts = self._counts()
        memory = memory_total()
        release = os_release(Path("/etc/os-release"))
        features = detect_features(self._cgroups)
        cluster = self._cluster()
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() == "1"
        warnings = missing_limits(features, version_2=self._cgroups.layout == "v2")
        return {
            **({} if cluster is None else cluster.json),
            "ID": self._id,
            "Containers": counts.running + counts.paused + counts.stopped,
            "ContainersRunning": counts.running,
            "ContainersPaused": counts.paused,
            "ContainersStopped": counts.stopped,
            "Images": counts.images,
            "Driver": "overlay2",
            "DriverStatus": [["Layers", self._layer_kind], ["Backing Filesystem", "extfs"]],
            "Plugins": {
                "Volume": list(self._volume_drivers()),
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"],
                "Authorization": None,
                "Log": list(DRIVERS),
            },
            "MemoryLimit": features.memory,
            "SwapLimit": features.swap,
            "CpuCfsPeriod": features.cpu_quota,
            "CpuCfsQuota": features.cpu_quota,
            "CPUShares": features.cpu_shares,
            "CPUSet": features.cpuset,
            "PidsLimit": features.pids,
            "OomKillDisable": features.oom_kill_disable,
            "IPv4Forwarding": forwards,
            "BridgeNfIptables": False,
            "BridgeNfIp6tables": False,
            "Debug": self._settings.debug,
            "LoggingDriver": self._settings.log_driver,
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if self._cgroups.layout == "v2" else "1",
            "KernelVersion": platform.release(),
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "NCPU": os.cpu_count() or 1,
            "MemTotal": memory,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": self._registries(),
            "DockerRootDir": str(self._settings.root),
            "HttpProxy": masked(self._settings.proxies.http),
            "HttpsProxy": masked(self._settings.proxies.https),
            "NoProxy": self._settings.proxies.excluded,
            "Name": platform.node(),
            "Labels": list(self._settings.labels),
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"sampan": {"path": "sampan-runtime"}, **_runtimes(self._settings.runtimes)},
            "DefaultRuntime": self._settings.default_runtime,
            "Swarm": {"NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": False},
            "LiveRestoreEnabled": True,
            "InitBinary": "sampan",
            "SecurityOptions": list(self._security_options),
            "Warnings": [
                *warnings,
                *([] if forwards else ["WARNING: IPv4 forwarding is disabled"]),
                *(cluster.warnings if cluster is not None else ()),
            ]
            or None,
        }

    def _registries(self) -> Json:
        insecure = ("127.0.0.0/8", "::1/128", *self._settings.insecure_registries)
        networks = [entry for entry in insecure if "/" in entry]
        hosts = [entry for entry in insecure if "/" not in entry]
        own = {"Name": "docker.io", "Mirrors": list(self._settings.registry_mirrors.get("docker.io", ()))}
        configs: dict[str, Json] = {"docker.io": {**own, "Secure": True, "Official": True}}
        for host in hosts:
            configs[host] = {"Name": host, "Mirrors": [], "Secure": False, "Official": False}
        return {"InsecureRegistryCIDRs": networks, "IndexConfigs": configs, "Mirrors": own["Mirrors"]}


def _runtimes(commands: Mapping[str, tuple[str, ...]]) -> Json:
    return {
        name: {"path": path, **({"runtimeArgs": arguments} if arguments else {})}
        for name, (path, *arguments) in commands.items()
    }


def architecture() -> str:
    """This machine's architecture in OCI's (Go's) words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def memory_total() -> int:
    """Bytes of memory of the host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def os_release(path: Path) -> Mapping[str, str]:
    """The fields of an os-release file (os-release(5)); empty when the host has none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
