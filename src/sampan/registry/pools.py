"""Connections for requests, each through the proxy that its address has. Thread-safe."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3

from sampan.errors import Unsupported
from sampan.registry.proxies import Proxies


class Pools:
    """`options`: of every pool of connections, as urllib3 has them."""

    def __init__(self, proxies: Proxies, **options: Any) -> None:
        self._proxies = proxies
        self._options = options
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}

    def of(self, url: str) -> urllib3.PoolManager:
        """For a request to that URL. Raises `Unsupported` for a proxy of another kind than HTTP's."""
        proxy = self._proxies.of(url)
        with self._lock:
            if proxy not in self._pools:
                made = proxy_pool(proxy, self._options) if proxy else urllib3.PoolManager(**self._options)
                self._pools[proxy] = made
            return self._pools[proxy]

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()


def proxy_pool(proxy: str, options: Mapping[str, Any]) -> urllib3.ProxyManager:
    """Raises `Unsupported`."""
    parts = urlsplit(proxy)
    user, at, place = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not place:
        raise Unsupported(
            f"the proxy {urlunsplit((parts.scheme, place, '', '', ''))} is not supported",
            hint="http and https proxies are; HTTP_PROXY, HTTPS_PROXY or the engine's flags name it",
        )
    headers = {}
    if at:
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(unquote(user).encode()).decode()
    address = urlunsplit((parts.scheme, place, "", "", ""))
    return urllib3.ProxyManager(address, proxy_headers=headers, **options)
