"""The options of local volumes: `type`, `device`, `o`, `size`, by Docker's rules. Pure.

With a device a volume is a mount, made with mount(2): what mount(8) and its helpers add for some file systems has to
be said in `o`, but for the server's address of NFS and CIFS, which is looked up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sampan.errors import Invalid
from sampan.linux import mount as m
from sampan.logs.option_values import parse_size

_KNOWN = ("type", "o", "device", "size")
_REQUIRED = {"type": ("device",), "o": ("device", "type"), "device": ("type",)}
_MAX_DATA = 4095
"""mount(2) takes a page, with the zero byte at its end."""

_SYNCHRONOUS, _DIRSYNC, _MANDLOCK = 0x10, 0x80, 0x40
_SET = {
    "ro": m.MS_RDONLY,
    "nosuid": m.MS_NOSUID,
    "nodev": m.MS_NODEV,
    "noexec": m.MS_NOEXEC,
    "sync": _SYNCHRONOUS,
    "dirsync": _DIRSYNC,
    "mand": _MANDLOCK,
    "noatime": m.MS_NOATIME,
    "nodiratime": m.MS_NODIRATIME,
    "relatime": m.MS_RELATIME,
    "strictatime": m.MS_STRICTATIME,
    "bind": m.MS_BIND,
    "rbind": m.MS_BIND | m.MS_REC,
    "defaults": 0,
}
_CLEAR = {
    "rw": m.MS_RDONLY,
    "suid": m.MS_NOSUID,
    "dev": m.MS_NODEV,
    "exec": m.MS_NOEXEC,
    "async": _SYNCHRONOUS,
    "nomand": _MANDLOCK,
    "atime": m.MS_NOATIME,
    "diratime": m.MS_NODIRATIME,
    "norelatime": m.MS_RELATIME,
    "nostrictatime": m.MS_STRICTATIME,
}
_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "rprivate": m.MS_PRIVATE | m.MS_REC,
    "shared": m.MS_SHARED,
    "rshared": m.MS_SHARED | m.MS_REC,
    "slave": m.MS_SLAVE,
    "rslave": m.MS_SLAVE | m.MS_REC,
    "unbindable": m.MS_UNBINDABLE,
    "runbindable": m.MS_UNBINDABLE | m.MS_REC,
}
_REMOTE = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "ceph"))


@dataclass(frozen=True, slots=True)
class LocalMount:
    """What mount(2) is asked for. `flags` and `propagation`: MS_*; `data`: the file system's own options."""

    kind: str
    device: str
    flags: int
    data: str
    propagation: int = 0

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & m.MS_BIND)

    @property
    def is_remote(self) -> bool:
        return self.kind in _REMOTE

    @property
    def read_only(self) -> bool:
        return bool(self.flags & m.MS_RDONLY)


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    for option, value in options.items():
        if option not in _KNOWN:
            raise Invalid(f'create {name}: invalid option: "{option}"')
        if "\0" in value:
            raise Invalid(f'create {name}: option "{option}" contains a zero byte')
    if (
        options.get("type") == "cifs"
        and urlsplit(options.get("device", "")).netloc.rpartition(":")[2].isdigit()
    ):
        raise Invalid(f"create {name}: port not allowed in CIFS device URL, include 'port' in 'o='")
    quota_of(name, options)
    for option, required in _REQUIRED.items():
        for other in required if option in options else ():
            if other not in options:
                raise Invalid(f'create {name}: missing required option: "{other}"')
    if len(options.get("o", "")) > _MAX_DATA:
        raise Invalid(f'create {name}: option "o" is longer than {_MAX_DATA} characters')


def quota_of(name: str, options: Mapping[str, str]) -> int:
    """Bytes that the volume may hold, 0 without a limit. Raises `Invalid`."""
    if "size" not in options:
        return 0
    try:
        return parse_size(options["size"])
    except Invalid as error:
        raise Invalid(f"create {name}: {error.message}") from error


def local_mount(options: Mapping[str, str]) -> LocalMount | None:
    """What has to be mounted; None for a volume that is a directory."""
    device = options.get("device", "")
    if not (device or options.get("type") or options.get("o")):
        return None
    flags = propagation = 0
    data: list[str] = []
    for option in options.get("o", "").split(","):
        if option in _SET:
            flags |= _SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        elif option:
            data.append(option)
    return LocalMount(options.get("type", ""), device, flags, ",".join(data), propagation)


def with_address(wanted: LocalMount, look_up: Callable[[str], str]) -> LocalMount:
    """The kernel's NFS and CIFS take no names: the server's becomes an address, which `look_up` finds.

    An NFS volume that does not say `addr=` means the host in its device (`host:/path`).
    """
    if wanted.kind not in ("nfs", "nfs4", "cifs"):
        return wanted
    data = wanted.data.split(",") if wanted.data else []
    for number, option in enumerate(data):
        key, _, value = option.partition("=")
        if key == "addr" and value:
            data[number] = f"addr={_address(value, look_up)}"
            return _with_data(wanted, data)
    if wanted.kind != "cifs":
        host = nfs_host(wanted.device)
        return _with_data(wanted, [*data, f"addr={_address(host, look_up)}"]) if host else wanted
    url = urlsplit(wanted.device)
    if url.hostname is None:
        return wanted
    address = _address(url.hostname, look_up)
    device = url._replace(netloc=f"[{address}]" if ":" in address else address).geturl()
    return LocalMount(wanted.kind, unquote(device), wanted.flags, wanted.data, wanted.propagation)


def _with_data(wanted: LocalMount, data: list[str]) -> LocalMount:
    return LocalMount(wanted.kind, wanted.device, wanted.flags, ",".join(data), wanted.propagation)


def nfs_host(device: str) -> str:
    """The host of `host:/path`, `[address]:/path`; "" when there is none, as in `:/path`."""
    if device.startswith("["):
        return device[1:].partition("]")[0]
    host, colon, _ = device.partition(":")
    return host if colon else ""


def _address(host: str, look_up: Callable[[str], str]) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return look_up(host)


def without_passwords(text: str, data: str) -> str:
    """A message without the passwords among the options."""
    for option in data.split(","):
        key, equals, value = option.partition("=")
        if key in ("password", "pass", "password2") and equals and value:
            text = text.replace(option, f"{key}=********")
    return text
