"""The runtime configuration (`config.json`): OCI runtime-spec config.md and config-linux.md."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.errors import Invalid


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class Box(_Part, frozen=True):
    height: int = 0
    width: int = 0


class User(_Part, frozen=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str | None = None


class Rlimit(_Part, frozen=True):
    type: str
    hard: int
    soft: int

    @property
    def values(self) -> tuple[int, int]:
        """Soft and hard limit for setrlimit(2). RLIM_INFINITY, -1 there, is written as the largest 64-bit number."""
        return _signed(self.soft), _signed(self.hard)


def _signed(value: int) -> int:
    return -1 if value < 0 or value >= (1 << 63) else value


class Capabilities(_Part, frozen=True):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class IoPriority(_Part, frozen=True, rename={"kind": "class"}):
    """`kind` is IOPRIO_CLASS_*; `priority` 0 (highest) to 7."""

    kind: str
    priority: int = 0


class Process(_Part, frozen=True):
    cwd: str
    args: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: int | None = None
    io_priority: IoPriority | None = None
    scheduler: dict[str, Any] | None = None
    exec_cpu_affinity: dict[str, Any] | None = msgspec.field(default=None, name="execCPUAffinity")


class Root(_Part, frozen=True):
    path: str
    readonly: bool = False


class IdMapping(_Part, frozen=True, rename={"container_id": "containerID", "host_id": "hostID"}):
    container_id: int
    host_id: int
    size: int


class Mount(_Part, frozen=True):
    destination: str
    type: str | None = None
    source: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(_Part, frozen=True):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Part, frozen=True):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(_Part, frozen=True):
    type: str
    path: str | None = None


class Device(_Part, frozen=True):
    path: str
    type: str
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_Part, frozen=True):
    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str | None = None


class MemoryLimits(_Part, frozen=True, rename={"disable_oom_killer": "disableOOMKiller"}):
    """Bytes; -1 is unlimited. Keys not renamed here are the field's own name."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None


class CpuLimits(_Part, frozen=True):
    """`period` and `quota` in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class PidsLimits(_Part, frozen=True):
    limit: int


class WeightDevice(_Part, frozen=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Part, frozen=True):
    major: int
    minor: int
    rate: int


class BlockIoLimits(
    _Part,
    frozen=True,
    rename={
        "leaf_weight": "leafWeight",
        "weight_device": "weightDevice",
        "read_bps": "throttleReadBpsDevice",
        "write_bps": "throttleWriteBpsDevice",
        "read_iops": "throttleReadIOPSDevice",
        "write_iops": "throttleWriteIOPSDevice",
    },
):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    read_bps: tuple[ThrottleDevice, ...] = ()
    write_bps: tuple[ThrottleDevice, ...] = ()
    read_iops: tuple[ThrottleDevice, ...] = ()
    write_iops: tuple[ThrottleDevice, ...] = ()


class NetworkLimits(_Part, frozen=True, rename={"class_id": "classID"}):
    class_id: int | None = None
    priorities: tuple[dict[str, Any], ...] = ()


class Resources(_Part, frozen=True, rename={"block_io": "blockIO", "hugepage_limits": "hugepageLimits"}):
    devices: tuple[DeviceRule, ...] = ()
    memory: MemoryLimits | None = None
    cpu: CpuLimits | None = None
    pids: PidsLimits | None = None
    block_io: BlockIoLimits | None = None
    unified: dict[str, str] | None = None
    network: NetworkLimits | None = None
    hugepage_limits: tuple[dict[str, Any], ...] = ()
    rdma: dict[str, Any] | None = None


class SeccompArg(_Part, frozen=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(_Part, frozen=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Part, frozen=True):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[SeccompRule, ...] = ()


class Personality(_Part, frozen=True):
    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Part, frozen=True):
    """Seconds, and nanoseconds in addition."""

    secs: int = 0
    nanosecs: int = 0


class Linux(_Part, frozen=True):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str | None = None
    resources: Resources | None = None
    rootfs_propagation: str | None = None
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] | None = None
    intel_rdt: dict[str, Any] | None = None
    memory_policy: dict[str, Any] | None = None
    net_devices: dict[str, Any] | None = None


class Spec(_Part, frozen=True):
    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] | None = None
    linux: Linux | None = None


def parse_spec(raw: bytes) -> Spec:
    """Raises `Invalid` with the path of the field that is wrong."""
    try:
        return msgspec.json.decode(raw, type=Spec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"malformed runtime configuration: {error}") from error


def encode_spec(spec: Spec) -> bytes:
    return msgspec.json.encode(spec)
