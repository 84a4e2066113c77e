"""Image references (`[domain/]path[:tag][@digest]`), normalised as Docker does.

Grammar: distribution's reference syntax; the familiar form leaves out `docker.io/library/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sampan.errors import Invalid
from sampan.oci.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Reference:
    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Domain and path: what a repository is called in full."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        return self.path.removeprefix(OFFICIAL_PREFIX) if self.path.count("/") == 1 else self.path

    def __str__(self) -> str:
        """The full form."""
        return self.name + self._suffix()

    @property
    def familiar(self) -> str:
        """The form that people type and that `docker images` prints."""
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        if self.tag is None and self.digest is None:
            return replace(self, tag=DEFAULT_TAG)
        return self


def parse_reference(text: str) -> Reference:
    """Parse what a person typed; no default tag is added (`with_default_tag` does that).

    Raises `Invalid` with Docker's words.
    """
    rest, at, digest_text = text.partition("@")
    digest = parse_digest(digest_text) if at else None
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.fullmatch(tag):
            raise _bad(text)
    else:
        head, tag = rest, ""
    domain, path = _split_domain(head)
    if path.lower() != path:
        raise Invalid(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise _bad(text)
    if len(domain) + len(path) + 1 > _MAX_NAME:
        raise Invalid(
            f"invalid reference format: repository name must not be more than {_MAX_NAME} characters"
        )
    if re.fullmatch(r"[0-9a-f]{64}", head):
        raise Invalid(f"invalid repository name ({head}), cannot specify 64-byte hexadecimal strings")
    return Reference(domain, path, tag or None, digest)


def _split_domain(head: str) -> tuple[str, str]:
    """The first component is a host if it looks like one: a dot, a port, or "localhost"."""
    first, slash, remainder = head.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    if slash and is_host:
        domain, path = first, remainder
    else:
        domain, path = DEFAULT_DOMAIN, head
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL_PREFIX + path
    return domain, path


def _bad(text: str) -> Invalid:
    return Invalid(f"invalid reference format: {text!r}" if text else "invalid reference format: it is empty")
