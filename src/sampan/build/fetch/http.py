"""ADD of a URL: downloaded with bounds, verified when a checksum is given."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from sampan.build.errors import BuildCancelled
from sampan.build.fetch.attended import Connections, attended, http_pool
from sampan.build.fetch.git_url import is_git, redacted
from sampan.build.worker import TransferReport
from sampan.errors import Invalid, Unavailable
from sampan.registry.progress import Progress
from sampan.registry.proxies import NO_PROXIES, Proxies

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")
MAX_DOWNLOAD = 64 << 30
_CHUNK = 1 << 20
_MAX_VALIDATOR = 1024
"""Characters of an ETag that is remembered."""


@dataclass(frozen=True, slots=True)
class Download:
    name: str
    """The file's name, from the URL's path; empty when there is none in it."""
    sha256: str
    mtime: float
    """Unix time of Last-Modified; 0 when the server does not say."""
    validator: Validator | None = None


class Validator(msgspec.Struct, frozen=True, omit_defaults=True):
    """By what a server tells whether a file is still the one that was downloaded, and what that one was."""

    sha256: str
    etag: str = ""
    modified: str = ""

    def conditions(self) -> dict[str, str]:
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.modified} if self.modified else {}


def is_url(source: str) -> bool:
    """A file's address; one that ends in `.git` is a repository's."""
    return source.startswith(("http://", "https://")) and not is_git(source)


def check_url(url: str) -> None:
    """Raises `Invalid` for one that is_url knows and that leads nowhere."""
    try:
        parts = urlsplit(url)
        reason = (
            "" if parts.hostname and parts.port != 0 and " " not in parts.netloc else "it names no server"
        )
    except ValueError as error:
        reason = str(error)
    if reason or any(ord(char) < 0x20 or ord(char) == 0x7F for char in url):
        raise Invalid(f"invalid URL {redacted(url)[:200]!r}: {reason or 'it has control characters'}")


def parse_checksum(text: str) -> str:
    """`sha256:<hex>` -> hex. Raises `Invalid`."""
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", text)
    if not match:
        raise Invalid(f"invalid checksum {text!r}: expected sha256 and 64 hexadecimal digits")
    return match[1]


def name_of(url: str) -> str:
    """The last part of the path, slashes at its end aside, as BuildKit has it; "" when there is none."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return "" if name in (".", "..") or "\0" in name else name


def encode_validator(validator: Validator) -> str:
    return msgspec.json.encode(validator).decode()


def decode_validator(text: str) -> Validator | None:
    """None for anything else."""
    try:
        return msgspec.json.decode(text, type=Validator)
    except msgspec.MsgspecError:
        return None


def download(
    url: str,
    out: BinaryIO,
    report: TransferReport,
    cancelled: threading.Event,
    *,
    authorization: str = "",
    proxies: Proxies = NO_PROXIES,
) -> Download:
    """Raises `Unavailable` when the server does not give it, `Invalid`, `BuildCancelled`."""

    def take(response: urllib3.BaseHTTPResponse) -> Download:
        return _receive(url, response, out, report, cancelled)

    return _asked(url, authorization, {}, cancelled, proxies, take)


def download_changed(
    url: str,
    known: Validator,
    out: BinaryIO,
    report: TransferReport,
    cancelled: threading.Event,
    *,
    authorization: str = "",
    proxies: Proxies = NO_PROXIES,
) -> Download | None:
    """None when the server says that the file is still the `known` one: nothing is written to `out` then.

    Raises as `download`.
    """
    conditions = known.conditions()

    def take(response: urllib3.BaseHTTPResponse) -> Download | None:
        if response.status == 304 and conditions:
            return None
        return _receive(url, response, out, report, cancelled)

    return _asked(url, authorization, conditions, cancelled, proxies, take)


def _asked(
    url: str,
    authorization: str,
    conditions: Mapping[str, str],
    cancelled: threading.Event,
    proxies: Proxies,
    take: Callable[[urllib3.BaseHTTPResponse], T],
) -> T:
    """What `take` makes of the answer; the server's failures, also while it is read, become `Unavailable`."""
    import urllib3  # not before it is needed: few builds download, and it takes 3 MB in every engine

    from sampan.registry.failures import describe

    connections = Connections()
    headers = {"Accept-Encoding": "identity", **conditions}
    if authorization:
        headers["Authorization"] = authorization

    def ask() -> T:
        with http_pool(connections, urllib3.Timeout(connect=30, read=60), headers, proxies) as pool:
            response = pool.request("GET", url, preload_content=False)
            try:
                return take(response)
            finally:
                response.close()

    def look() -> None:
        if cancelled.is_set():
            raise BuildCancelled

    try:
        return attended(ask, look, connections)
    except urllib3.exceptions.HTTPError as error:
        host = urlsplit(url).netloc.rpartition("@")[2]
        reason = getattr(error, "reason", None)  # of the last attempt
        words = describe(reason if isinstance(reason, Exception) else error, host)
        raise Unavailable(f"cannot download {redacted(url)}: {words}") from error


def _receive(
    url: str,
    response: urllib3.BaseHTTPResponse,
    out: BinaryIO,
    report: TransferReport,
    cancelled: threading.Event,
) -> Download:
    if response.status != 200:
        raise Unavailable(f"invalid response status {response.status} for {redacted(url)}")
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() and len(length) < 20 else 0
    digest = hashlib.sha256()
    count = 0
    for chunk in response.stream(_CHUNK, decode_content=False):
        if cancelled.is_set():
            raise BuildCancelled
        digest.update(chunk)
        out.write(chunk)
        count += len(chunk)
        if count > MAX_DOWNLOAD:
            raise Invalid(f"{redacted(url)} is larger than {MAX_DOWNLOAD} bytes")
        report(Progress("Downloading", current=count, total=total))
    out.flush()
    os.lseek(out.fileno(), 0, os.SEEK_SET)
    if total and count != total:
        raise Unavailable(f"{redacted(url)} ended after {count} of {total} bytes")
    return _download(
        url, digest.hexdigest(), response.headers.get("ETag"), response.headers.get("Last-Modified")
    )


def _download(url: str, digest: str, etag: str | None, modified: str | None) -> Download:
    mtime = _modified(modified)
    kept = [text if text and len(text) <= _MAX_VALIDATOR else "" for text in (etag, modified)]
    validator = Validator(digest, *kept) if any(kept) else None
    return Download(name_of(url), digest, mtime, validator)


def _modified(header: str | None) -> float:
    if not header:
        return 0.0
    try:
        return max(parsedate_to_datetime(header).timestamp(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
