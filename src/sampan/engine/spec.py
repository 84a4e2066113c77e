"""A container's runtime configuration (OCI runtime-spec config.md) from its record and facts of the host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sampan.engine.config import HostConfig, ThrottleDevice
from sampan.engine.default_spec import DEFAULT_PATH
from sampan.engine.id_mapping import BY_OWNER, id_mappings
from sampan.engine.model import ContainerRecord, MountPoint
from sampan.engine.mounts import mount_order, tmpfs_points
from sampan.engine.spec_resources import cgroup_path, resources
from sampan.engine.userns import IdMaps
from sampan.errors import Invalid, Unsupported
from sampan.oci.spec import (
    Box,
    Capabilities,
    Device,
    DeviceRule,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Seccomp,
    Spec,
)
from sampan.runtime.messages import INIT_ANNOTATION
from sampan.runtime.options import GIVEN_OPTION, HOST_OPTION, WITHIN_OPTION

OCI_VERSION = "1.0.2"
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")


@dataclass(frozen=True, slots=True)
class SpecDefaults:
    """What every container has unless it says otherwise (`default_spec`)."""

    mounts: tuple[Mount, ...]
    devices: tuple[DeviceRule, ...]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    sysctls: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SpecFacts:
    """What the record does not say: where things are on this host.

    `ipc_process`: whose /dev/shm is shared, if anybody's. `namespaces`: type -> path of a namespace to join;
    `shared`: types that stay the host's. `files`: place in the container -> file on the host (hostname, hosts,
    resolv.conf). `devices`: with their numbers looked up; `block_devices`: path -> (major, minor) for block I/O limits.
    `mounts`: sources filled in. `readonly_trees`: the kernel makes mounts read-only with all below. `ids`: of its user
    namespace, if it has one.
    `linked`: environment variables of legacy links.
    """

    defaults: SpecDefaults
    capabilities: tuple[str, ...]
    cgroup_parent: str
    hostname: str
    mounts: tuple[MountPoint, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    ipc_process: int = 0
    shared: frozenset[str] = frozenset()
    devices: tuple[Device, ...] = ()
    device_rules: tuple[DeviceRule, ...] = ()
    block_devices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    seccomp: Seccomp | None = None
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    paths_unconfined: bool = False
    init: bool = False
    ids: IdMaps | None = None
    readonly_trees: bool = False
    linked: tuple[str, ...] = ()


def build_spec(record: ContainerRecord, facts: SpecFacts) -> Spec:
    """Raises `Invalid` for what can't be expressed (an unknown ulimit)."""
    host = record.host
    masked, readonly = _protected_paths(host, facts)
    annotations = dict(host.annotations or {})
    if facts.init:
        annotations[INIT_ANNOTATION] = "true"
    own_uts = "uts" not in facts.shared
    return Spec(
        oci_version=OCI_VERSION,
        process=process(record, facts),
        root=Root(path="rootfs", readonly=host.readonly_rootfs),
        hostname=facts.hostname if own_uts else None,
        domainname=(record.config.domainname or None) if own_uts else None,
        mounts=mounts(record, facts),
        annotations=annotations or None,
        linux=Linux(
            namespaces=namespaces(facts),
            uid_mappings=facts.ids.uids if facts.ids is not None else (),
            gid_mappings=facts.ids.gids if facts.ids is not None else (),
            devices=facts.devices,
            cgroups_path=cgroup_path(record.host, record.id, facts.cgroup_parent),
            resources=resources(host, _device_rules(host, facts), facts.block_devices),
            rootfs_propagation=root_propagation(facts.mounts),
            seccomp=None if host.privileged else facts.seccomp,
            sysctl=_sysctls(host, facts),
            mount_label=record.mount_label or None,
            masked_paths=masked,
            readonly_paths=readonly,
        ),
    )


def process(record: ContainerRecord, facts: SpecFacts) -> Process:
    config, host = record.config, record.host
    caps = facts.capabilities
    height, width = host.console_size
    return Process(
        cwd=config.working_dir or "/",
        args=config.argv,
        env=environment(record, facts.hostname, facts.linked),
        terminal=config.tty,
        console_size=Box(height=height, width=width) if config.tty and height and width else None,
        capabilities=Capabilities(bounding=caps, effective=caps, permitted=caps),
        rlimits=rlimits(host),
        no_new_privileges=facts.no_new_privileges,
        apparmor_profile=facts.apparmor_profile,
        selinux_label=record.process_label or None,
        oom_score_adj=host.oom_score_adj or None,
    )


def environment(record: ContainerRecord, hostname: str, linked: tuple[str, ...] = ()) -> tuple[str, ...]:
    """PATH, HOSTNAME and TERM, what comes with links (`linked`), and what the configuration says; a name without a
    value takes a variable away."""
    base = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if record.config.tty:
        base.append("TERM=xterm")
    base += linked
    return override_environment(tuple(base), record.config.env or ())


def override_environment(base: tuple[str, ...], changes: tuple[str, ...]) -> tuple[str, ...]:
    found = {entry.partition("=")[0]: entry for entry in base}
    for entry in changes:
        name, equals, _ = entry.partition("=")
        if equals:
            found[name] = entry
        else:
            found.pop(name, None)
    return tuple(found.values())


ULIMITS = frozenset(
    (
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)


def rlimits(host: HostConfig) -> tuple[Rlimit, ...]:
    """Only those that were asked for: what is not said is inherited, which needs no privilege."""
    found = []
    for ulimit in host.ulimits or ():
        if ulimit.name not in ULIMITS:
            raise Invalid(f"invalid ulimit type: {ulimit.name}")
        # -1 is "unlimited", RLIM_INFINITY in 64 bits.
        hard, soft = ulimit.hard % (1 << 64), ulimit.soft % (1 << 64)
        found.append(Rlimit(type=f"RLIMIT_{ulimit.name.upper()}", hard=hard, soft=soft))
    return tuple(found)


_NAMESPACES = ("mount", "network", "uts", "pid", "ipc", "cgroup")


def namespaces(facts: SpecFacts) -> tuple[Namespace, ...]:
    kinds = (*_NAMESPACES, *(("user",) if facts.ids is not None else ()))
    return tuple(
        Namespace(type=kind, path=facts.namespaces.get(kind)) for kind in kinds if kind not in facts.shared
    )


def mounts(record: ContainerRecord, facts: SpecFacts) -> tuple[Mount, ...]:
    """The system's own mounts, then the engine's files, then what was asked for, parents first.

    What was asked for in a directory above the engine's files (a volume on /etc) comes before them, or it hid them.

    A mount that was asked for takes the place of one of the system's own. What belongs to the engine (its files,
    volumes) holds ids as the container sees them; directories of the host are shown with the host's.
    """
    host = record.host
    asked = mount_order((*facts.mounts, *tmpfs_points(host)))
    places = {point.destination for point in asked}
    found = [
        _default_mount(mount, host, facts)
        for mount in facts.defaults.mounts
        if mount.destination not in places
    ]
    kept = [mount for mount in found if mount is not None]
    idmap = ("idmap",) if facts.ids is not None else ()

    def wanted(point: MountPoint) -> Mount:
        own = point.type in ("volume", "image") or point.internal
        return point_mount(point, idmap if own else (), readonly_trees=facts.readonly_trees)

    above = [
        point for point in asked if any(place.startswith(f"{point.destination}/") for place in facts.files)
    ]
    kept += [wanted(point) for point in above]
    for place, source in facts.files.items():
        if place not in places:
            options = ("rbind", "rprivate", *(("ro",) if host.readonly_rootfs else ()), *idmap)
            kept.append(Mount(destination=place, type="bind", source=source, options=options))
    kept += [wanted(point) for point in asked if point not in above]
    return tuple(kept)


def _default_mount(mount: Mount, host: HostConfig, facts: SpecFacts) -> Mount | None:
    place = mount.destination
    options = mount.options
    if place == "/dev/shm":
        if host.ipc_mode == "none":
            return None
        if "ipc" in facts.shared:
            return _bind("/dev/shm", "/dev/shm", ())
        if facts.ipc_process:
            return _bind(f"/proc/{facts.ipc_process}/root/dev/shm", "/dev/shm")
        options = (*(one for one in options if not one.startswith("size=")), f"size={host.shm_size}")
    if place == "/dev/mqueue" and "ipc" in facts.shared and facts.ids is not None:
        return None  # only root of the host may mount the host's
    if host.privileged and place.startswith("/sys"):
        options = tuple(one for one in options if one != "ro")
    return Mount(destination=place, type=mount.type, source=mount.source, options=options)


def _bind(source: str, place: str, flags: tuple[str, ...] = ("nosuid", "noexec", "nodev")) -> Mount:
    return Mount(destination=place, type="bind", source=source, options=("rbind", "rprivate", *flags))


def point_mount(point: MountPoint, idmap: tuple[str, ...] = (), *, readonly_trees: bool = False) -> Mount:
    if point.type == "tmpfs":
        chosen = {option.partition("=")[0] for option in point.options}
        defaults = tuple(
            option
            for option in _TMPFS_DEFAULTS
            if option not in chosen and option.removeprefix("no") not in chosen
        )
        kept = tuple(option for option in point.options if option != "defaults")
        read_only = () if point.rw or "ro" in kept else ("ro",)
        return Mount(
            destination=point.destination,
            type="tmpfs",
            source="tmpfs",
            options=(*defaults, *kept, *read_only),
        )
    if point.id_map == BY_OWNER:
        idmap = ("idmap",)
    uids, gids = id_mappings(point.id_map) if point.id_map not in ("", BY_OWNER) else ((), ())
    given = (*point.options, f"{GIVEN_OPTION}={point.given}") if point.given >= 0 else ()
    within = (f"{WITHIN_OPTION}={point.within}",) if point.within else ()
    # What the host has mounted lately need not be in the runtime's own mount namespace.
    host = (HOST_OPTION,) if point.type == "bind" and not point.internal and point.given < 0 else ()
    return Mount(
        destination=point.destination,
        type="bind",
        source=point.source,
        options=(
            "rbind" if point.recursive else "bind",
            "rw" if point.rw else "ro",
            *_readonly_below(point, readonly_trees),
            point.propagation or "rprivate",
            *idmap,
            *within,
            *host,
            *given,
        ),
        uid_mappings=uids,
        gid_mappings=gids,
    )


def _readonly_below(point: MountPoint, possible: bool) -> tuple[str, ...]:
    """Raises `Unsupported` when it was asked for and the kernel can't."""
    if point.rw or not point.recursive or point.type != "bind" or point.internal or point.given >= 0:
        return ()
    if point.below == "readonly" and not possible:
        raise Unsupported(
            f"the mounts below {point.source} can't be made read-only", hint="that takes Linux 5.12 or later"
        )
    return ("rro",) if possible and point.below != "writable" else ()


def root_propagation(points: tuple[MountPoint, ...]) -> str | None:
    """Mounts of the host reach a container only when its root is not private (mount_namespaces(7))."""
    found = {point.propagation.removeprefix("r") for point in points if point.type == "bind"}
    if "shared" in found:
        return "shared"
    return "rslave" if "slave" in found else None


def _protected_paths(host: HostConfig, facts: SpecFacts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if host.privileged or facts.paths_unconfined:
        return (), ()
    defaults = facts.defaults
    masked = defaults.masked_paths if host.masked_paths is None else host.masked_paths
    readonly = defaults.readonly_paths if host.readonly_paths is None else host.readonly_paths
    return masked, readonly


def _device_rules(host: HostConfig, facts: SpecFacts) -> tuple[DeviceRule, ...]:
    if host.privileged:
        return (DeviceRule(allow=True, type="a", access="rwm"),)
    return (*facts.defaults.devices, *facts.device_rules)


_PING_GROUPS = "net.ipv4.ping_group_range"


def _sysctls(host: HostConfig, facts: SpecFacts) -> dict[str, str] | None:
    found: dict[str, str] = {}
    if "network" not in facts.shared and "network" not in facts.namespaces:
        found.update(facts.defaults.sysctls)
        if facts.ids is not None and _PING_GROUPS in found:
            found[_PING_GROUPS] = f"0 {facts.ids.last_gid}"
    found.update({name.replace("/", "."): value for name, value in (host.sysctls or {}).items()})
    return found or None


def throttled_paths(host: HostConfig) -> tuple[str, ...]:
    """Block devices that the limits name; their numbers have to be looked up."""
    groups: tuple[tuple[ThrottleDevice, ...] | None, ...] = (
        host.blkio_device_read_bps,
        host.blkio_device_write_bps,
        host.blkio_device_read_iops,
        host.blkio_device_write_iops,
    )
    paths = [device.path for group in groups for device in group or ()]
    paths += [device.path for device in host.blkio_weight_device or ()]
    return tuple(dict.fromkeys(paths))
