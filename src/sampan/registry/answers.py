"""What a registry's answers mean: errors in the words that Docker has for them, upload ranges. Pure."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import msgspec

from sampan.errors import Denied, Invalid, NotFound, SampanError, Unavailable
from sampan.oci.reference import Reference

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")


class ErrorItem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct):
    errors: tuple[ErrorItem, ...] = ()


_MAX_WORDS = 1000


def error_items(raw: bytes) -> tuple[ErrorItem, ...]:
    """The errors that an answer's body lists (distribution-spec, "Error Codes"); () when it has no such list."""
    try:
        return msgspec.json.decode(raw, type=_ErrorBody).errors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()


def read_error(status: int, raw: bytes, what: str, reference: Reference) -> SampanError:
    """An error answer to a question about a manifest or blob."""
    items = error_items(raw)
    words = _words(items)
    if status == 404 and "manifest" in what and not any(one.code == "NAME_UNKNOWN" for one in items):
        return NotFound(f"{what} not found: {words or 'manifest unknown: manifest unknown'}")
    if status == 404 and "repository" in what:
        return NotFound(f"{what} not found: {words or 'name unknown: repository name not known to registry'}")
    if status in (401, 403) or (status == 404 and any(one.code == "NAME_UNKNOWN" for one in items)):
        return Denied(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {words or 'denied: requested access to the resource is denied'}",
            hint="log in with `sampan login`" if status != 404 else "",
        )
    if status == 404:
        return NotFound(f"{what} not found: {words or 'unknown'}")
    return _failure(status, words, what)


def write_error(status: int, raw: bytes, what: str) -> SampanError:
    """An error answer to an upload."""
    words = _words(error_items(raw))
    if status in (401, 403):
        return Denied(
            words or "denied: requested access to the resource is denied", hint="log in with `sampan login`"
        )
    return _failure(status, words, what)


def _words(items: tuple[ErrorItem, ...]) -> str:
    """For a person's terminal, which a registry must not control: one line of bounded length, nothing but text."""
    text = "; ".join(f"{one.code.lower().replace('_', ' ')}: {one.message}" for one in items)[:_MAX_WORDS]
    return "".join(character if character.isprintable() else " " for character in text)


def _failure(status: int, words: str, what: str) -> SampanError:
    text = f"{what}: the registry answers with HTTP status {status} {words}".rstrip()
    return Unavailable(text) if status >= 500 or status == 429 else Invalid(text)


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] | None = None


def parse_tags(raw: bytes) -> tuple[str, ...]:
    """The answer of /tags/list. Raises `Invalid`, also for what can't be a tag."""
    try:
        tags = msgspec.json.decode(raw, type=_Tags).tags or ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the registry's list of tags is malformed: {error}") from error
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise Invalid(f"the registry's list of tags has {tag[:200]!r}, which is no tag")
    return tags


def absolute(base: str, target: str) -> str:
    """The URL that a registry names, from the one that was asked. Raises `Invalid` when it is none for HTTP."""
    try:
        url = urljoin(base, target)
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Invalid(f"the registry names {target[:200]!r}, which is not a usable URL")
    return url


def upload_location(base: str, target: str) -> str:
    """As `absolute`; raises `Invalid` too when content would leave an encrypted connection for a plain one."""
    url = absolute(base, target)
    if urlsplit(base).scheme == "https" and urlsplit(url).scheme != "https":
        raise Invalid(
            f"the registry at {urlsplit(base).netloc} wants the upload without TLS, at {url[:200]!r}",
            hint="A proxy in front of it may have to pass X-Forwarded-Proto on.",
        )
    return url


def next_page(link: str, current: str) -> str:
    """Path and query of the next page that a Link header names (RFC 8288), "" when there is none.

    Only the query is another one: the page is a part of the same list, on the same registry.
    """
    found = _NEXT.search(link)
    if found is None:
        return ""
    target, here = urlsplit(absolute(current, found[1])), urlsplit(current)
    path = here.path[here.path.find("/v2/") :]
    return f"{path}?{target.query}" if target.query else ""


def received(header: str, sent: int, size: int) -> int | None:
    """How many bytes of an upload the registry has, by its answer's Range (`0-<last byte>`); `sent` without one.

    None when what it says can't be true. "0-0" is what registries say of an empty upload.
    """
    if not header.strip():
        return sent
    found = _RANGE.fullmatch(header.strip())
    if found is None:
        return None
    last = int(found[1])
    have = last + 1 if last else 0
    return have if have <= size else None
