"""What Docker gives every container unless it says otherwise, as parts of an OCI runtime configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.errors import Invalid
from sampan.linux.capabilities import NAMES
from sampan.oci.spec import DeviceRule, Mount

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_SIZE = 64 << 20
"""Bytes."""

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",  # not in 20.10: the timing of interrupts betrays what others do
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",  # not in 20.10: power metering is a side channel (CVE-2020-8694)
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_ALL = "ALL"

# null, zero, full, random, urandom, tty, console, ptmx, and every pseudo-terminal.
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


def adjust_capabilities(
    add: Iterable[str], drop: Iterable[str], privileged: bool = False, available: Iterable[str] = NAMES
) -> tuple[str, ...]:
    """The bounding set for `--cap-add`, `--cap-drop`, `--privileged`, by Docker's rules.

    `available`: what the engine itself has; "ALL" and `privileged` mean that. "ALL" added, less what is dropped;
    else "ALL" dropped, and only what is added; else the defaults less `drop` plus `add`.
    Raises `Invalid` for a name that does not exist.
    """
    able = tuple(available)
    added, dropped = normalise_capabilities("CapAdd", add), normalise_capabilities("CapDrop", drop)
    if privileged:
        return able
    if _ALL in added:
        chosen: Iterable[str] = (name for name in able if name not in dropped)
    elif _ALL in dropped:
        chosen = added
    else:
        chosen = (*(name for name in _CAPABILITIES if name not in dropped), *added)
    return tuple(dict.fromkeys(chosen))


def normalise_capabilities(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """Full names in upper case, sorted, as Docker keeps them. Raises `Invalid` for one that does not exist."""
    found: list[str] = []
    for name in names:
        upper = name.upper()
        full = upper if upper == _ALL or upper.startswith("CAP_") else f"CAP_{upper}"
        if full != _ALL and full not in NAMES:
            raise Invalid(f'invalid {option}: unknown capability: "{full}"')
        found.append(full)
    return tuple(sorted(found))


def default_mounts() -> tuple[Mount, ...]:
    """/proc, /dev and so on, in the order of mounting."""
    quiet = ("nosuid", "noexec", "nodev")
    return (
        Mount("/proc", "proc", "proc", quiet),
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        Mount("/sys", "sysfs", "sysfs", (*quiet, "ro")),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", *quiet)),
        Mount("/dev/mqueue", "mqueue", "mqueue", quiet),
        Mount("/dev/shm", "tmpfs", "shm", (*quiet, "mode=1777", f"size={DEFAULT_SHM_SIZE}")),
    )


def default_device_rules() -> tuple[DeviceRule, ...]:
    """The cgroup's device policy: nothing but the harmless character devices; any node may be made, not opened.

    Docker leaves a part of these to runc, which adds them to every configuration.
    """
    return (
        DeviceRule(allow=False, access="rwm"),
        DeviceRule(allow=True, type="c", access="m"),
        DeviceRule(allow=True, type="b", access="m"),
        *(
            DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
            for major, minor in _DEVICES
        ),
    )


def default_sysctls() -> dict[str, str]:
    """For a network namespace of the container's own: any user may ping and listen on any port there."""
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
