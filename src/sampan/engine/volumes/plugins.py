"""Volumes of programs that speak Docker's plugin protocol (JSON by POST over a Unix socket or TCP).

A plugin is found by a socket `<name>.sock` in the run directory, or by a file `<name>.spec` (an address) or
`<name>.json` (an address, perhaps with TLS) in the other directories. It is asked once what it is (`/Plugin.Activate`).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import posixpath
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sampan.engine.model import VolumeRecord
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Internal, Invalid, NotFound, Unavailable

Json = dict[str, Any]

SPEC_DIRECTORIES = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))
_MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_SECONDS = 120.0
"""For one answer: a plugin may have to bring a server's disk here."""
_LOOK_SECONDS = 10.0
"""For the answer to a question: whoever lists volumes does not wait longer for a plugin that hangs."""
_QUESTIONS = frozenset(
    ("Plugin.Activate", *(f"VolumeDriver.{verb}" for verb in ("Capabilities", "Get", "List", "Path")))
)
_MAX_ANSWER = 8 << 20
_MAX_SPEC = 64 << 10


@dataclass(frozen=True, slots=True)
class Address:
    """`unix` with a path, or `tcp`/`https` with host and port; `tls`: files for CA, certificate and key."""

    scheme: str
    target: str
    tls: tuple[str, str, str] | None = None
    verify: bool = True


class _TlsConfig(msgspec.Struct, frozen=True, rename="pascal"):
    ca_file: str = msgspec.field(default="", name="CAFile")
    cert_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False


class _Spec(msgspec.Struct, frozen=True, rename="pascal"):
    addr: str
    tls_config: _TlsConfig | None = msgspec.field(default=None, name="TLSConfig")


def parse_address(text: str, tls: _TlsConfig | None = None) -> Address:
    """`unix:///path`, `tcp://host:port`, `https://host:port`. Raises `Invalid`."""
    try:
        url = urlsplit(text.strip())
    except ValueError as error:
        raise Invalid(f"invalid plugin address {text!r}: {error}") from error
    if url.scheme == "unix" and url.path.startswith("/"):
        return Address("unix", url.path)
    if url.scheme not in ("tcp", "http", "https") or not url.netloc:
        raise Invalid(
            f"invalid plugin address {text!r}", hint="unix:///path, tcp://host:port or https://host:port"
        )
    if tls is None:
        return Address("https" if url.scheme == "https" else "tcp", url.netloc)
    files = (tls.ca_file, tls.cert_file, tls.key_file)
    return Address("https", url.netloc, files, verify=not tls.insecure_skip_verify)


class PluginDirectories:
    """Where plugins are found. Blocking."""

    def __init__(
        self,
        sockets: Iterable[Path],
        specs: Iterable[Path] = SPEC_DIRECTORIES,
    ) -> None:
        self._sockets = tuple(sockets)
        self._specs = tuple(specs)

    def names(self) -> list[str]:
        found: dict[str, None] = {}
        for directory, suffixes in self._places():
            try:
                entries = sorted(os.listdir(directory))
            except OSError:
                continue
            for entry in entries:
                name, dot, suffix = entry.rpartition(".")
                if dot and f".{suffix}" in suffixes and _NAME.fullmatch(name):
                    found[name] = None
                elif ".sock" in suffixes and (directory / entry / f"{entry}.sock").exists():
                    found[entry] = None
        return list(found)

    def _places(self) -> list[tuple[Path, tuple[str, ...]]]:
        sockets = [(one, (".sock",)) for one in self._sockets]
        return [*sockets, *((one, (".spec", ".json")) for one in self._specs)]

    def find(self, name: str) -> Address | None:
        """Raises `Invalid` for a description that can't be read."""
        if not _NAME.fullmatch(name):
            return None
        for directory in self._sockets:
            for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
                if path.is_socket():
                    return Address("unix", str(path))
        for directory in self._specs:
            for path in (directory / f"{name}.spec", directory / f"{name}.json"):
                text = _read(path)
                if text is not None:
                    return _described(path, text)
        return None


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_SPEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Invalid(
            f"plugin description {path}: {os.strerror(error.errno or errno.EIO).lower()}"
        ) from error


def _described(path: Path, text: bytes) -> Address:
    try:
        if path.suffix == ".spec":
            return parse_address(text.decode())
        spec = msgspec.json.decode(text, type=_Spec)
        return parse_address(spec.addr, spec.tls_config)
    except (msgspec.DecodeError, UnicodeDecodeError, Invalid) as error:
        raise Invalid(f"plugin description {path}: {error}") from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("plugin", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Plugin:
    """One plugin, found and connected to for each call: it may be started anew at any time. Thread-safe, blocking."""

    def __init__(self, name: str, directories: PluginDirectories) -> None:
        self.name = name
        self._directories = directories

    def call(self, method: str, body: Json | None = None) -> Json:
        """Raises `NotFound` (no such plugin), `Unavailable` when it can't be reached, `Internal` with its own words
        when it refuses."""
        address = self._directories.find(self.name)
        if address is None:
            raise NotFound(f'error looking up volume plugin {self.name}: plugin "{self.name}" not found')
        raw = msgspec.json.encode(body or {})
        headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        try:
            seconds = _LOOK_SECONDS if method in _QUESTIONS else _SECONDS
            connection = _connection(address, seconds)
            try:
                connection.connect()
                with _ended_after(seconds, connection.sock):
                    connection.request("POST", f"/{method}", raw, headers)
                    response = connection.getresponse()
                    answer = _read_answer(response)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"error while contacting plugin {self.name} for {method}: {_words(error)}",
                hint="is the plugin's program running?",
            ) from error
        decoded = self._decoded(method, answer)
        refused = str(decoded.get("Err") or "")
        if response.status >= 400 or refused:
            raise Internal(refused or f"{method}: {answer[:512].decode(errors='replace').strip()}")
        return decoded

    def _decoded(self, method: str, answer: bytes) -> Json:
        if len(answer) > _MAX_ANSWER:
            raise Internal(f"plugin {self.name} answers {method} with more than {_MAX_ANSWER} bytes")
        try:
            decoded = msgspec.json.decode(answer or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = {}
        return decoded if isinstance(decoded, dict) else {}


def _read_answer(response: http.client.HTTPResponse) -> bytes:
    """No more than is wanted of it. Raises OSError."""
    pieces: list[bytes] = []
    size = 0
    while size <= _MAX_ANSWER and (piece := response.read1(_MAX_ANSWER)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _ended_after(seconds: float, channel: socket.socket) -> Iterator[None]:
    """What is done with a connection in the block has `seconds` in all, else `TimeoutError` is raised.

    The socket's own time-out is for each piece alone: headers or a body may come byte by byte.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has ended by itself
            socket.socket.shutdown(channel, socket.SHUT_RDWR)  # not TLS's own: that waits for the other side

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
    if late.is_set():
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _connection(address: Address, timeout: float) -> http.client.HTTPConnection:
    if address.scheme == "unix":
        return _UnixConnection(address.target, timeout)
    if address.scheme == "tcp":
        return http.client.HTTPConnection(address.target, timeout=timeout)
    ca, certificate, key = address.tls or ("", "", "")
    context = ssl.create_default_context(cafile=ca or None)
    if not address.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key or None)
    return http.client.HTTPSConnection(address.target, timeout=timeout, context=context)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno or errno.EIO).lower()
    return str(error) or type(error).__name__


class PluginDriver:
    """A driver whose volumes are a plugin's business (the volume plugin API: VolumeDriver.…)."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self.scope = "local"
        self._places: dict[str, Path] = {}

    def activate(self) -> None:
        """Ask what it is. Raises `NotFound` for a plugin that is not there or has no volumes, `Unavailable`."""
        implements = self._plugin.call("Plugin.Activate").get("Implements")
        if not isinstance(implements, list) or "VolumeDriver" not in implements:
            raise NotFound(
                f'error looking up volume plugin {self.name}: plugin "{self.name}" does not implement '
                '"VolumeDriver"'
            )
        self.scope = self._scope()

    @property
    def name(self) -> str:
        return self._plugin.name

    def _scope(self) -> str:
        try:
            found = self._plugin.call("VolumeDriver.Capabilities").get("Capabilities")
        except (Internal, Unavailable):
            return "local"  # plugins need not know this call
        scope = str(found.get("Scope", "")).lower() if isinstance(found, dict) else ""
        return scope if scope in ("local", "global") else "local"

    def _call(self, method: str, record: VolumeRecord, **more: Any) -> Json:
        return self._plugin.call(f"VolumeDriver.{method}", {"Name": record.name, **more})

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """The plugin itself knows its options."""

    def create(self, record: VolumeRecord) -> None:
        """One that the plugin has already, be it from another host, is taken as it is."""
        try:
            self.look(record)
            return
        except Internal:
            pass  # plugins say so when they have no such volume
        try:
            self._call("Create", record, Opts=dict(record.options) if record.options else None)
        except Internal as error:
            raise Internal(f"create {record.name}: {error.message}") from error

    def remove(self, record: VolumeRecord) -> Callable[[], None]:
        try:
            self._call("Remove", record)
        except Internal as error:
            raise Internal(f"remove {record.name}: {error.message}") from error
        self._places.pop(record.name, None)
        return lambda: None

    def needs_mount(self, record: VolumeRecord) -> bool:
        return True

    def mount(self, record: VolumeRecord, user: str) -> Path:
        try:
            place = str(self._call("Mount", record, ID=user).get("Mountpoint") or "")
        except Internal as error:
            raise Internal(f"error while mounting volume '': {error.message}") from error
        if not place.startswith("/") or "\0" in place:
            raise Internal(
                f"error while mounting volume '': plugin {self.name} gives no place for volume {record.name}"
            )
        if posixpath.normpath(place).strip("/") == "":
            # Nobody means that, and what the image has at the target would be copied into it.
            raise Internal(
                f"error while mounting volume '': plugin {self.name} gives the host's root directory as the place "
                f"of volume {record.name}"
            )
        self._places[record.name] = Path(place)
        return self._places[record.name]

    def unmount(self, record: VolumeRecord, user: str, *, last: bool) -> None:
        self._call("Unmount", record, ID=user)
        if last:
            self._places.pop(record.name, None)

    def path(self, record: VolumeRecord) -> Path:
        """Where it is mounted; "." when it is not."""
        return self._places.get(record.name, Path())

    def look(self, record: VolumeRecord) -> tuple[str, Json]:
        """(place or "", status) as the plugin says now. Raises `Internal` when it does not know the volume."""
        found = self._call("Get", record).get("Volume") or {}
        if not isinstance(found, dict):
            return "", {}
        status = found.get("Status")
        return str(found.get("Mountpoint") or ""), status if isinstance(status, dict) else {}

    def size(self, record: VolumeRecord) -> int:
        place = self._places.get(record.name)
        return directory_size(place) if place is not None else -1

    def volumes(self) -> dict[str, str]:
        """All that it has: name -> place or ""."""
        found = self._plugin.call("VolumeDriver.List").get("Volumes")
        if not isinstance(found, list):
            return {}
        return {
            str(one["Name"]): str(one.get("Mountpoint") or "")
            for one in found
            if isinstance(one, dict) and one.get("Name")
        }
