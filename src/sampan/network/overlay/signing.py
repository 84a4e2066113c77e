"""Who talks to a keeper, and who answers: both know a secret, and sign what they say with it (HMAC-SHA256).

A request carries the time, a number that is used once, and the number of the keeper's process, which it says to who
does not know it; the answer is signed together with the request's number. So neither can be sent again, also not to the
next keeper, or be taken for another one's. What is said can be read on the way, but not changed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sampan.errors import Denied, Invalid, SampanError, Unavailable
from sampan.network.overlay import http
from sampan.network.overlay.etcd import Token

log = logging.getLogger(__name__)

SKEW_SECONDS = 300
"""How far the clocks of two hosts may be apart."""
_TIME, _NONCE, _SIGNATURE = "x-sampan-time", "x-sampan-nonce", "x-sampan-signature"
_KEEPER = "x-sampan-keeper"
_MIN_SECRET = 16
OTHER_KEEPER = 409
"""Status of an answer that says which keeper this is."""


def read_secret(path: Path) -> bytes:
    """The file's content without space around it. Raises `Invalid`."""
    try:
        text = path.read_bytes().strip()
    except OSError as error:
        raise Invalid(f"cannot read the cluster's secret {path}: {error.strerror}") from error
    if path.stat().st_mode & 0o007:
        log.warning("the cluster's secret %s is no secret: everybody on this host can read it", path)
    if len(text) < _MIN_SECRET:
        raise Invalid(
            f"the cluster's secret in {path} is too short",
            hint=f"At least {_MIN_SECRET} characters, the same on all hosts: openssl rand -hex 32.",
        )
    return text


class OtherKeeper(SampanError):
    """A request was signed for another process than this keeper. `nonce`: the request's number."""

    def __init__(self, nonce: str) -> None:
        super().__init__("the request was signed for another keeper")
        self.nonce = nonce


class _Named(msgspec.Struct, frozen=True):
    keeper: str = ""


class SharedSecret(Token):
    """The client's side."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive(secret, "keeper")
        self._keeper = ""
        """The number of its process, as far as we know."""

    def sign(self, path: str, body: bytes) -> dict[str, str]:
        moment, nonce = str(int(time.time())), secrets.token_hex(16)
        return {
            _TIME: moment,
            _NONCE: nonce,
            _KEEPER: self._keeper,
            _SIGNATURE: _mac(self._key, "request", path, moment, nonce, self._keeper, body),
        }

    def renewed(self, headers: Mapping[str, str], answer: http.Answer) -> bool:
        if answer.status != OTHER_KEEPER:
            return False
        self.check(headers, answer)
        try:
            self._keeper = msgspec.json.decode(answer.body, type=_Named).keeper
        except msgspec.DecodeError as error:
            raise Unavailable("the keeper's answer makes no sense") from error
        return True

    def check(self, headers: Mapping[str, str], answer: http.Answer) -> None:
        wanted = _mac(self._key, "answer", headers[_NONCE], answer.body)
        if not _equal(wanted, answer.headers.get(_SIGNATURE, "")):
            raise Unavailable("the answer is not signed with the cluster's secret")

    def line(self, headers: Mapping[str, str], number: int, line: bytes) -> bytes:
        signature, _, text = line.partition(b" ")
        wanted = _mac(self._key, "line", headers[_NONCE], str(number), text)
        if not _equal(wanted, signature.decode("latin-1")):
            raise Unavailable("what is told is not signed with the cluster's secret")
        return text


class Checker:
    """The keeper's side."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive(secret, "keeper")
        self.name = secrets.token_hex(16)
        """Of this process: what was signed for the last one is nothing here, as nobody remembers what was seen."""
        self._seen: dict[str, float] = {}

    def check(self, path: str, headers: Mapping[str, str], body: bytes) -> str:
        """The request's number. Raises `Denied`, `OtherKeeper`."""
        moment, nonce, keeper = (headers.get(name, "") for name in (_TIME, _NONCE, _KEEPER))
        wanted = _mac(self._key, "request", path, moment, nonce, keeper, body)
        if not _equal(wanted, headers.get(_SIGNATURE, "")):
            raise Denied("the request is not signed with the cluster's secret")
        now = time.time()
        if abs(now - int(moment)) > SKEW_SECONDS:
            raise Denied("the clocks of the hosts are too far apart")
        if keeper != self.name:
            raise OtherKeeper(nonce)
        self._seen = (
            {one: seen for one, seen in self._seen.items() if now - seen < 2 * SKEW_SECONDS}
            if len(self._seen) % 1000 == 999
            else self._seen
        )
        if nonce in self._seen:
            raise Denied("the request was sent before")
        self._seen[nonce] = now
        return nonce

    def answer(self, nonce: str, body: bytes) -> tuple[str, str]:
        """The header field of an answer."""
        return _SIGNATURE, _mac(self._key, "answer", nonce, body)

    def line(self, nonce: str, number: int, text: bytes) -> bytes:
        return _mac(self._key, "line", nonce, str(number), text).encode() + b" " + text + b"\n"


def derive(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose."""
    return hmac.digest(secret, b"sampan " + purpose.encode(), "sha256")


def _equal(wanted: str, found: str) -> bool:
    """Also of what is no ASCII, which `compare_digest` does not take as text."""
    return hmac.compare_digest(wanted.encode(), found.encode("utf-8", "surrogatepass"))


def _mac(key: bytes, *parts: str | bytes) -> str:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("latin-1", "replace") if isinstance(part, str) else part
        mac.update(len(data).to_bytes(8, "big") + data)
    return mac.hexdigest()
