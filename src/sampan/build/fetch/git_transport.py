"""Asking a Git server for its references and for a pack, within bounds.

The protocol is dulwich's; sockets, processes and limits are ours: no configuration file of the host is read, no
helper or hook is run, nothing but `ssh` is started, and that with a fixed command line.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from sampan.build.errors import BuildCancelled
from sampan.build.fetch.attended import Connections, attended, http_pool
from sampan.build.fetch.git_pack import MAX_PACK, inspect_pack
from sampan.build.fetch.git_url import GitUrl
from sampan.errors import Invalid, NotFound, SampanError, Unavailable
from sampan.registry.proxies import NO_PROXIES, Proxies

if TYPE_CHECKING:
    from dulwich.client import GitClient
    from dulwich.object_store import DiskObjectStore
    from dulwich.protocol import Protocol

T = TypeVar("T")

MAX_REFERENCES = 64 << 20
"""Bytes of what a server says before it sends a pack: a million references, which are held in memory."""
TIME = 30 * 60.0
"""Seconds for one repository."""
CONNECT, READ = 30.0, 60.0
"""Seconds without an answer."""
_SSH = (
    *("-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "ForwardAgent=no"),
    *("-o", "PermitLocalCommand=no", "-o", "ClearAllForwardings=yes", "-o", f"ConnectTimeout={int(CONNECT)}"),
    *("-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=3"),
    *("-o", "IdentityFile=none"),  # the engine's own keys are not for whoever builds
)


@dataclass(slots=True)
class Limits:
    """Of one repository. `agent`: the path of an ssh agent's socket, empty without one."""

    cancelled: threading.Event
    progress: Callable[[int], None] = lambda _count: None
    """Told how many bytes have come."""
    agent: str = ""
    proxies: Proxies = NO_PROXIES
    deadline: float = field(default_factory=lambda: time.monotonic() + TIME)
    received: int = 0
    packed: int = 0
    """Of what was received, the bytes that went to disk."""
    connections: Connections = field(default_factory=Connections)

    def account(self, count: int) -> None:
        """Raises when it is enough."""
        self.received += count
        if self.received - self.packed > MAX_REFERENCES:
            raise Invalid(f"the git repository sends more than {MAX_REFERENCES} bytes beside its files")
        if self.packed > MAX_PACK:
            raise Invalid(f"the git repository sends more than {MAX_PACK} bytes")
        if self.cancelled.is_set():
            raise BuildCancelled
        if time.monotonic() > self.deadline:
            raise Unavailable(f"the git repository took longer than {int(TIME)} seconds")
        self.progress(self.received)


def references(url: GitUrl, limits: Limits) -> dict[str, str]:
    """Names (HEAD, refs/…, and refs/tags/…^{} for what an annotated tag names) and ids."""

    def ask() -> Mapping[Any, bytes | None]:
        client, path = _client(url, limits)
        return client.get_refs(path).refs

    found = _told(url, limits, ask)
    return {
        name.decode("utf-8", "replace"): value.decode("ascii", "replace")
        for name, value in found.items()
        if value
    }


def fetch(
    url: GitUrl, wants: list[str], depth: int | None, directory: str, limits: Limits
) -> DiskObjectStore:
    """A store below `directory` with the objects of `wants` (ids); `depth` commits of history, None is all of it.

    An empty `wants` asks for all branches and tags.
    """

    def ask() -> DiskObjectStore:
        from dulwich.object_store import DiskObjectStore
        from dulwich.objects import ObjectID

        client, path = _client(url, limits)
        store = DiskObjectStore.init(directory)
        file, commit, abort = store.add_pack()

        def wanted(refs: Mapping[Any, ObjectID], depth: int | None = None) -> list[ObjectID]:
            every = [
                value for name, value in refs.items() if name.startswith((b"refs/heads/", b"refs/tags/"))
            ]
            return [ObjectID(want.encode()) for want in wants] or sorted(set(every))

        def keep(data: bytes) -> int:
            limits.packed += len(data)
            return file.write(data)

        try:
            client.fetch_pack(path, wanted, _NothingHere(), keep, progress=_silent, depth=depth)
            if file.tell() == 0:
                abort()
                return store
            file.flush()
            inspect_pack(file.fileno(), limits.cancelled)
        except BaseException:
            abort()
            raise
        commit()
        return store

    os.makedirs(directory, 0o700, exist_ok=True)
    return _told(url, limits, ask)


class _NothingHere:
    """What we have already: nothing, so that the pack is complete."""

    shallow: frozenset[bytes] = frozenset()

    def __next__(self) -> None:
        return None

    def ack(self, _sha: object) -> None: ...

    def nak(self) -> None: ...


def _silent(_text: bytes) -> None: ...


def _told(url: GitUrl, limits: Limits, ask: Callable[[], T]) -> T:
    """`ask`, which a build that is cancelled does not wait for, with errors that say which repository it was."""

    def asked() -> T:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 (raised again, in words)
            told = _translated(url, error)
            raise told from (None if told is error else error)

    return attended(asked, lambda: limits.account(0), limits.connections)


def _translated(url: GitUrl, error: BaseException) -> BaseException:
    from dulwich.client import HTTPUnauthorized
    from dulwich.errors import HangupException, NotGitRepository

    if isinstance(error, SampanError | MemoryError):
        return error
    if isinstance(error, HTTPUnauthorized):
        reason = "it asks for a password"
    elif isinstance(error, NotGitRepository):
        return NotFound(f"repository {url.remote} not found")
    elif isinstance(error, HangupException):
        lines = [line.decode("utf-8", "replace").strip() for line in error.stderr_lines or []]
        reason = " ".join(line for line in lines if line)[:500] or "the connection was closed"
    else:
        reason = _words(error, url)[:500] or type(error).__name__
    hint = "--ssh default forwards your agent" if url.scheme == "ssh" else ""
    return Unavailable(f"failed to fetch git repository {url.remote}: {reason}", hint=hint)


def _words(error: BaseException, url: GitUrl) -> str:
    """Those of Docker for what happens on the way to a server."""
    import urllib3

    met = error if isinstance(error, urllib3.exceptions.HTTPError) else error.__cause__ or error.__context__
    if not isinstance(met, urllib3.exceptions.HTTPError):
        return str(error)
    from sampan.registry.failures import describe

    reason = getattr(met, "reason", None)  # of the last attempt
    return describe(reason if isinstance(reason, Exception) else met, urlsplit(url.remote).netloc)


def _client(url: GitUrl, limits: Limits) -> tuple[GitClient, bytes]:
    if url.scheme in ("http", "https"):
        return _http_client(url, limits), b""
    path = url.path.encode()
    if url.scheme == "git":
        return _tcp_client(url, limits), path
    return _ssh_client(url, limits), path


def _http_client(url: GitUrl, limits: Limits) -> GitClient:
    import urllib3
    from dulwich.client import Urllib3HttpGitClient

    class Client(Urllib3HttpGitClient):
        def _http_request(self, *args: Any, **kwargs: Any) -> Any:
            response, read = super()._http_request(*args, **kwargs)
            if not (response.content_type or "").startswith("application/x-git-"):
                # The library would read all objects of a server that only has files, each unpacked whatever its size.
                raise Unavailable(f"{url.remote} is no git server: its answer is no git protocol")

            def counted(size: int) -> bytes:
                data = read(size)
                limits.account(len(data))
                return data

            return response, counted

    timeout = urllib3.Timeout(connect=CONNECT, read=READ)
    return Client(
        url.remote,
        pool_manager=http_pool(limits.connections, timeout, {"User-Agent": "git/sampan"}, limits.proxies),
        username=url.user or None,
        password=url.password or None,
        thin_packs=False,
        quiet=True,
    )


def _tcp_client(url: GitUrl, limits: Limits) -> GitClient:
    from dulwich.client import TCPGitClient

    class Client(TCPGitClient):
        def _connect(
            self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
        ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
            connection = socket.create_connection((url.host, url.port or 9418), CONNECT)
            connection.settimeout(READ)
            limits.connections.watch(connection)
            protocol = _protocol(connection.makefile("rb"), connection.sendall, connection.close, limits)
            self.protocol_version = 0
            protocol.send_cmd(
                b"git-" + cmd, path if isinstance(path, bytes) else path.encode(), b"host=" + _name(url)
            )
            return protocol, lambda: False, None

    return Client(url.host, url.port, thin_packs=False, quiet=True)


def _ssh_client(url: GitUrl, limits: Limits) -> GitClient:
    from dulwich.client import SSHGitClient

    class Client(SSHGitClient):
        def _connect(
            self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
        ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
            text = path if isinstance(path, bytes) else path.encode()
            quoted = b"'" + text.replace(b"'", b"'\\''").replace(b"!", b"'\\!'") + b"'"
            process = _ssh(url, b"git-" + cmd + b" " + quoted, limits)
            if process.stdin is None or process.stdout is None:
                raise Unavailable("ssh was started without its pipes")
            self.protocol_version = 0
            stdin = process.stdin
            protocol = _protocol(
                process.stdout, lambda data: (stdin.write(data), stdin.flush()), lambda: _end(process), limits
            )
            return protocol, lambda: False, process.stderr

    return Client(url.host, url.port, url.user or None, thin_packs=False, quiet=True)


def _protocol(
    reader: IO[bytes], write: Callable[[bytes], object], close: Callable[[], None], limits: Limits
) -> Protocol:
    from dulwich.protocol import Protocol

    def read(size: int) -> bytes:
        data = reader.read(size)
        limits.account(len(data))
        return data

    def written(data: bytes) -> int:
        write(data)
        return len(data)

    return Protocol(read, written, close)


def _ssh(url: GitUrl, command: bytes, limits: Limits) -> subprocess.Popen[bytes]:
    program = shutil.which("ssh")
    if program is None:
        raise Unavailable(
            "ssh is not installed on the engine's host", hint="install openssh-client, or use https"
        )
    port = ("-p", str(url.port)) if url.port else ()
    user = f"{url.user}@" if url.user else ""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C",
    }
    if limits.agent:
        environment["SSH_AUTH_SOCK"] = limits.agent
    process = subprocess.Popen(
        [program, *_SSH, *port, "-T", "--", f"{user}{url.host}", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    limits.connections.add(process.kill)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _name(url: GitUrl) -> bytes:
    return (f"{url.host}:{url.port}" if url.port else url.host).encode(
        "idna" if not url.host.isascii() else "ascii"
    )
