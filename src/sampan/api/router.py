"""From method and path to the handler; the version prefix of the Engine API is taken off here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from sampan.api.messages import Handler, Route
from sampan.errors import Invalid, NotFound

API_VERSION = "1.47"
"""The newest version of the Engine API that is spoken."""
MIN_API_VERSION = "1.24"

_VERSIONED = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(/.*)")
_PARAMETER = re.compile(r"\{(\w+)(\*?)\}")


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._static: dict[tuple[str, str], Handler] = {}
        self._dynamic: dict[str, list[tuple[re.Pattern[str], Handler]]] = {}
        for route in routes:
            if "{" not in route.pattern:
                self._static[(route.method, route.pattern)] = route.handler
            else:
                compiled = re.compile(_PARAMETER.sub(_group, route.pattern))
                self._dynamic.setdefault(route.method, []).append((compiled, route.handler))

    def split_version(self, path: str) -> tuple[str, str]:
        """(version asked for, rest of the path). `Invalid` for a version that is not spoken."""
        found = _VERSIONED.fullmatch(path)
        if found is None:
            return API_VERSION, path
        version = f"{int(found[1])}.{int(found[2])}"
        if _numbers(version) > _numbers(API_VERSION):
            raise Invalid(
                f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
            )
        if _numbers(version) < _numbers(MIN_API_VERSION):
            raise Invalid(
                f"client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, "
                "please upgrade your client to a newer version"
            )
        return version, found[3]

    def resolve(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """The handler and the path's parameters. `NotFound` when there is none."""
        lookup = "GET" if method == "HEAD" else method
        for wanted in dict.fromkeys((method, lookup)):
            handler = self._static.get((wanted, path))
            if handler is not None:
                return handler, {}
            for pattern, candidate in self._dynamic.get(wanted, ()):
                found = pattern.fullmatch(path)
                if found is not None:
                    return candidate, {name: unquote(value) for name, value in found.groupdict().items()}
        raise NotFound("page not found")


def _group(found: re.Match[str]) -> str:
    return f"(?P<{found[1]}>.+)" if found[2] else f"(?P<{found[1]}>[^/]+)"


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
