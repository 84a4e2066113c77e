"""Checks of what a container is asked to be, in Docker's words. Pure: facts of the host are arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from msgspec.structs import replace

from sampan.engine import restart
from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.default_spec import DEFAULT_SHM_SIZE
from sampan.engine.host_facts import HostFacts
from sampan.engine.hosts_file import HOST_GATEWAY
from sampan.engine.resource_checks import check_resources
from sampan.engine.signals import parse_signal
from sampan.errors import Invalid, Unsupported
from sampan.logs.options import DRIVERS, check_log_options
from sampan.oci.image import Healthcheck


def check_config(config: ContainerConfig) -> None:
    """Raises `Invalid` for the first thing that can't work."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise Invalid(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    for name, value in (("hostname", config.hostname), ("domainname", config.domainname)):
        if value and (len(value) > 253 or "\n" in value or "/" in value or "\0" in value):
            raise Invalid(f"invalid {name} format: {value}")
    for word in config.argv:
        # execve(2) takes words that end with a zero byte: what follows one would be lost.
        if "\0" in word:
            raise Invalid(f"invalid command: a word contains a zero byte: {word!r}")
    for name, value in (("user", config.user), ("working directory", config.working_dir)):
        if "\0" in value:
            raise Invalid(f"invalid {name}: it contains a zero byte: {value!r}")
    for entry in config.env or ():
        if not entry.partition("=")[0] or "\0" in entry:
            raise Invalid(f"invalid environment variable: {entry}")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise Invalid("invalid stop timeout: it can't be less than -1")
    if config.healthcheck is not None:
        check_healthcheck(config.healthcheck)


def check_healthcheck(check: Healthcheck) -> None:
    test = check.test
    if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise Invalid(f"Unknown Type '{test[0]}' in HEALTHCHECK (try CMD)")
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        if value and value < 1_000_000:
            raise Invalid(f"{name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise Invalid("Retries in Healthcheck cannot be negative")


def check_host(host: HostConfig, facts: HostFacts) -> tuple[HostConfig, list[str]]:
    """The host configuration with defaults filled in, and warnings. Raises `Invalid`."""
    restart.validate(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise Invalid("can't create 'AutoRemove' container with restart policy")
    check_log(host.log_config.type, host.log_config.config)
    runtime = facts.default_runtime if host.runtime in ("", "io.containerd.runc.v2") else host.runtime
    if runtime not in facts.runtimes:
        names = ", ".join(sorted(facts.runtimes))
        raise Invalid(f"unknown or invalid runtime name: {runtime}", hint=f"runtimes here: {names}")
    _check_modes(host)
    if facts.remapped and host.userns_mode != "host":
        _check_remapped(host)
    check_extra_hosts(host.extra_hosts or ())
    check_resolvers(host)
    _check_device_requests(host)
    _check_storage(host)
    warnings: list[str] = []
    host = check_resources(host, facts, warnings)
    if host.shm_size < 0:
        raise Invalid("SHM size can not be less than 0")
    if host.oom_score_adj < -1000 or host.oom_score_adj > 1000:
        raise Invalid(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
        warnings.append("Published ports are discarded when using host network mode")
    for ulimit in host.ulimits or ():
        if ulimit.soft > ulimit.hard >= 0:
            raise Invalid(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )
    for name in host.sysctls or {}:
        check_sysctl(name, host)
    return replace(
        host,
        shm_size=host.shm_size or DEFAULT_SHM_SIZE,
        restart_policy=replace(host.restart_policy, name=host.restart_policy.name or "no"),
        cgroupns_mode=host.cgroupns_mode or ("private" if facts.cgroup_namespace else "host"),
        ipc_mode=host.ipc_mode or facts.ipc_mode,
        network_mode=host.network_mode or "default",
        runtime=runtime,
        # "Not limited" has one spelling in a record.
        pids_limit=host.pids_limit if host.pids_limit and host.pids_limit > 0 else None,
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
    ), warnings


def check_log(driver: str, options: dict[str, str]) -> None:
    """Raises `Invalid`. An empty driver is the engine's, checked with it."""
    if driver not in ("", "none", *DRIVERS):
        raise Invalid(
            f'error looking up logging plugin {driver}: plugin "{driver}" not found',
            hint=f"drivers: none, {', '.join(DRIVERS)}",
        )
    if driver:
        check_log_options(driver, options)


def _check_modes(host: HostConfig) -> None:
    for name, value, allowed in (
        ("IPC", host.ipc_mode, ("", "none", "private", "shareable", "host")),
        ("PID", host.pid_mode, ("", "host")),
        ("UTS", host.uts_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "private", "host")),
        ("userns", host.userns_mode, ("", "host")),
    ):
        joins = name in ("IPC", "PID") and value.startswith("container:") and len(value) > 10
        if name == "IPC" and value == "container:":
            raise Invalid('can\'t join IPC of container : invalid name or ID supplied: ""')
        if value not in allowed and not joins:
            raise Invalid(f"invalid {name} mode: {value}")


def _check_remapped(host: HostConfig) -> None:
    """What can't be had in a user namespace, in Docker's words."""
    if host.privileged:
        raise Invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host "
            "namespace when running privileged mode",
            hint="--userns host",
        )
    for mode, text in ((host.network_mode, "the host's network"), (host.pid_mode, "the host PID")):
        if mode == "host":
            raise Invalid(
                f"cannot share {text} namespace when user namespaces are enabled", hint="--userns host"
            )


def check_joined(config: ContainerConfig, host: HostConfig) -> None:
    """What a container that uses another's (or the host's) network or name can't have of its own.

    `config` is what was asked for, without the image's part. Raises `Invalid` in Docker's words.
    """
    joins = container_of(host.network_mode) is not None
    publishes = bool(host.port_bindings) or host.publish_all_ports
    links = "can't be used with links. This would result in undefined behavior"
    for conflict, text in (
        (joins and config.hostname, "hostname and the network mode"),
        (host.uts_mode == "host" and config.hostname, "hostname and the UTS mode"),
        (host.network_mode == "host" and host.links, f"host type networking {links}"),
        (joins and host.links, f"container type network {links}"),
        (joins and host.dns, "dns and the network mode"),
        (joins and host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        ((joins or host.network_mode == "host") and config.mac_address, "mac-address and the network mode"),
        (joins and publishes, "port publishing and the container type network mode"),
        (joins and config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if conflict:
            raise Invalid(f"conflicting options: {text}")


_ONE_NAME = re.compile(r"[^\s\x00-\x1f\x7f#]+")
_PORT = re.compile(r"[0-9]{1,5}")


def check_extra_hosts(entries: Iterable[str]) -> None:
    """Each is a line of /etc/hosts, and no more than that. Raises `Invalid` in Docker's words."""
    for entry in entries:
        name, colon, address = entry.replace("=", ":", 1).partition(":")
        if not colon or not address or not _ONE_NAME.fullmatch(name):
            raise Invalid(f'bad format for add-host: "{entry}"')
        plain = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        if plain != HOST_GATEWAY and not _is_address(plain):
            raise Invalid(f'invalid IP address in add-host: "{address}"')


def check_resolvers(host: HostConfig) -> None:
    """Each is a word, or a line's end, of resolv.conf: none may begin another line there. Raises `Invalid`."""
    for server in host.dns or ():
        address, mark, port = server.partition("#")
        if not _is_address(address) or (mark and not _PORT.fullmatch(port)):
            raise Invalid(f"{server} is not an ip address")
    for domain in host.dns_search or ():
        if domain and not _ONE_NAME.fullmatch(domain):
            raise Invalid(f"{domain} is not a valid domain")
    for option in host.dns_options or ():
        if not option.isprintable():
            raise Invalid(f"invalid DNS option: {option!r}")


def _is_address(text: str) -> bool:
    """Also with the interface that a link-local one is at."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return text.isprintable() and " " not in text


_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def check_sysctl(name: str, host: HostConfig) -> None:
    """Only sysctls that belong to one of the container's own namespaces can be set. In runc's words, at create."""
    plain = name.replace("/", ".")
    if plain in _IPC_SYSCTLS or plain.startswith("fs.mqueue."):
        if host.ipc_mode == "host":
            raise Invalid(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
    elif plain.startswith("net."):
        if host.network_mode == "host":
            raise Invalid(f'sysctl "{name}" not allowed in host network namespace')
    elif plain == "kernel.hostname":
        raise Invalid(
            f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field',
            hint="use --hostname",
        )
    elif plain != "kernel.domainname" or host.uts_mode == "host":
        raise Invalid(f'sysctl "{name}" is not in a separate kernel namespace')


def _check_storage(host: HostConfig) -> None:
    if host.isolation.lower() not in ("", "default"):
        raise Invalid(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    for name in host.storage_opt or {}:
        if name.lower() != "size":
            raise Invalid(f"Unknown option {name}")
        raise Unsupported(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
            hint="sampan keeps no quota for a container's writable layer yet",
        )


def _check_device_requests(host: HostConfig) -> None:
    """Devices by capability come from drivers, and there is none: better told than left out."""
    for request in host.device_requests or ():
        capabilities = " ".join(f"[{' '.join(names)}]" for names in request.capabilities or ())
        raise Invalid(
            f'could not select device driver "{request.driver}" with capabilities: [{capabilities}]',
            hint="GPUs are not supported yet; device nodes can be given with --device",
        )


def container_of(mode: str) -> str | None:
    """The container named by a mode `container:<name>`; None for other modes."""
    prefix, colon, name = mode.partition(":")
    return name if prefix == "container" and colon else None
