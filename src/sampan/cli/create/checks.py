"""Values of single flags: checked and brought into the API's form while the command line is parsed.

Each takes the flag's text and raises `ValueError` with Docker's words for a bad one.
"""

from __future__ import annotations

import os

from sampan.cli import units
from sampan.cli.flags import go_quote, parse_bool, split_csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_MOUNT_SWITCHES = ("readonly", "ro", "idmap", "volume-nocopy", "bind-nonrecursive", "bind-create-src")


def is_ip(text: str) -> bool:
    """An IPv4 or IPv6 address (the C functions decide; `ipaddress` is slow to import)."""
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False


def ip_address(text: str) -> str:
    if not is_ip(text.strip()):
        raise ValueError(f"{text} is not an ip address")
    return text.strip()


def dns_search(text: str) -> str:
    """A domain, or "." for none. Raises `ValueError`."""
    domain = text.strip()
    labels = domain.removesuffix(".").split(".")
    fits = domain.isascii() and len(domain) < 255 and any(one.isalpha() for one in domain)
    if domain != "." and not (fits and all(_is_label(label) for label in labels)):
        raise ValueError(f"{text} is not a valid domain")
    return domain


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return plain.isalnum() and not label.startswith("-") and not label.endswith("-")


def extra_host(text: str) -> str:
    """host:ip or host=ip; `host-gateway` stands for the host's own address."""
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    if not found or not name:
        raise ValueError(f"bad format for add-host: {go_quote(text)}")
    plain = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if plain != "host-gateway" and not is_ip(plain):
        raise ValueError(f"invalid IP address in add-host: {go_quote(address)}")
    return f"{name}:{plain}"


def stream_name(text: str) -> str:
    name = text.lower()
    if name not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return name


def label(text: str) -> str:
    if not text.partition("=")[0].strip():
        raise ValueError(f"invalid label '{text}': empty name" if text else "invalid label: ''")
    return text


def link(text: str) -> str:
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def sysctl(text: str) -> str:
    """NAME=VALUE of one that belongs to a container's namespaces, as Docker's command line has it."""
    name, equals, _ = text.partition("=")
    if not equals or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def device_rule(text: str) -> str:
    parts = text.split(" ")
    numbers = parts[1].split(":") if len(parts) == 3 else []
    access = parts[2] if len(parts) == 3 else ""
    if (
        len(numbers) != 2
        or parts[0] not in ("a", "b", "c")
        or not all(number == "*" or number.isdigit() for number in numbers)
        or not access
        or access.strip("rwm")
        or len(access) > 3
    ):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def weight_device(text: str) -> dict[str, Any]:
    path, colon, weight = text.partition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    if not weight.isdigit() or (int(weight) and not 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def throttle_bytes(text: str) -> dict[str, Any]:
    path, rate = _throttle(text)
    try:
        return {"Path": path, "Rate": units.parse_size(rate)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def throttle_count(text: str) -> dict[str, Any]:
    path, rate = _throttle(text)
    if not rate.isdigit():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(rate)}


def _throttle(text: str) -> tuple[str, str]:
    path, colon, rate = text.partition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, rate


def ulimit(text: str) -> dict[str, Any]:
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    try:
        soft, hard = int(parts[0]), int(parts[-1])
    except ValueError:
        bad = next(part for part in parts if not part.lstrip("-").isdigit())
        raise ValueError(f"strconv.ParseInt: parsing {go_quote(bad)}: invalid syntax") from None
    if hard != -1 and (soft == -1 or soft > hard):
        shown = f"soft: -1 (unlimited), hard: {hard}" if soft == -1 else f"{soft} > {hard}"
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {shown}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _priority(text: str) -> int:
    try:
        priority = int(text)
    except ValueError:
        raise ValueError(f"invalid gw-priority ({text}): invalid syntax") from None
    if not -(1 << 63) <= priority < 1 << 63:
        raise ValueError(f"invalid gw-priority ({text}): value out of range")
    return priority


def network(text: str) -> dict[str, Any]:
    """A network's name, or name=...,alias=...,ip=...,driver-opt=...; the endpoint's settings."""
    if "=" not in text:
        if not text:
            raise ValueError("network name is empty")
        return {"Target": text}
    result: dict[str, Any] = {"Target": ""}
    names = {"ip": "IPv4Address", "ip6": "IPv6Address", "mac-address": "MacAddress", "name": "Target"}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            raise ValueError(f"invalid field {field}")
        if key in names:
            result[names[key]] = value
        elif key == "alias":
            result.setdefault("Aliases", []).append(value)
        elif key == "link-local-ip":
            result.setdefault("LinkLocalIPs", []).append(value)
        elif key == "gw-priority":
            result["GwPriority"] = _priority(value)
        elif key == "driver-opt":
            name, option = driver_option(value)
            result.setdefault("DriverOpts", {})[name.lower()] = option
        else:
            raise ValueError(f"invalid field key {key}")
    if not result["Target"]:
        raise ValueError("network name/id is not specified")
    return result


def driver_option(text: str) -> tuple[str, str]:
    """Name and value of an option of a network's driver."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError("invalid key value pair format in driver options")
    return name.strip(), value.strip()


def mount(text: str) -> dict[str, Any]:
    """One --mount as the API's Mount."""
    if not text.strip():
        raise ValueError("value is empty")
    result: dict[str, Any] = {"Type": "volume"}
    for field in split_csv(text.strip()):
        key, equals, value = field.partition("=")
        if key != key.strip():
            raise ValueError(
                f"invalid option '{key.strip()}' in '{field}': option should not have whitespace"
            )
        if equals and not value.strip():
            raise ValueError(f"invalid value for '{key}': value is empty")
        if value != value.strip():
            raise ValueError(f"invalid value for '{key}' in '{field}': value should not have whitespace")
        key = key.lower()
        if not equals and key not in _MOUNT_SWITCHES:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        _mount_field(result, key, value, field, bool(equals))
    if not result.get("Target"):
        raise ValueError("target is required")
    kind = result["Type"]
    _check_recursive(result)
    for options, owner in (
        ("VolumeOptions", "volume"),
        ("BindOptions", "bind"),
        ("TmpfsOptions", "tmpfs"),
        ("ImageOptions", "image"),
    ):
        if options in result and kind != owner:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    return result


def _check_recursive(mount: dict[str, Any]) -> None:
    """What only makes sense together."""
    options = mount.get("BindOptions") or {}
    chosen = {"ReadOnlyNonRecursive": "writable", "ReadOnlyForceRecursive": "readonly"}
    for name, value in chosen.items():
        if name in options and not mount.get("ReadOnly"):
            raise ValueError(
                f"option 'bind-recursive={value}' requires 'readonly' to be specified in conjunction"
            )
    if "ReadOnlyForceRecursive" in options and options.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        )


def _mount_field(result: dict[str, Any], key: str, value: str, field: str, has_value: bool) -> None:
    if key == "type":
        result["Type"] = value.lower()
    elif key in ("source", "src"):
        result["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif key in ("target", "dst", "destination"):
        result["Target"] = value
    elif key in ("readonly", "ro"):
        result["ReadOnly"] = _switch(key, value, has_value)
    elif key == "consistency":
        result["Consistency"] = value.lower()
    elif key.startswith("bind-"):
        _bind_option(result.setdefault("BindOptions", {}), key, value, has_value)
    elif key.startswith("volume-"):
        _volume_option(result.setdefault("VolumeOptions", {}), key, value, field, has_value)
    elif key == "idmap":
        result["IDMap"] = value or "idmap"
    elif key == "image-subpath":
        result.setdefault("ImageOptions", {})["Subpath"] = value
    elif key == "tmpfs-size":
        try:
            result.setdefault("TmpfsOptions", {})["SizeBytes"] = units.parse_size(value)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    elif key == "tmpfs-mode":
        if not value or value.strip("01234567"):
            raise ValueError(f"invalid value for {key}: {value}")
        result.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    else:
        raise ValueError(f"unknown option '{key}' in '{field}'")


def _switch(key: str, value: str, has_value: bool) -> bool:
    if not has_value:
        return True
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _bind_option(options: dict[str, Any], key: str, value: str, has_value: bool) -> None:
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _switch(key, value, has_value)
    elif key == "bind-create-src":
        options["CreateMountpoint"] = _switch(key, value, has_value)
    elif key == "bind-recursive":
        names = {
            "disabled": "NonRecursive",
            "writable": "ReadOnlyNonRecursive",
            "readonly": "ReadOnlyForceRecursive",
        }
        if value in names:
            options[names[value]] = True
        elif value != "enabled":
            choices = '(must be "enabled", "disabled", "writable", or "readonly")'
            raise ValueError(f"invalid value for {key}: {value} {choices}")
    else:
        raise ValueError(f"unknown option '{key}' in '{key}={value}'")


def _volume_option(options: dict[str, Any], key: str, value: str, field: str, has_value: bool) -> None:
    name, _, setting = value.partition("=")
    if key == "volume-nocopy":
        options["NoCopy"] = _switch(key, value, has_value)
    elif key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-label":
        options.setdefault("Labels", {})[name] = setting
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = setting
    else:
        raise ValueError(f"unknown option '{key}' in '{field}'")


def gpus(text: str) -> dict[str, Any]:
    """`all`, a number, or `device=ID,ID`. Raises `ValueError`."""
    request: dict[str, Any] = {
        "Driver": "",
        "Count": 1,
        "DeviceIDs": None,
        "Capabilities": [["gpu"]],
        "Options": {},
    }
    if text == "all":
        request["Count"] = -1
    elif text.isdigit():
        request["Count"] = int(text)
    elif text.startswith("device="):
        request["Count"], request["DeviceIDs"] = 0, text[7:].split(",")
    else:
        raise ValueError(f'count must be an integer: strconv.Atoi: parsing "{text}": invalid syntax')
    return request
