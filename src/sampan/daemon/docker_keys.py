"""Keys of Docker's daemon.json that the engine takes without doing anything, and those it refuses with the reason.

A file that Docker runs with is taken as it is. What would be missed is told in the log at the start; what would be
less safe than its owner believes is refused. docs/compatibility.md has the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sampan.errors import Unsupported

_EVERY = "containers outlive the engine"
_STORAGE = "the engine has one store of its own"
_CONTAINERD = "there is no containerd"
_SWARM = "there is no swarm mode"
_REALTIME = "the engine sets no real-time budget of its own group"

_WITHOUT_EFFECT: Mapping[str, str] = {
    "allow-nondistributable-artifacts": "such layers are not pushed",
    "api-cors-header": "the API sends no CORS headers",
    "cdi-spec-dirs": "there are no CDI devices",
    "containerd": _CONTAINERD,
    "containerd-namespace": _CONTAINERD,
    "containerd-plugin-namespace": _CONTAINERD,
    "containerd-plugins-namespace": _CONTAINERD,
    "cpu-rt-period": _REALTIME,
    "cpu-rt-runtime": _REALTIME,
    "cri-containerd": _CONTAINERD,
    "init-path": "the init of `--init` is the engine's own",
    "max-download-attempts": "downloads go on where they broke off",
    "network-control-plane-mtu": _SWARM,
    "node-generic-resources": _SWARM,
    "oom-score-adjust": "the engine's own score is left to what starts it",
    "shutdown-timeout": _EVERY,
    "storage-driver": _STORAGE,
    "storage-opts": _STORAGE,
    "swarm-default-advertise-addr": _SWARM,
}
"""Key -> why nothing happens; that is told when the key is there."""

_QUIET = frozenset(
    {
        "experimental",
        "features",
        "firewall-backend",
        "group",
        "ip-forward-no-drop",
        "log-format",
        "log-level",
        "minimum-api-version",
        "pidfile",
        "raw-logs",
        "userland-proxy",
        "userland-proxy-path",
    }
)
"""Of these nobody misses anything: how the engine does its work, or writes its own log."""


def _is_set(value: object) -> bool:
    return bool(value)


_REFUSED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "authorization-plugins": (_is_set, "requests would be served that a plugin is to refuse"),
    "tls": (_is_set, "TCP addresses have no TLS here: use a Unix socket, or ssh:// from afar"),
    "tlsverify": (_is_set, "TCP addresses have no TLS here: use a Unix socket, or ssh:// from afar"),
}
"""Key -> which values can't be ignored, and why."""

_HARMLESS_WITHOUT_TLS = frozenset({"tlscacert", "tlscert", "tlskey"})


def take(stored: dict[str, Any]) -> tuple[str, ...]:
    """Take Docker's further keys out of the file's content; what a person should know of them, a sentence each.

    Raises `Unsupported`.
    """
    told: list[str] = []
    for key, (matters, reason) in _REFUSED.items():
        if matters(stored.pop(key, None)):
            raise Unsupported(f"daemon.json: {key}: not supported: {reason}")
    for key in _QUIET | _HARMLESS_WITHOUT_TLS:
        stored.pop(key, None)
    if stored.pop("live-restore", True) is False:
        told.append(f"live-restore has no effect: {_EVERY}")
    if stored.pop("exec-opts", None) not in (None, [], ["native.cgroupdriver=cgroupfs"]):
        told.append("exec-opts has no effect: control groups are made by the engine itself (cgroupfs)")
    for key in sorted(_WITHOUT_EFFECT.keys() & stored.keys()):
        del stored[key]
        told.append(f"{key} has no effect: {_WITHOUT_EFFECT[key]}")
    return tuple(told)
