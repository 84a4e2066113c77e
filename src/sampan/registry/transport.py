"""HTTP to one endpoint: TLS, authentication, redirects, retries. Blocking; used from many threads at once."""

from __future__ import annotations

import email.utils
import functools
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from sampan.errors import Conflict, Denied, Invalid, Unauthorized, Unavailable
from sampan.registry.answers import absolute
from sampan.registry.auth import (
    Challenge,
    TokenAnswer,
    basic_header,
    parse_challenge,
    parse_token,
    realm_belongs,
)
from sampan.registry.config import Credentials, Endpoint, RegistryConfig
from sampan.registry.failures import describe, failed_to_connect, is_final
from sampan.registry.pools import Pools

CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0
MAX_REDIRECTS = 5
ATTEMPTS = 5
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 20.0
_MAX_ANSWER = 1 << 20
_RETRIED = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Headers = Mapping[str, str]
Body = bytes | Callable[[], Iterable[bytes]] | None
"""Bytes, or what begins a new reading of them each time it is called (a request may be sent twice)."""
Cancelled = Callable[[], bool]


# Whoever configures a registry as insecure knows it; a warning at every request helps nobody.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


class Cancel(Conflict):
    """The one who asked has left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body was small and has been read."""

    status: int
    reason: str
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: dict[str, str]
    body: Body
    redirect: bool
    read_seconds: float | None = None
    """How long the answer may take; None is the usual time."""


class Transport:
    """Requests to one endpoint with one set of credentials."""

    def __init__(self, endpoint: Endpoint, config: RegistryConfig, credentials: Credentials) -> None:
        self.endpoint = endpoint
        # A mirror is somebody else: it never sees the registry's credentials.
        self._credentials = Credentials() if endpoint.mirror else credentials
        self._config = config
        self._pools = Pools(
            config.proxies,
            num_pools=8,
            maxsize=8,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            ssl_context=_tls(endpoint, config),
            headers={"User-Agent": config.user_agent},
        )
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def challenge(self) -> Challenge | None:
        """How the registry wants to be logged in to; None as long as it has not asked."""
        return self._challenge

    def close(self) -> None:
        self._pools.close()

    def ping(self) -> None:
        """Whether anything answers here at all, asked without logging in. Raises `Unavailable`."""
        url = self.endpoint.url + "/v2/"
        try:
            self._follow(_Request("GET", url, {}, None, redirect=False), None).close()
        except HTTPError as error:
            raise self._unavailable("GET", url, error) from error

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Headers | None = None,
        body: Body = None,
        scope: str = "",
        redirect: bool = True,
        retry: bool = True,
        cancelled: Cancelled = lambda: False,
        read_seconds: float | None = None,
    ) -> Answer:
        """`open`, with the answer's body read; `Invalid` when that is larger than any answer has to be."""
        response = self.open(
            method,
            path,
            headers=headers,
            body=body,
            scope=scope,
            redirect=redirect,
            retry=retry,
            cancelled=cancelled,
            read_seconds=read_seconds,
        )
        return _whole(response, redacted(path))

    def open(
        self,
        method: str,
        path: str,
        *,
        headers: Headers | None = None,
        body: Body = None,
        scope: str = "",
        redirect: bool = True,
        retry: bool = True,
        cancelled: Cancelled = lambda: False,
        read_seconds: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """One request, authenticated when the registry asks for it; redirects are followed when `redirect`.

        `path` (from /v2) is below the endpoint's URL, or a whole URL that the registry gave (an upload's location).
        The caller reads and closes the response. `retry` False: one attempt only. Raises `Unavailable` when the
        endpoint can't be reached or keeps failing, `Unauthorized`, `Denied` (an unsafe redirect).
        """
        url = path if "://" in path else self.endpoint.url + path
        attempts = ATTEMPTS if retry else 1
        for attempt in range(1, attempts + 1):
            if cancelled():
                raise Cancel("cancelled")
            try:
                response = self._authenticated(
                    _Request(method, url, dict(headers or {}), body, redirect, read_seconds), scope
                )
            except HTTPError as error:
                if attempt == attempts or is_final(error):
                    raise self._unavailable(method, url, error) from error
                pause(attempt, None, cancelled)
                continue
            if response.status in _RETRIED and attempt < attempts:
                after = response.headers.get("Retry-After")
                response.close()
                pause(attempt, after, cancelled)
                continue
            return response
        raise Unavailable(f"{redacted(url)} keeps failing")

    def _unavailable(self, method: str, url: str, error: HTTPError) -> Unavailable:
        """Docker asks for /v2/ first, so that is what it names when it can't connect."""
        if failed_to_connect(error) and url.startswith(self.endpoint.url + "/"):
            method, url = "GET", self.endpoint.url + "/v2/"
        return Unavailable(f'{method.title()} "{redacted(url)}": {describe(error, _netloc(url))}')

    def _authenticated(self, request: _Request, scope: str) -> urllib3.BaseHTTPResponse:
        authorization = self._authorization(scope)
        response = self._follow(request, authorization)
        if response.status != 401:
            return response
        challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
        response.close()
        if challenge is None:
            raise Unauthorized(
                f"{redacted(request.url)}: unauthorized, and the registry does not say how to log in"
            )
        with self._lock:
            self._challenge = challenge
            self._tokens.pop(scope, None)
        if challenge.scheme == "basic":
            if not self._credentials.username:
                where = f'Get "{redacted(request.url)}": ' if request.method == "GET" else ""
                raise Unauthorized(f"{where}no basic auth credentials", hint="log in with `sampan login`")
            if authorization is not None:
                raise Unauthorized("unauthorized: incorrect username or password")
        retried = self._authorization(scope or challenge.scope)
        return self._follow(request, retried)

    def _follow(self, request: _Request, authorization: str | None) -> urllib3.BaseHTTPResponse:
        origin = urlsplit(self.endpoint.url)
        url = request.url
        for _ in range(MAX_REDIRECTS):
            parts = urlsplit(url)
            own = (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc)
            headers = request.headers
            if authorization and own:
                headers = {**headers, "Authorization": authorization}
            body = request.body() if callable(request.body) else request.body
            response = self._pools.of(url).request(
                request.method,
                url,
                headers=headers,
                body=body,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=request.read_seconds or READ_SECONDS),
            )
            location = response.headers.get("Location")
            if not request.redirect or response.status not in _REDIRECTS or not location:
                return response
            response.close()
            target = absolute(url, location)
            if parts.scheme == "https" and urlsplit(target).scheme == "http":
                raise Denied(
                    f"the registry redirects from {redacted(url)} to {redacted(target)}, which is not safe"
                )
            url = target
        raise Invalid(f"{redacted(url)}: too many redirects")

    # Tokens

    def _authorization(self, scope: str, asked: str = "") -> str | None:
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return basic_header(self._credentials) if self._credentials.username else None
        wanted = scope or asked
        with self._lock:
            token, until = self._tokens.get(wanted, ("", 0.0))
        if token and time.monotonic() < until:
            return f"Bearer {token}"
        answer = self.fetch_token(challenge, wanted)
        token = answer.token or answer.access_token
        with self._lock:
            # A token is used for a little less than it lives.
            self._tokens[wanted] = (token, time.monotonic() + max(answer.expires_in, 60) * 0.9)
        return f"Bearer {token}"

    def fetch_token(self, challenge: Challenge, scope: str, *, offline: bool = False) -> TokenAnswer:
        """Ask the token service; with credentials only where `realm_belongs`. Raises `Unauthorized`."""
        absolute(challenge.realm, "")
        trusted = realm_belongs(challenge.realm, self.endpoint.url)
        if not trusted and urlsplit(challenge.realm).scheme != "https":
            raise Denied(
                f"the token service {redacted(challenge.realm)} does not belong to {self.endpoint.host} "
                "and is not reached over HTTPS"
            )
        credentials = self._credentials if trusted else Credentials()
        fields = {"service": challenge.service, "scope": scope}
        if offline:
            fields.update({"offline_token": "true", "client_id": "sampan"})
        fields = {name: value for name, value in fields.items() if value}
        response = self._ask_for_token(challenge.realm, fields, credentials)
        if response.status != 200:
            if not trusted and self._credentials:
                raise Unauthorized(
                    f"the token service {redacted(challenge.realm)} does not belong to {self.endpoint.host}",
                    hint="your credentials were not sent there",
                )
            if response.status in (401, 403):
                raise Unauthorized("unauthorized: incorrect username or password")
            raise Unavailable(f"token service {redacted(challenge.realm)}: HTTP status {response.status}")
        return parse_token(response.data)

    def _ask_for_token(self, realm: str, fields: dict[str, str], credentials: Credentials) -> Answer:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if credentials.identity_token:
                    response = self._post_token(realm, fields, credentials.identity_token)
                else:
                    response = self._get_token(realm, fields, credentials)
            except HTTPError as error:
                if attempt == ATTEMPTS or is_final(error):
                    words = describe(error, _netloc(realm))
                    raise Unavailable(f'Get "{redacted(realm)}": {words}') from error
                pause(attempt, None, lambda: False)
                continue
            if response.status in _RETRIED and attempt < ATTEMPTS:
                pause(attempt, response.headers.get("Retry-After"), lambda: False)
                continue
            return response
        raise Unavailable(f"token service {redacted(realm)} keeps failing")

    def _get_token(self, realm: str, fields: dict[str, str], credentials: Credentials) -> Answer:
        headers = {}
        if credentials.username:
            headers["Authorization"] = basic_header(credentials)
            fields = {**fields, "account": credentials.username}
        separator = "&" if "?" in realm else "?"
        plain = [(name, value) for name, value in fields.items() if name != "scope"]
        scopes = [("scope", one) for one in fields.get("scope", "").split()]
        url = realm + separator + urlencode([*plain, *scopes])
        response = self._pools.of(url).request(
            "GET", url, headers=headers, redirect=False, preload_content=False
        )
        return _whole(response, redacted(realm))

    def _post_token(self, realm: str, fields: dict[str, str], identity: str) -> Answer:
        form = {**fields, "grant_type": "refresh_token", "refresh_token": identity, "client_id": "sampan"}
        response = self._pools.of(realm).request(
            "POST",
            realm,
            body=urlencode(form),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            redirect=False,
            preload_content=False,
        )
        return _whole(response, redacted(realm))


def _whole(response: urllib3.BaseHTTPResponse, what: str) -> Answer:
    data = response.read(_MAX_ANSWER + 1)
    if len(data) > _MAX_ANSWER:
        response.close()
        raise Invalid(f"{what}: the answer is larger than {_MAX_ANSWER} bytes")
    response.release_conn()
    return Answer(response.status, response.reason or "", response.headers, data)


def pause(attempt: int, retry_after: str | None, cancelled: Cancelled) -> None:
    """Wait before the next attempt: what the server asks for, else 0.2 s doubling with jitter, at most 20 s."""
    asked = _seconds(retry_after)
    wait = min(asked if asked is not None else _FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
    if asked is None:
        wait *= random.uniform(0.5, 1.5)
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        if cancelled():
            raise Cancel("cancelled")
        threading.Event().wait(min(left, 0.2))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3): seconds or a date."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _netloc(url: str) -> str:
    """Host and port: the scheme's usual one where the URL has none."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    has_port = host.rpartition(":")[2].isdecimal() and not host.endswith("]")
    return host if has_port else f"{host}:{443 if parts.scheme == 'https' else 80}"


def redacted(url: str) -> str:
    """Without what may be a secret: user information and query (signed locations)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _tls(endpoint: Endpoint, config: RegistryConfig) -> ssl.SSLContext:
    if not endpoint.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return _with_files(context, config.certs_dir / endpoint.host)
    directory = config.certs_dir / endpoint.host
    if not directory.is_dir():
        return _system_context()
    return _with_files(ssl.create_default_context(), directory)


@functools.cache
def _system_context() -> ssl.SSLContext:
    """The host's CAs (or those of SSL_CERT_FILE), read once: that takes longer than a handshake."""
    return ssl.create_default_context()


def _with_files(context: ssl.SSLContext, directory: Path) -> ssl.SSLContext:
    """Docker's certs.d: *.crt are CAs, *.cert with *.key of the same name a client's certificate."""
    if not directory.is_dir():
        return context
    for file in sorted(directory.iterdir()):
        try:
            if file.suffix == ".crt":
                context.load_verify_locations(file)
            elif file.suffix == ".cert":
                context.load_cert_chain(file, file.with_suffix(".key"))
        except (OSError, ssl.SSLError) as error:
            raise Invalid(f"{file} can't be used as a certificate: {error}") from error
    return context
