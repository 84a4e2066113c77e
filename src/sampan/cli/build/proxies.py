"""`proxies` of the client's config.json as build arguments, as Docker's command line passes them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_NAMES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "noProxy": "NO_PROXY",
    "ftpProxy": "FTP_PROXY",
    "allProxy": "ALL_PROXY",
}


def with_proxies(
    config: Mapping[str, Any], host: str, arguments: Mapping[str, str | None]
) -> dict[str, str | None]:
    """`arguments`, and what the file says for the engine at `host`, or by default, under both spellings.

    What was given with `--build-arg` wins, each spelling for itself.
    """
    proxies = config.get("proxies")
    if not isinstance(proxies, dict):
        return dict(arguments)
    chosen = proxies.get(host, proxies.get("default"))
    found = dict(arguments)
    for key, name in _NAMES.items():
        value = chosen.get(key) if isinstance(chosen, dict) else None
        if isinstance(value, str) and value:
            found.setdefault(name, value)
            found.setdefault(name.lower(), value)
    return found
