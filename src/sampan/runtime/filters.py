"""Seccomp profiles of specifications to compiled programs, cached in memory and on disk by the profile's hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from sampan.errors import Invalid, Unsupported
from sampan.linux import seccomp
from sampan.oci import spec as oci
from sampan.runtime.execute import SeccompProgram

_VERSION = b"1"
"""Changes when the compiler's output does."""
_PREFIX = _VERSION + os.uname().machine.encode()
_MAX_IN_MEMORY = 64


_NOTIFY = "SCMP_ACT_NOTIFY"
_decoder = msgspec.msgpack.Decoder(oci.Seccomp)


def encode(profile: oci.Seccomp | None) -> bytes:
    """The form in which a profile travels. It stays like this: its hundreds of names are needed only for compiling."""
    return b"" if profile is None else msgspec.msgpack.encode(profile)


def decode(encoded: bytes) -> oci.Seccomp | None:
    """The reverse of `encode`."""
    return _decoder.decode(encoded) if encoded else None


def detached(spec: oci.Spec) -> tuple[oci.Spec, bytes]:
    """The specification without its profile, and that encoded."""
    if spec.linux is None or spec.linux.seccomp is None:
        return spec, b""
    linux = msgspec.structs.replace(spec.linux, seccomp=None)
    return msgspec.structs.replace(spec, linux=linux), encode(spec.linux.seccomp)


def filter_of(profile: oci.Seccomp) -> seccomp.Filter:
    rules = tuple(
        seccomp.Rule(
            rule.names,
            rule.action,
            rule.errno_ret,
            tuple(seccomp.Arg(arg.index, arg.value, arg.op, arg.value_two) for arg in rule.args),
        )
        for rule in profile.syscalls
    )
    return seccomp.Filter(
        profile.default_action, profile.default_errno_ret, profile.architectures, rules, profile.flags
    )


class Listener(msgspec.Struct, frozen=True):
    """The agent that answers what SCMP_ACT_NOTIFY says: the path of its socket, and what it is told besides."""

    path: str
    metadata: str


def without_listener(profile: oci.Seccomp | None) -> tuple[oci.Seccomp | None, Listener | None]:
    """The profile without its agent. Raises `Invalid` for uses of SCMP_ACT_NOTIFY that can't work."""
    if profile is None:
        return None, None
    notified = {
        name for rule in profile.syscalls if rule.action == _NOTIFY for name in rule.names or ("nothing",)
    }
    if profile.default_action == _NOTIFY:
        raise Invalid(f"{_NOTIFY} cannot be used as default action")
    if not profile.listener_path:
        if notified:
            raise Invalid(f"seccomp: {_NOTIFY} needs a listenerPath")
        return profile, None
    if not notified:
        raise Invalid(f"seccomp: a listenerPath without {_NOTIFY}")
    if "sendmsg" in notified:
        raise Invalid(f"{_NOTIFY} cannot be used for sendmsg: the runtime hands the listener over with it")
    if not profile.listener_path.startswith("/"):
        raise Invalid(f"seccomp: listenerPath must be absolute: {profile.listener_path!r}")
    plain = msgspec.structs.replace(profile, listener_path=None, listener_metadata=None)
    return plain, Listener(profile.listener_path, profile.listener_metadata or "")


class FilterCache:
    """`directory` is writable by us alone. Entries are written whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs: dict[str, SeccompProgram] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, profile: oci.Seccomp | None) -> SeccompProgram | None:
        """Raises `Invalid` or `Unsupported` as the compiler does."""
        return self.get_encoded(encode(profile))

    def get_encoded(self, profile: bytes) -> SeccompProgram | None:
        """As `get`, for what `encode` gave."""
        if not profile:
            return None
        key = hashlib.sha256(_PREFIX + profile).hexdigest()
        program = self._programs.get(key)
        if program is None:
            decoded = _decoder.decode(profile)
            if decoded.listener_path:
                raise Unsupported("seccomp: listenerPath is not supported here")
            program = SeccompProgram(self._load(key) or self._compile(key, decoded), decoded.flags)
            if len(self._programs) >= _MAX_IN_MEMORY:
                self._programs.clear()
            self._programs[key] = program
        return program

    def _load(self, key: str) -> bytes | None:
        try:
            return (self._directory / key).read_bytes()
        except FileNotFoundError:
            return None

    def _compile(self, key: str, profile: oci.Seccomp) -> bytes:
        program = seccomp.compile_filter(filter_of(profile))
        temporary = self._directory / f".{key}.{os.getpid()}"
        temporary.write_bytes(program)
        temporary.replace(self._directory / key)
        return program
