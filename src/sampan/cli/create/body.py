"""The body of POST /containers/create out of parsed flags, as Docker's own client would fill it in."""

from __future__ import annotations

import os

from sampan.cli.create import texts
from sampan.cli.create.ports import parse_expose, parse_publish
from sampan.client.codec import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Values

_PREDEFINED_NETWORKS = ("bridge", "host", "none", "default", "")


def build_body(flags: Values, image: str, command: list[str]) -> dict[str, Any]:
    """Config, HostConfig and NetworkingConfig. Raises `ValueError` with Docker's words, `OSError` for files."""
    volumes, binds = _volumes(flags["volume"])
    bindings = parse_publish(flags["publish"])
    exposed = dict.fromkeys([*bindings, *parse_expose(flags["expose"])])
    body = _config(flags, image, command)
    body["ExposedPorts"] = {port: {} for port in exposed}
    body["Volumes"] = volumes
    host = _host_config(flags)
    host["Binds"] = binds or None
    host["PortBindings"] = bindings
    if host["AutoRemove"] and host["RestartPolicy"]["Name"] not in ("no", ""):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    endpoints, mode = _networks(flags)
    host["NetworkMode"] = mode
    body["HostConfig"] = host
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    if flags["mac-address"]:
        body["MacAddress"] = _mac_address(flags["mac-address"])
    return body


def _config(flags: Values, image: str, command: list[str]) -> dict[str, Any]:
    attach = flags["attach"]
    attach_stdin = "stdin" in attach or flags["interactive"]
    config: dict[str, Any] = {
        "Hostname": flags["hostname"],
        "Domainname": flags["domainname"],
        "User": flags["user"],
        "AttachStdin": attach_stdin,
        "AttachStdout": "stdout" in attach or not attach,
        "AttachStderr": "stderr" in attach or not attach,
        "Tty": flags["tty"],
        "OpenStdin": flags["interactive"],
        "StdinOnce": flags["interactive"] and attach_stdin,
        "Env": _environment(flags),
        "Cmd": command or None,
        "Image": image,
        "WorkingDir": flags["workdir"],
        "Entrypoint": None,
        "Labels": _labels(flags),
    }
    if flags.changed("entrypoint"):
        config["Entrypoint"] = [flags["entrypoint"]]
    if flags["stop-signal"]:
        config["StopSignal"] = flags["stop-signal"]
    if flags.changed("stop-timeout"):
        config["StopTimeout"] = flags["stop-timeout"]
    health = _health(flags)
    if health:
        config["Healthcheck"] = health
    return config


def _environment(flags: Values) -> list[str]:
    try:
        return texts.read_environment(flags["env-file"], flags["env"])
    except ValueError as error:
        raise ValueError(f"poorly formatted environment: {error}") from None


def _labels(flags: Values) -> dict[str, str]:
    try:
        return texts.read_labels(flags["label-file"], flags["label"])
    except ValueError as error:
        raise ValueError(f"poorly formatted environment: {error}") from None


def _health(flags: Values) -> dict[str, Any] | None:
    durations = ("interval", "timeout", "start-period", "start-interval")
    given = (
        flags["health-cmd"] or flags["health-retries"] or any(flags[f"health-{name}"] for name in durations)
    )
    if flags["no-healthcheck"]:
        if given:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return None
    for name in ("interval", "timeout", "retries", "start-period", "start-interval"):
        if flags[f"health-{name}"] < 0:
            raise ValueError(f"--health-{name} cannot be negative")
    health: dict[str, Any] = {"Test": ["CMD-SHELL", flags["health-cmd"]]} if flags["health-cmd"] else {}
    for key, name in (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start-period")):
        if flags[f"health-{name}"]:
            health[key] = flags[f"health-{name}"]
    if flags["health-start-interval"]:
        health["StartInterval"] = flags["health-start-interval"]
    if flags["health-retries"]:
        health["Retries"] = flags["health-retries"]
    return health


def _host_config(flags: Values) -> dict[str, Any]:
    security, unconfined = _security(flags["security-opt"])
    host: dict[str, Any] = {
        "ContainerIDFile": flags["cidfile"],
        "LogConfig": {"Type": flags["log-driver"], "Config": _log_options(flags)},
        "RestartPolicy": parse_restart(flags["restart"]),
        "AutoRemove": flags["rm"],
        "VolumeDriver": flags["volume-driver"],
        "VolumesFrom": flags["volumes-from"] or None,
        "CapAdd": flags["cap-add"] or None,
        "CapDrop": flags["cap-drop"] or None,
        "CgroupnsMode": _mode(flags, "cgroupns", ("", "host", "private"), "--cgroupns: invalid CGROUP mode"),
        "Dns": flags["dns"],
        "DnsOptions": flags["dns-option"],
        "DnsSearch": flags["dns-search"],
        "ExtraHosts": flags["add-host"] or None,
        "GroupAdd": flags["group-add"] or None,
        "IpcMode": flags["ipc"],
        "Links": flags["link"] or None,
        "OomScoreAdj": flags["oom-score-adj"],
        "PidMode": _pid_mode(flags["pid"]),
        "Privileged": flags["privileged"],
        "PublishAllPorts": flags["publish-all"],
        "ReadonlyRootfs": flags["read-only"],
        "SecurityOpt": security if flags["security-opt"] else None,
        "UTSMode": _mode(flags, "uts", ("", "host"), "--uts: invalid UTS mode"),
        "UsernsMode": _mode(flags, "userns", ("", "host"), "--userns: invalid USER mode"),
        "ShmSize": flags["shm-size"],
        "Runtime": flags["runtime"],
        "Isolation": flags["isolation"],
    }
    if flags["storage-opt"]:
        host["StorageOpt"] = _storage_options(flags["storage-opt"])
    if flags["tmpfs"]:
        host["Tmpfs"] = {
            path: options for path, _, options in (item.partition(":") for item in flags["tmpfs"])
        }
    if flags["sysctl"]:
        host["Sysctls"] = texts.to_map(flags["sysctl"])
    if flags["annotation"]:
        host["Annotations"] = texts.to_map(flags["annotation"])
    if flags["mount"]:
        host["Mounts"] = flags["mount"]
    if flags.changed("restart-unhealthy"):
        host["RestartUnhealthy"] = flags["restart-unhealthy"]
    if flags.changed("init"):
        host["Init"] = flags["init"]
    host["MaskedPaths"], host["ReadonlyPaths"] = ([], []) if unconfined else (None, None)
    host.update(_resources(flags))
    return host


def _resources(flags: Values) -> dict[str, Any]:
    swappiness = flags["memory-swappiness"]
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    return {
        "CpuShares": flags["cpu-shares"],
        "Memory": flags["memory"],
        "NanoCpus": flags["cpus"],
        "CgroupParent": flags["cgroup-parent"],
        "BlkioWeight": flags["blkio-weight"],
        "BlkioWeightDevice": flags["blkio-weight-device"],
        "BlkioDeviceReadBps": flags["device-read-bps"],
        "BlkioDeviceWriteBps": flags["device-write-bps"],
        "BlkioDeviceReadIOps": flags["device-read-iops"],
        "BlkioDeviceWriteIOps": flags["device-write-iops"],
        "CpuPeriod": flags["cpu-period"],
        "CpuQuota": flags["cpu-quota"],
        "CpuRealtimePeriod": flags["cpu-rt-period"],
        "CpuRealtimeRuntime": flags["cpu-rt-runtime"],
        "CpusetCpus": flags["cpuset-cpus"],
        "CpusetMems": flags["cpuset-mems"],
        "Devices": [_device(text) for text in flags["device"]],
        "DeviceCgroupRules": flags["device-cgroup-rule"] or None,
        "DeviceRequests": flags["gpus"] or None,
        "KernelMemory": flags["kernel-memory"],
        "MemoryReservation": flags["memory-reservation"],
        "MemorySwap": flags["memory-swap"],
        "MemorySwappiness": swappiness,
        "OomKillDisable": flags["oom-kill-disable"],
        "PidsLimit": flags["pids-limit"],
        "Ulimits": flags["ulimit"] or None,
        "CpuCount": flags["cpu-count"],
        "CpuPercent": flags["cpu-percent"],
        "IOMaximumIOps": flags["io-maxiops"],
        "IOMaximumBandwidth": flags["io-maxbandwidth"],
    }


def _volumes(specifications: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(anonymous volumes, binds). A source that begins with "." is relative to the working directory;
    what is said twice counts once."""
    volumes: dict[str, Any] = {}
    binds = []
    for text in specifications:
        source, colon, rest = text.partition(":")
        if not colon:
            volumes[text] = {}
        else:
            binds.append((os.path.abspath(source) if source.startswith(".") else source) + ":" + rest)
    return volumes, list(dict.fromkeys(binds))


def parse_restart(text: str) -> dict[str, Any]:
    """A restart policy: "always", "on-failure:3". Raises `ValueError`; whether the name exists the engine knows."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if colon and not count.lstrip("-").isdigit():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count) if colon else 0}


def _log_options(flags: Values) -> dict[str, str]:
    if flags["log-driver"] == "none" and flags["log-opt"]:
        raise ValueError("invalid logging opts for driver none")
    return texts.to_map(flags["log-opt"])


def _security(options: list[str]) -> tuple[list[str], bool]:
    """Options with seccomp files read in, and whether the system's paths stay unmasked."""
    result = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals and name != "no-new-privileges":
            name, equals, value = option.partition(":")
        if (not equals or not value) and name != "no-new-privileges":
            raise ValueError(f'Invalid --security-opt: "{option}"')
        if option == "systempaths=unconfined":
            continue
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            option = "seccomp=" + _seccomp_file(value)
        result.append(option)
    return result, "systempaths=unconfined" in options


def _seccomp_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return dumps(loads(file.read()))
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ValueError(f"opening seccomp profile ({path}) failed: open {path}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _storage_options(options: list[str]) -> dict[str, str]:
    if any("=" not in option for option in options):
        raise ValueError("invalid storage option")
    return texts.to_map(options)


def _mode(flags: Values, name: str, allowed: tuple[str, ...], message: str) -> str:
    value: str = flags[name]
    if value not in allowed:
        raise ValueError(message)
    return value


def _pid_mode(text: str) -> str:
    if text not in ("", "host") and not (text.startswith("container:") and len(text) > 10):
        raise ValueError("--pid: invalid PID mode")
    return text


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not parts[0]:
        raise ValueError(f"invalid device specification: {text}")
    access = "rwm"
    target = ""
    if len(parts) == 3:
        target, access = parts[1], parts[2]
    elif len(parts) == 2:
        if _is_access(parts[1]):
            access = parts[1]
        else:
            target = parts[1]
    if not _is_access(access):
        raise ValueError(f"bad mode specified: {access}")
    for path in (parts[0], target or parts[0]):
        if not path.startswith("/"):
            raise ValueError(f"{path} is not an absolute path")
    return {"PathOnHost": parts[0], "PathInContainer": target or parts[0], "CgroupPermissions": access}


def _is_access(text: str) -> bool:
    return bool(text) and not text.strip("rwm") and len(set(text)) == len(text)


def _mac_address(text: str) -> str:
    """In one of the forms of Go's ParseMAC: 6, 8 or 20 bytes, in pairs (: or -) or fours of digits (.)."""
    found = text.strip()
    size, separator = (4, ".") if "." in found else (2, "-" if "-" in found else ":")
    parts = found.split(separator)
    if len(parts) * size not in (12, 16, 40) or not all(
        len(part) == size and _is_hex(part) for part in parts
    ):
        raise ValueError(f"{text} is not a valid mac address")
    if size == 2:
        return text
    digits = "".join(parts)
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF" for letter in text)


def _networks(flags: Values) -> tuple[dict[str, Any], str]:
    """(endpoint settings by network, NetworkMode)."""
    attachments: list[dict[str, Any]] = flags["network"]
    first = dict(attachments[0]) if attachments else {"Target": "default"}
    others = attachments[1:]
    _apply_single_options(first, flags)
    endpoints: dict[str, Any] = {}
    settings = _endpoint(first)
    # One network without options of its own needs no settings; `default` has its entry when options follow.
    if settings or others:
        endpoints[first["Target"]] = settings
    for attachment in others:
        if attachment["Target"] in endpoints:
            raise ValueError(f'network "{attachment["Target"]}" is specified multiple times')
        endpoints[attachment["Target"]] = _endpoint(attachment)
    kinds = {_user_defined(attachment["Target"]) for attachment in attachments}
    if len(kinds) > 1:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return endpoints, first["Target"]


def _user_defined(target: str) -> bool:
    return target not in _PREDEFINED_NETWORKS and not target.startswith("container:")


def _apply_single_options(attachment: dict[str, Any], flags: Values) -> None:
    """--network-alias, --link, --ip ... belong to the first network."""
    aliases = flags["network-alias"]
    conflicts = (
        ("Aliases", aliases, "--network-alias and per-network alias"),
        ("IPv4Address", flags["ip"], "--ip and per-network IPv4 address"),
        ("IPv6Address", flags["ip6"], "--ip6 and per-network IPv6 address"),
        ("LinkLocalIPs", flags["link-local-ip"], "--link-local-ip and per-network link-local IP addresses"),
        ("MacAddress", flags["mac-address"], "--mac-address and per-network MAC address"),
    )
    for key, value, names in conflicts:
        if value and attachment.get(key):
            raise ValueError(f"conflicting options: cannot specify both {names}")
        if value:
            attachment[key] = value
    if flags["link"] and _user_defined(attachment["Target"]):
        attachment["Links"] = flags["link"]


def _endpoint(attachment: dict[str, Any]) -> dict[str, Any]:
    target = attachment["Target"]
    if not target.strip():
        raise ValueError("no name set for network")
    if attachment.get("Aliases") and not _user_defined(target):
        raise ValueError("network-scoped aliases are only supported for user-defined networks")
    settings: dict[str, Any] = {}
    for key in ("Aliases", "DriverOpts", "Links", "GwPriority"):
        if attachment.get(key):
            settings[key] = attachment[key]
    address = {
        key: attachment[key] for key in ("IPv4Address", "IPv6Address", "LinkLocalIPs") if attachment.get(key)
    }
    if address:
        settings["IPAMConfig"] = address
    if attachment.get("MacAddress"):
        settings["MacAddress"] = _mac_address(attachment["MacAddress"])
    return settings
