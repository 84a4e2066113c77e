"""Docker's Config and HostConfig of a container, as the Engine API and the records have them.

Field names follow the API's by rule (`docker_name`). JSON null means "not given" everywhere, as in Go's
decoder; `decode_docker` takes nulls out before the types are checked.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from sampan.engine import json_names
from sampan.errors import Invalid
from sampan.oci.image import Healthcheck

T = TypeVar("T")

_SPECIAL = {
    "uts_mode": "UTSMode",
    "io_maximum_iops": "IOMaximumIOps",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
    "container_id_file": "ContainerIDFile",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
    "device_ids": "DeviceIDs",
    "network_id": "NetworkID",
    "endpoint_id": "EndpointID",
    "ipam_config": "IPAMConfig",
    "ip_address": "IPAddress",
    "ip_prefix_len": "IPPrefixLen",
    "ipv4_address": "IPv4Address",
    "ipv6_address": "IPv6Address",
    "ipv6_gateway": "IPv6Gateway",
    "global_ipv6_address": "GlobalIPv6Address",
    "global_ipv6_prefix_len": "GlobalIPv6PrefixLen",
    "link_local_ips": "LinkLocalIPs",
    "dns_names": "DNSNames",
    "rw": "RW",
    "oom_killed": "OOMKilled",
}


def docker_name(field: str) -> str:
    """`cpu_quota` -> `CpuQuota`, with Docker's irregular spellings."""
    return _SPECIAL.get(field) or "".join(part.capitalize() for part in field.split("_"))


class Docker(msgspec.Struct, frozen=True, rename=docker_name):
    """Base of the API's objects that are written whole."""


class Sparse(msgspec.Struct, frozen=True, rename=docker_name, omit_defaults=True):
    """Base of the API's objects whose empty members are left out."""


Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""An integer as Go's engine has them: a larger one could be neither stored nor given to the kernel."""

Words = str | tuple[str, ...]
"""A command line as one word or as a list (`Entrypoint` and `Cmd` allow both)."""


class ContainerConfig(Docker, frozen=True):
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, str]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] | None = None
    cmd: Words | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    entrypoint: Words | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    shell: tuple[str, ...] | None = None

    @property
    def argv(self) -> tuple[str, ...]:
        """Entry point and command, in one."""
        return (*words(self.entrypoint), *words(self.cmd))


def words(value: Words | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


class LogConfig(Docker, frozen=True):
    type: str = ""
    config: dict[str, str] = {}


class RestartPolicy(Docker, frozen=True):
    name: str = ""
    maximum_retry_count: Int64 = 0


class HostPort(Docker, frozen=True):
    host_ip: str = ""
    host_port: str = ""


class WeightDevice(Docker, frozen=True):
    path: str = ""
    weight: Int64 = 0


class ThrottleDevice(Docker, frozen=True):
    path: str = ""
    rate: Int64 = 0


class DeviceMapping(Docker, frozen=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Docker, frozen=True):
    driver: str = ""
    count: Int64 = 0
    device_ids: tuple[str, ...] | None = None
    capabilities: tuple[tuple[str, ...], ...] | None = None
    options: dict[str, str] | None = None


class Ulimit(Docker, frozen=True):
    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class BindOptions(Sparse, frozen=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Sparse, frozen=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Sparse, frozen=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(Sparse, frozen=True):
    subpath: str = ""


class TmpfsOptions(Sparse, frozen=True):
    """`size_bytes` in bytes; `mode` is the number itself (0o1777 = 1023)."""

    size_bytes: Int64 = 0
    mode: Int64 = 0
    options: tuple[tuple[str, ...], ...] | None = None


class MountRequest(Sparse, frozen=True):
    """An entry of HostConfig.Mounts (`--mount`)."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    id_map: str = msgspec.field(default="", name="IDMap")
    """Beyond Docker: see `engine.id_mapping`."""
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(Docker, frozen=True):
    """Bytes for memory, microseconds for CpuPeriod and CpuQuota, 1e-9 CPUs for NanoCpus."""

    binds: tuple[str, ...] | None = None
    container_id_file: str = ""
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, tuple[HostPort, ...] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    console_size: tuple[Int64, Int64] = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: Words | None = None
    cap_drop: Words | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Int64 = 0
    blkio_weight_device: tuple[WeightDevice, ...] | None = None
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = None
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] | None = None
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: tuple[Ulimit, ...] | None = None
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Int64 = 0
    io_maximum_bandwidth: Int64 = 0
    mounts: tuple[MountRequest, ...] | None = None
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None
    restart_unhealthy: bool | None = None
    """Beyond Docker: the restart policy also restarts a container that has become unhealthy."""


class IpamConfig(Sparse, frozen=True):
    """Addresses that a person fixed for an endpoint."""

    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: tuple[str, ...] | None = None


class EndpointSettings(Docker, frozen=True):
    """A container's place in a network: what was asked for (first), and what it got."""

    ipam_config: IpamConfig | None = None
    links: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: Int64 = 0
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: Int64 = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: Int64 = 0
    dns_names: tuple[str, ...] | None = None


class NetworkingConfig(Docker, frozen=True):
    endpoints_config: dict[str, EndpointSettings] = {}


class CreateBody(ContainerConfig, frozen=True):
    """Body of POST /containers/create: a Config with two more members."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()

    def config(self) -> ContainerConfig:
        values = {name: getattr(self, name) for name in ContainerConfig.__struct_fields__}
        return ContainerConfig(**values)


def decode_docker(raw: bytes, kind: type[T]) -> T:
    """A JSON body of the API; names in any case, null members count as absent, unknown ones are ignored.

    Raises `Invalid` with the member that does not fit.
    """
    try:
        decoded: T = json_names.decode(raw, kind)
        return decoded
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid(f"invalid JSON: {error}") from error
    except RecursionError as error:
        raise Invalid("invalid JSON: it is nested too deeply") from error


def encode(value: object) -> dict[str, Any]:
    """An API object as plain dictionaries, ready for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


_CONFIG_OMITTED = (
    "ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal",
    "StopTimeout", "Shell",
)  # fmt: skip
_HOST_OMITTED = (
    "Annotations",
    "StorageOpt",
    "Tmpfs",
    "Sysctls",
    "Runtime",
    "Mounts",
    "Init",
    "RestartUnhealthy",
)


def config_json(config: ContainerConfig) -> dict[str, Any]:
    """Members that Docker leaves out when they are empty are left out."""
    plain = encode(config)
    for name in _CONFIG_OMITTED:
        if not plain[name] and not (name == "StopTimeout" and plain[name] is not None):
            del plain[name]
    if plain["Labels"] is None:
        plain["Labels"] = {}
    plain["Env"] = plain["Env"] or None
    for name in ("Cmd", "Entrypoint"):
        if isinstance(plain[name], str):
            plain[name] = [plain[name]]
    return plain


def host_config_json(host: HostConfig) -> dict[str, Any]:
    plain = encode(host)
    for name in _HOST_OMITTED:
        if not plain[name] and not (name in ("Init", "RestartUnhealthy") and plain[name] is not None):
            del plain[name]
    for name in ("PortBindings",):
        plain[name] = plain[name] or {}
    return plain
