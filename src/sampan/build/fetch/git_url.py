"""Addresses of Git repositories, as ADD and build contexts write them. Pure.

`https://host/repo.git#ref:subdir`, the query form `...repo.git?ref=…&subdir=…&checksum=…&keep-git-dir=…&submodules=…`,
`git://…`, `ssh://…`, `user@host:path`; contexts also `github.com/user/repo`. Whatever a URL says becomes values here:
nothing of it reaches a command line or a path unchecked.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit

from sampan.errors import Invalid

MAX_URL = 8192
_SCP = re.compile(
    r"([A-Za-z0-9_.][A-Za-z0-9_.+-]*)@([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(?!//)([^?#]*)(.*)", re.DOTALL
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_CHECKSUM = re.compile(r"[0-9a-f]{1,64}")
_FULL_ID = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"[^\x00-\x20\x7f ~^:?*\[\\-][^\x00-\x20\x7f~^:?*\[\\]*")
_SCHEMES = ("http", "https", "git", "ssh")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


@dataclass(frozen=True, slots=True)
class GitUrl:
    """Where a repository is."""

    scheme: str
    """"http", "https", "git" or "ssh"."""
    host: str
    path: str
    """For ssh without a leading slash it counts from the home directory there."""
    port: int | None = None
    user: str = ""
    password: str = ""

    @property
    def remote(self) -> str:
        """The address without a password, and over HTTP without a user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user and self.scheme == "ssh" else ""
        port = f":{self.port}" if self.port else ""
        slash = "" if self.path.startswith("/") else "/~/"
        return f"{self.scheme}://{user}{host}{port}{slash}{self.path}"


@dataclass(frozen=True, slots=True)
class GitSource:
    """What is wanted of a repository."""

    url: GitUrl
    ref: str = ""
    """A branch, a tag, a full name (refs/…) or a commit id; empty is the remote's HEAD."""
    subdir: str = ""
    """Relative, cleaned, without `..`."""
    checksum: str = ""
    """The beginning of the commit's id that must come out."""
    keep_git_dir: bool | None = None
    submodules: bool = True
    commit_time: bool | None = None
    """Files get the commit's time (True) or the time of the checkout (False); None: nothing was asked for."""
    fetch_by_commit: bool = False

    @property
    def named(self) -> str:
        """The repository and what of it, as people and BuildKit's provenance write it; no credentials."""
        return f"{self.url.remote}#{self.ref}" if self.ref else self.url.remote

    @property
    def commit(self) -> str:
        """The commit's full id when the address alone says it."""
        if self.fetch_by_commit and _FULL_ID.fullmatch(self.checksum):
            return self.checksum
        return self.ref if _FULL_ID.fullmatch(self.ref) else ""


def is_git(source: str, *, context: bool = False) -> bool:
    """Whether this is a repository's address and no file's. `context`: for a build context, not for ADD."""
    if _SCP.fullmatch(source):
        return True
    match = _SCHEME.match(source)
    if match is None:
        return context and source.startswith("github.com/")
    scheme = match[1].lower()
    if scheme in ("git", "ssh"):
        return True
    return scheme in ("http", "https") and re.split(r"[?#]", source)[0].endswith(".git")


def parse_git(source: str, *, context: bool = False) -> GitSource:
    """Raises `Invalid`, for addresses that `is_git` does not know too."""
    if not is_git(source, context=context) or len(source) > MAX_URL:
        raise Invalid(f"{redacted(source)[:200]!r} is no address of a git repository")
    if context and source.startswith("github.com/"):
        source = "https://" + source
    scp = _SCP.fullmatch(source)
    if scp:
        url = _checked(GitUrl("ssh", scp[2].strip("[]"), scp[3], user=scp[1]))
        rest = scp[4]
    else:
        url, rest = _from_url(source)
    address, _, fragment = rest.partition("#")
    ref, _, subdir = unquote(fragment).partition(":")
    found = GitSource(url, ref, subdir)
    found = _with_query(found, address.removeprefix("?"))
    if found.ref and (not _REF.fullmatch(found.ref) or ".." in found.ref):
        raise Invalid(f"invalid git ref {found.ref!r}")
    if found.checksum and not _CHECKSUM.fullmatch(found.checksum):
        raise Invalid(
            f"invalid checksum {found.checksum!r}: expected the hexadecimal digits of a commit's id"
        )
    if found.fetch_by_commit and not _FULL_ID.fullmatch(found.checksum):
        raise Invalid("fetch-by-commit needs the commit's full id", hint="add commit=<40 hexadecimal digits>")
    return replace(found, subdir=clean_subdir(found.subdir))


def parse_submodule(text: str, parent: GitUrl) -> GitUrl:
    """The address of a submodule; `./` and `../` count from the repository that names it. Raises `Invalid`."""
    if len(text) > MAX_URL or any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise Invalid("a submodule's address is too long or has control characters")
    if text.startswith(("./", "../")):
        path = posixpath.normpath(posixpath.join(parent.path.rstrip("/"), text))
        if path.startswith("..") or path in ("/", "."):
            raise Invalid(f"the submodule's address {text!r} leads out of {parent.remote}")
        return _checked(replace(parent, path=path))
    scp = _SCP.fullmatch(text)
    if scp:
        return _checked(GitUrl("ssh", scp[2].strip("[]"), scp[3], user=scp[1]))
    match = _SCHEME.match(text)
    if match is None or match[1].lower() not in _SCHEMES:
        raise Invalid(
            f"the submodule's address {redacted(text)!r} is refused",
            hint="http, https, git and ssh are fetched",
        )
    url, rest = _from_url(text)
    if rest:
        raise Invalid(f"the submodule's address {redacted(text)!r} has a query or a fragment")
    return url


def clean_subdir(text: str) -> str:
    """Raises `Invalid` for one that climbs."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in text:
        raise Invalid(f"invalid subdirectory {text!r} of a git repository: it leads out of it")
    return "/".join(parts)


def redacted(text: str) -> str:
    """Without what stands before the last `@` of the authority."""
    return re.sub(r"://[^/?#]*@", "://", text)


def _from_url(text: str) -> tuple[GitUrl, str]:
    """The address, and its `?query#fragment`."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Invalid(f"invalid git address {redacted(text)!r}: {error}") from error
    rest = ("?" + parts.query if parts.query else "") + ("#" + parts.fragment if parts.fragment else "")
    url = GitUrl(
        parts.scheme.lower(),
        host,
        unquote(parts.path, errors="strict") if parts.scheme.lower() in ("git", "ssh") else parts.path,
        port,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )
    return _checked(url), rest


def _checked(url: GitUrl) -> GitUrl:
    """Nothing here may be taken for an option or end a line, whoever reads it."""
    texts = (url.user, url.password, url.path, url.host)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for text in texts for char in text):
        raise Invalid("a git address has control characters")
    if url.scheme not in _SCHEMES or not _HOST.fullmatch(url.host):
        raise Invalid(f"invalid git address {url.remote!r}: its host is not one")
    if not url.path.strip("/") or url.path.startswith("-") or url.user.startswith("-"):
        raise Invalid(f"invalid git address {url.remote!r}")
    return url


def _with_query(found: GitSource, query: str) -> GitSource:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    except ValueError as error:
        raise Invalid(f"invalid query of a git address: {error}") from error
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise Invalid(f'query "{name}" has multiple values')
        seen.add(name)
        if not value and name not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise Invalid(f'query "{name}" has no value')
        found = _with_parameter(found, name, value)
    return found


def _with_parameter(found: GitSource, name: str, value: str) -> GitSource:
    match name:
        case "ref":
            return _with_ref(found, value)
        case "tag":
            return _with_ref(found, "refs/tags/" + value.removeprefix("refs/tags/"))
        case "branch":
            return _with_ref(found, "refs/heads/" + value.removeprefix("refs/heads/"))
        case "subdir":
            if found.subdir and found.subdir != value:
                raise Invalid(f'subdir conflicts: "{found.subdir}" vs "{value}"')
            return replace(found, subdir=value)
        case "checksum" | "commit":
            return replace(found, checksum=value)
        case "keep-git-dir":
            return replace(found, keep_git_dir=_truth(name, value))
        case "submodules":
            return replace(found, submodules=_truth(name, value))
        case "fetch-by-commit":
            return replace(found, fetch_by_commit=_truth(name, value))
        case "mtime":
            if value not in ("checkout", "commit"):
                raise Invalid(f'invalid mtime value: "{value}" (must be "checkout" or "commit")')
            return replace(found, commit_time=value == "commit")
    raise Invalid(f'unexpected query "{name}"')


def _with_ref(found: GitSource, ref: str) -> GitSource:
    if found.ref and found.ref != ref:
        raise Invalid(f'ref conflicts: "{found.ref}" vs "{ref}"')
    return replace(found, ref=ref)


def _truth(name: str, value: str) -> bool:
    if value in ("", *_TRUE):
        return True
    if value in _FALSE:
        return False
    raise Invalid(f'invalid {name} value: "{value}"')
