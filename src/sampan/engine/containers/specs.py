"""From a record to its runtime request: looks up what the host has, writes the engine's files. Blocking."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sampan.engine import apparmor, default_spec, hosts_file, security, selinux
from sampan.engine.config import DeviceMapping, words
from sampan.engine.containers import links
from sampan.engine.containers.base import Parts
from sampan.engine.containers.log_target import log_target
from sampan.engine.containers.user_namespaces import id_maps_of
from sampan.engine.containers.volume_mounts import open_subpath
from sampan.engine.model import ContainerRecord, MountPoint
from sampan.engine.seccomp_profile import default_profile, load_profile, parse_kernel, resolve
from sampan.engine.spec import SpecDefaults, SpecFacts, build_spec, throttled_paths
from sampan.engine.userns import IdMaps
from sampan.engine.validate import container_of
from sampan.errors import Internal, Invalid, NotFound, Unsupported
from sampan.linux.capabilities import NAMES
from sampan.linux.filesystems import kernel_version
from sampan.linux.mountinfo import mount_of
from sampan.network import host_resolvers, resolvconf
from sampan.network.model import EndpointSpec
from sampan.oci.spec import Device, DeviceRule, Seccomp, Spec
from sampan.runtime.messages import CreateRequest

log = logging.getLogger(__name__)

_DEFAULTS = SpecDefaults(
    mounts=default_spec.default_mounts(),
    devices=default_spec.default_device_rules(),
    masked_paths=default_spec.MASKED_PATHS,
    readonly_paths=default_spec.READONLY_PATHS,
    sysctls=default_spec.default_sysctls(),
)


def available_capabilities(proc_status: str) -> tuple[str, ...]:
    """The bounding set in /proc/self/status: what this engine can give away."""
    line = next(line for line in proc_status.splitlines() if line.startswith("CapBnd:"))
    mask = int(line.split()[1], 16)
    return tuple(name for number, name in enumerate(NAMES) if mask >> number & 1)


class SpecMaker:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._available = available_capabilities(Path("/proc/self/status").read_text(encoding="ascii"))

    def request(
        self,
        record: ContainerRecord,
        endpoints: Sequence[EndpointSpec],
        joined: Mapping[str, int],
        *,
        embedded_dns: bool,
        log: bool = True,
    ) -> CreateRequest:
        """What the launcher is asked for. `joined`: namespace type -> a process whose namespace is joined.

        Raises `Invalid`, `NotFound`, `Conflict`.
        """
        parts = self._parts
        directory = parts.directory(record.id)
        self._bind_sources(record)
        files = self._files(record, endpoints, joined, embedded_dns)
        ids = parts.settings.id_maps if record.remaps else None
        if ids is not None and joined:
            ids = id_maps_of(next(iter(joined.values())))
        spec = build_spec(record, self._facts(record, files, joined, ids))
        run_dir = parts.run_directory(record.id)
        run_dir.mkdir(mode=0o710, parents=True, exist_ok=True)
        (run_dir / "exit.json").unlink(missing_ok=True)
        parts.settings.log_status_path(record.id).unlink(missing_ok=True)
        target = log_target(record, parts) if log else None
        directory.mkdir(mode=0o710, parents=True, exist_ok=True)
        return CreateRequest(
            record.id,
            spec,
            parts.snapshots.assembly(record.id, record.layers),
            str(run_dir),
            target,
            stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            # Also root is looked up: the image may have put it in further groups.
            user=record.config.user,
            groups=record.host.group_add or (),
            idmapped=ids is not None,
            runtime=self.runtime(record.host.runtime),
        )

    def runtime(self, name: str) -> tuple[str, ...]:
        """The command of another runtime, () for ours. Raises `NotFound` when the engine does not know it any more."""
        if name in ("", "sampan"):
            return ()
        command = self._parts.settings.runtimes.get(name)
        if command is None:
            raise NotFound(f"unknown or invalid runtime name: {name}")
        return command

    def spec_of(self, record: ContainerRecord) -> Spec:
        """The configuration of a running container again, for a further process in it: that enters what is there,
        whatever became of those whose namespaces were joined."""
        return build_spec(record, self._facts(record, {}, {}, id_maps_of(record.state.pid)))

    def _facts(
        self,
        record: ContainerRecord,
        files: Mapping[str, str],
        joined: Mapping[str, int],
        ids: IdMaps | None,
    ) -> SpecFacts:
        host = record.host
        settings = self._parts.settings
        options = security.parse_security(
            host.security_opt or (), no_new_privileges=settings.no_new_privileges
        )
        capabilities = default_spec.adjust_capabilities(
            words(host.cap_add), words(host.cap_drop), host.privileged, self._available
        )
        devices, rules = self._devices(record)
        return SpecFacts(
            _DEFAULTS,
            capabilities,
            self._parts.settings.cgroup_parent,
            self._hostname(record),
            mounts=record.mounts,
            files=files,
            namespaces={kind: f"/proc/{pid}/ns/{_NS_FILES[kind]}" for kind, pid in joined.items()},
            ipc_process=joined.get("ipc", 0),
            shared=shared_namespaces(record),
            devices=devices,
            device_rules=rules,
            block_devices={path: _block_device(path) for path in throttled_paths(host)},
            seccomp=_seccomp(
                options.seccomp or settings.seccomp_profile, capabilities, privileged=host.privileged
            ),
            no_new_privileges=options.no_new_privileges,
            apparmor_profile=apparmor.applied_profile(
                options.apparmor, privileged=host.privileged, supported=self._parts.facts.apparmor
            ),
            paths_unconfined=options.paths_unconfined,
            init=self._parts.settings.init_by_default if host.init is None else host.init,
            ids=ids,
            readonly_trees=kernel_version() >= (5, 12),
            linked=links.variables(record, self._parts.store),
        )

    def _hostname(self, record: ContainerRecord) -> str:
        """With the network of another container comes its name."""
        other = container_of(record.host.network_mode)
        donor = self._parts.store.get(other) if other is not None else None
        return hostname_of(record if donor is None else donor.record)

    def _bind_sources(self, record: ContainerRecord) -> None:
        for point in record.mounts:
            if point.type in ("tmpfs", "image"):
                continue
            if point.given >= 0:
                self._label_mounted(record, point)
                continue
            if point.subpath:
                check_subpath(point)
                continue
            if not os.path.lexists(point.source):
                if point.type == "bind" and not point.create:
                    raise Invalid(
                        f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
                    )
                _make_source(point)
            if point.propagation.removeprefix("r") == "shared" and not point.internal:
                _check_shared(point.source)
            label = selinux.volume_label(record.mount_label, point.mode) if record.mount_label else ""
            if label:
                selinux.relabel(point.source, label)

    def _label_mounted(self, record: ContainerRecord, point: MountPoint) -> None:
        """A volume that is a mount: nobody may have asked for labels, and not every file system has them."""
        label = selinux.volume_label(record.mount_label, point.mode) if record.mount_label else ""
        if label and point.type == "volume":
            try:
                selinux.relabel(point.source, label)
            except Unsupported as error:
                log.info("volume %s keeps its labels: %s", point.name, error)

    def _files(
        self,
        record: ContainerRecord,
        endpoints: Sequence[EndpointSpec],
        joined: Mapping[str, int],
        embedded_dns: bool,
    ) -> dict[str, str]:
        """Write hostname, hosts and resolv.conf; place in the container -> path on the host."""
        directory = self._parts.directory(record.id)
        other = container_of(record.host.network_mode)
        if other is not None:
            # With the network of another container come its files.
            directory = self._parts.directory(other)
        else:
            write_file(directory / "hostname", hostname_of(record) + "\n")
            write_file(directory / "hosts", self.hosts_text(record, endpoints))
            write_file(directory / "resolv.conf", self.resolv_text(record, endpoints, embedded_dns))
        files = {f"/etc/{name}": str(directory / name) for name in ("resolv.conf", "hostname", "hosts")}
        if record.mount_label and other is None:
            for path in files.values():
                selinux.relabel(path, record.mount_label)
        return files

    def hosts_text(self, record: ContainerRecord, endpoints: Sequence[EndpointSpec]) -> str:
        if record.host.network_mode == "host":
            base = Path("/etc/hosts").read_text(encoding="utf-8", errors="replace")
            extra = hosts_file.entries(record.host.extra_hosts or (), self._parts.networks.host_addresses)
            return base + extra
        return hosts_file.render(
            [address for endpoint in endpoints for address in endpoint.bare_addresses],
            hostname_of(record),
            record.config.domainname,
            record.host.extra_hosts or (),
            links.hosts(record, self._parts.store),
            gateways=self._parts.networks.host_addresses,
        )

    def resolv_text(
        self, record: ContainerRecord, endpoints: Sequence[EndpointSpec], embedded_dns: bool
    ) -> str:
        """resolv.conf: the container's --dns options over the engine's over the host's."""
        settings, host = self._parts.settings, record.host
        own, systemd = host_resolvers.read()
        ipv6 = any(endpoint.address6 for endpoint in endpoints)
        base = own if host.network_mode == "host" else resolvconf.for_container(own, systemd, ipv6=ipv6)
        base = resolvconf.override(base, settings.dns, settings.dns_search, settings.dns_options)
        base = resolvconf.override(base, host.dns or (), host.dns_search or (), host.dns_options or ())
        if embedded_dns:
            base = resolvconf.for_embedded(base)
        return resolvconf.render(base)

    def name_server_came(self, record: ContainerRecord) -> None:
        """The resolv.conf of a running container that asks the engine's name server from now on.

        As Docker, not one that somebody has changed.
        """
        path = self._parts.directory(record.id) / "resolv.conf"
        endpoints = [one.spec for one in record.endpoints.values() if one.spec is not None]
        written = path.read_text(encoding="utf-8", errors="replace")
        if written == self.resolv_text(record, endpoints, embedded_dns=False):
            write_file(path, self.resolv_text(record, endpoints, embedded_dns=True))

    def _devices(self, record: ContainerRecord) -> tuple[tuple[Device, ...], tuple[DeviceRule, ...]]:
        host = record.host
        if host.privileged:
            return tuple(_all_devices()), ()
        devices: list[Device] = []
        rules: list[DeviceRule] = []
        for mapping in host.devices or ():
            for device in _mapped(mapping):
                devices.append(device)
                access = mapping.cgroup_permissions or "rwm"
                rules.append(DeviceRule(True, device.type, device.major, device.minor, access))
        rules += [parse_device_rule(text) for text in host.device_cgroup_rules or ()]
        return tuple(devices), tuple(rules)


_NS_FILES = {"network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts"}


def shared_namespaces(record: ContainerRecord) -> frozenset[str]:
    """Namespace types that stay the host's."""
    host = record.host
    found = {
        kind
        for kind, mode in (
            ("network", host.network_mode),
            ("pid", host.pid_mode),
            ("ipc", host.ipc_mode),
            ("uts", host.uts_mode),
            ("cgroup", host.cgroupns_mode),
        )
        if mode == "host"
    }
    return frozenset(found)


def hostname_of(record: ContainerRecord) -> str:
    return record.config.hostname or os.uname().nodename


def write_file(path: Path, text: str) -> None:
    """In place, not by rename: the file is bind mounted into the container, which must see the change."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)


def check_subpath(point: MountPoint) -> None:
    """Raises `NotFound` when there is no such path in the volume, as `open_subpath`."""
    top = os.open(point.within, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_subpath(top, point.subpath, point.within))
    finally:
        os.close(top)


def _check_shared(source: str) -> None:
    """What the container mounts below a shared bind mount has to come out somewhere. Raises `Invalid`."""
    mounted = mount_of(os.path.realpath(source))
    if not mounted.shared:
        raise Invalid(
            f"path {source} is mounted on {mounted.place} but it is not a shared mount",
            hint=f"mount --make-shared {mounted.place}",
        )


def _make_source(point: MountPoint) -> None:
    try:
        os.makedirs(point.source, 0o755, exist_ok=True)
    except OSError as error:
        raise Internal(
            f"error while creating mount source path '{point.source}': mkdir {error.filename}: "
            f"{os.strerror(error.errno or errno.EIO).lower()}"
        ) from error


def _seccomp(profile: str, capabilities: tuple[str, ...], *, privileged: bool) -> Seccomp | None:
    if privileged or profile == security.UNCONFINED:
        return None
    return _resolved_profile("" if profile == security.BUILTIN else profile, capabilities)


@lru_cache(maxsize=32)
def _resolved_profile(text: str, capabilities: tuple[str, ...]) -> Seccomp:
    """The default profile (no text) or a person's, for these capabilities on this host."""
    profile = load_profile(text.encode()) if text else default_profile()
    uname = os.uname()
    return resolve(profile, capabilities, uname.machine, parse_kernel(uname.release))


def _block_device(path: str) -> tuple[int, int]:
    info = _stat(path, f"stat {path}")
    if not stat.S_ISBLK(info.st_mode):
        raise Invalid(f"{path} is not a block device")
    return os.major(info.st_rdev), os.minor(info.st_rdev)


def _stat_device(path: str) -> os.stat_result:
    return _stat(path, f'error gathering device information while adding custom device "{path}"')


def _stat(path: str, doing: str) -> os.stat_result:
    if "\0" in path:
        raise Invalid(f"{doing}: it contains a zero byte: {path!r}")
    try:
        return os.stat(path)
    except OSError as error:
        raise NotFound(f"{doing}: {os.strerror(error.errno or errno.EIO).lower()}") from error


def _device(path: str, place: str, info: os.stat_result) -> Device:
    return Device(
        path=place,
        type="b" if stat.S_ISBLK(info.st_mode) else "c",
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        file_mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
    )


def _mapped(mapping: DeviceMapping) -> list[Device]:
    """The device of a mapping, or all devices below a directory of them (--device /dev/snd)."""
    source = mapping.path_on_host
    place = mapping.path_in_container or source
    if "\0" in place:
        raise Invalid(f"invalid device path in the container: it contains a zero byte: {place!r}")
    info = _stat_device(source)
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        return [_device(source, place, info)]
    if not stat.S_ISDIR(info.st_mode):
        raise Invalid(
            f'error gathering device information while adding custom device "{source}": not a device node'
        )
    nodes = _device_nodes(source)
    if not nodes:
        raise Invalid(
            f'error gathering device information while adding custom device "{source}": not a device node'
        )
    return [_device(path, place + path.removeprefix(source), found) for path, found in nodes]


_OWN_PLACES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd")
_OWN_NODES = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")
)


def _all_devices() -> list[Device]:
    """All device nodes of the host, for privileged containers; those that every container has anyway left out."""
    return [_device(path, path, info) for path, info in _device_nodes("/dev") if path not in _OWN_NODES]


def _device_nodes(top: str) -> list[tuple[str, os.stat_result]]:
    found = []
    for directory, subdirectories, files in os.walk(top):
        subdirectories[:] = [name for name in subdirectories if f"{directory}/{name}" not in _OWN_PLACES]
        for name in files:
            path = f"{directory}/{name}"
            try:
                info = os.lstat(path)
            except FileNotFoundError:
                continue  # unplugged meanwhile
            if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                found.append((path, info))
    return found


def parse_device_rule(text: str) -> DeviceRule:
    """`c 1:3 rwm` with `*` for any number. Raises `Invalid`."""
    words = text.split()
    numbers = words[1].split(":") if len(words) == 3 else []
    valid = (
        len(numbers) == 2
        and words[0] in ("a", "b", "c")
        and set(words[2]) <= set("rwm")
        and all(number == "*" or number.isdecimal() for number in numbers)
    )
    if not valid:
        raise Invalid(f"invalid device cgroup rule format: '{text}'")
    major, minor = (None if number == "*" else int(number) for number in numbers)
    return DeviceRule(True, words[0], major, minor, words[2])
