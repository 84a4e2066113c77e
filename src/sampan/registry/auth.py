"""Authentication as registries ask for it: Basic (RFC 7617) and Bearer tokens (distribution's token spec).

The rule for credentials: they go to the registry's own host, and to its token service (the `realm` of a
Bearer challenge) only when that belongs to the registry: the same host, or for names a host below the same
parent domain (registry.example.com and auth.example.com), and never from HTTPS to plain HTTP. A realm elsewhere is
asked anonymously. Nothing follows a redirect to another host.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec

from sampan.errors import Invalid
from sampan.registry.config import Credentials

_PARAMETER = re.compile(r'([a-zA-Z][\w-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SHORT_LABEL = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """A WWW-Authenticate header. `scheme` is "basic" or "bearer"; realm, service and scope of the latter."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


class TokenAnswer(msgspec.Struct):
    """`expires_in` in seconds."""

    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int = 60


def parse_challenge(header: str) -> Challenge | None:
    """The challenge of a 401 answer; None when there is none that is understood."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() not in ("basic", "bearer"):
        return None
    values = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
        for name, quoted, bare in _PARAMETER.findall(rest)
    }
    return Challenge(
        scheme.lower(), values.get("realm", ""), values.get("service", ""), values.get("scope", "")
    )


def basic_header(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def realm_belongs(realm: str, registry_url: str) -> bool:
    """Whether the token service `realm` may get the credentials for the registry at `registry_url`."""
    service, registry = urlsplit(realm), urlsplit(registry_url)
    if service.scheme not in ("http", "https") or (registry.scheme == "https" and service.scheme != "https"):
        return False
    asked, own = (service.hostname or "").lower(), (registry.hostname or "").lower()
    if asked == own:
        return True
    if _is_address(asked) or _is_address(own):
        return False
    parent = parent_domain(own)
    return parent != "" and (asked == parent or asked.endswith("." + parent))


def parent_domain(host: str) -> str:
    """The domain that a registry's name lies in; "" when that would be a public suffix (com, co.uk)."""
    labels = host.split(".")
    if len(labels) < 2:
        return ""
    parent = labels if len(labels) == 2 else labels[1:]
    is_suffix = len(parent) == 2 and len(parent[0]) <= _SHORT_LABEL and len(parent[1]) == 2
    return ".".join(host.split(".") if is_suffix else parent)


def parse_token(raw: bytes) -> TokenAnswer:
    """Raises `Invalid` when it is not a token service's answer."""
    try:
        answer = msgspec.json.decode(raw, type=TokenAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the token service's answer is malformed: {error}") from error
    if not (answer.token or answer.access_token):
        raise Invalid("the token service's answer has no token")
    return answer


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
