"""Network work that a build can leave: its connections are shut when the build has had enough of it.

A server decides how long a read takes: with a byte now and then it keeps any time-out from passing.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin

from sampan.build.fetch.git_url import redacted
from sampan.errors import SampanError, Unavailable
from sampan.registry.proxies import NO_PROXIES, Proxies

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")
MAX_REDIRECTS = 10
_LOOK = 0.1
_LEAVE = 5.0
"""Seconds that the work has to end after its connections were shut; it may still look up a name."""


class Connections:
    """What ends the waiting of some work. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closers: list[Callable[[], object]] = []
        self._left = False

    def add(self, close: Callable[[], object]) -> None:
        with self._lock:
            if not self._left:
                self._closers.append(close)
                return
        close()

    def watch(self, connection: socket.socket) -> None:
        """By a descriptor of our own: whoever owns the connection may close it, or wrap it up in TLS."""
        self.add(partial(_shut, connection.dup()))

    def close(self, *, leave: bool = False) -> None:
        """All there are; with `leave` also those that are still to come, as the work may try again."""
        with self._lock:
            self._left = self._left or leave
            closers, self._closers = self._closers, []
        for close in closers:
            close()


def attended(work: Callable[[], T], look: Callable[[], object], connections: Connections) -> T:
    """What `work` gives, done in a thread of its own; meanwhile `look` is called now and then.

    Raises what the two raise. Afterwards none of the connections is left.
    """
    done = threading.Event()
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (told to the thread that waits)
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="fetch", daemon=True).start()
    try:
        while not done.wait(_LOOK):
            look()
    except SampanError:
        connections.close(leave=True)
        done.wait(_LEAVE)
        raise
    connections.close()
    if failures:
        raise failures[0]
    return results[0]


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already
    connection.close()


def _watched(connections: Connections) -> dict[str, Any]:
    """urllib3's pools by scheme, whose connections are watched from their making on."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            connections.watch(made)
            return made

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            connections.watch(made)
            return made

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def http_pool(
    connections: Connections,
    timeout: urllib3.Timeout,
    headers: dict[str, str],
    proxies: Proxies = NO_PROXIES,
) -> urllib3.PoolManager:
    """For a stranger's servers: `Retry-After` is not slept through, what comes with a redirect is not read to its end,
    and credentials do not follow one to another server; each address is reached by its own proxy.

    Raises `Unavailable` for a redirect that is not followed, `Unsupported` for a proxy that is none of HTTP's.
    """
    from urllib3 import BaseHTTPResponse, PoolManager, Retry

    from sampan.registry.pools import proxy_pool

    pool_classes = _watched(connections)
    options: dict[str, Any] = {"timeout": timeout, "retries": Retry(2, respect_retry_after_header=False)}

    def through(proxy: str) -> PoolManager:
        made = proxy_pool(proxy, options)
        made.pool_classes_by_scheme = pool_classes
        return made

    class Pool(PoolManager):
        def urlopen(self, method: str, url: str, redirect: bool = True, **rest: Any) -> BaseHTTPResponse:  # type: ignore[override]
            for _ in range(MAX_REDIRECTS + 1):
                proxy = proxies.of(url)
                if proxy:
                    response = through(proxy).urlopen(method, url, redirect=False, **rest)
                else:
                    response = super().urlopen(method, url, redirect=False, **rest)
                response.url = url
                location = redirect and method == "GET" and response.get_redirect_location()
                if not location:
                    return response
                response.close()
                target = _joined(url, location)
                if not target.startswith(("http://", "https://")):
                    scheme = target.partition(":")[0][:40]
                    raise Unavailable(f'Get "{redacted(url)}": unsupported protocol scheme {scheme!r}')
                if _origin(target) != _origin(url):
                    rest["headers"] = _without_credentials(rest.get("headers", self.headers))
                url = target
            raise Unavailable(f'Get "{redacted(url)}": stopped after {MAX_REDIRECTS} redirects')

    pool = Pool(headers=headers, **options)
    pool.pool_classes_by_scheme = pool_classes
    return pool


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location  # no address: it is refused as one


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Raises urllib3's `LocationParseError`."""
    from urllib3.util import parse_url

    parsed = parse_url(url)
    scheme = (parsed.scheme or "").lower()
    return scheme, parsed.host, parsed.port or (443 if scheme == "https" else 80)


def _without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in ("authorization", "cookie")}
