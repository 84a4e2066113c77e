"""The distribution protocol's client (OCI distribution-spec): one registry, as one user.

Reading asks the mirrors first and the registry itself last; writing goes to the registry itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError

from sampan.errors import Denied, Internal, Invalid, NotFound, SampanError, Unauthorized, Unavailable
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import MAX_MANIFEST_SIZE, Descriptor
from sampan.oci.reference import Reference
from sampan.registry.answers import next_page, parse_tags, read_error, write_error
from sampan.registry.config import (
    Credentials,
    RegistryConfig,
    mirror_endpoints,
    origin_endpoints,
    registry_host,
)
from sampan.registry.failures import describe
from sampan.registry.transport import Cancel, Cancelled, Transport, pause
from sampan.registry.upload import BlobSource, BlobUpload

T = TypeVar("T")

CHUNK = 1 << 20
"""Bytes read from the network at a time."""
BLOB_ATTEMPTS = 6
"""Attempts without a single new byte after which a download is given up."""

MAX_TAG_PAGES = 1000

_ACCEPT = ", ".join(
    (media.OCI_INDEX, media.OCI_MANIFEST, media.DOCKER_LIST, media.DOCKER_MANIFEST, "*/*;q=0.1")
)


class BlobSink(Protocol):
    """Where a download goes. `offset`: bytes it has."""

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes, /) -> None: ...

    def restart(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """`raw` are the bytes that `descriptor.digest` names."""

    descriptor: Descriptor
    raw: bytes


def _never() -> bool:
    return False


class RegistryClient:
    """Thread-safe. `domain` is a reference's domain ("docker.io", "host:5000")."""

    def __init__(self, domain: str, config: RegistryConfig, credentials: Credentials | None = None) -> None:
        self.domain = domain
        self._config = config
        self._credentials = credentials or Credentials()
        self._all_mirrors = tuple(
            Transport(one, config, Credentials()) for one in mirror_endpoints(domain, config)
        )
        self._mirrors = list(self._all_mirrors)
        self._origin: Transport | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        for transport in (*self._all_mirrors, *((self._origin,) if self._origin else ())):
            transport.close()

    # Reading

    def resolve(self, reference: Reference, cancelled: Cancelled = _never) -> FetchedManifest:
        """The manifest or index that the reference names. Raises `NotFound`, `Denied`, `Unavailable`, ..."""
        wanted = reference.digest or reference.tag or "latest"
        return self.fetch_manifest(reference, wanted, cancelled)

    def fetch_manifest(
        self, reference: Reference, wanted: str, cancelled: Cancelled = _never
    ) -> FetchedManifest:
        """`wanted` is a tag or a digest; a digest is verified."""
        path = f"/v2/{reference.path}/manifests/{quote(wanted, safe=':')}"

        def fetch(transport: Transport) -> FetchedManifest:
            response = transport.open(
                "GET",
                path,
                headers={"Accept": _ACCEPT},
                scope=_pull_scope(reference),
                cancelled=cancelled,
            )
            try:
                raw = response.read(MAX_MANIFEST_SIZE + 1, decode_content=True)
            finally:
                response.release_conn()
            if response.status != 200:
                raise read_error(response.status, raw, f"manifest for {reference.familiar}", reference)
            if len(raw) > MAX_MANIFEST_SIZE:
                raise Invalid(f"manifest for {reference.familiar} is larger than {MAX_MANIFEST_SIZE} bytes")
            return _checked_manifest(wanted, raw, response.headers)

        return self._read(fetch)

    def fetch_blob(
        self, reference: Reference, descriptor: Descriptor, sink: BlobSink, cancelled: Cancelled = _never
    ) -> None:
        """Bring `sink` to the blob's whole size, from where it is; a broken connection is taken up again.

        The sink checks the bytes (digest, not more than the size). Raises `NotFound`, `Unavailable`, `Invalid`.
        """
        if sink.offset < descriptor.size:
            self._read(lambda transport: self._fetch_from(transport, reference, descriptor, sink, cancelled))

    def _fetch_from(
        self,
        transport: Transport,
        reference: Reference,
        descriptor: Descriptor,
        sink: BlobSink,
        cancelled: Cancelled,
    ) -> None:
        failures, reached = 0, sink.offset
        while sink.offset < descriptor.size:
            try:
                self._fetch_some(transport, reference, descriptor, sink, cancelled)
                reason = "the connection was closed too early"
            except (HTTPError, OSError) as error:
                reason = describe(error, transport.endpoint.host)
            if sink.offset >= descriptor.size:
                return
            # Only what had not been reached yet is progress: a server without ranges makes it begin anew each time.
            failures = 0 if sink.offset > reached else failures + 1
            reached = max(reached, sink.offset)
            if failures >= BLOB_ATTEMPTS:
                raise Unavailable(
                    f"download of {descriptor.digest} from {transport.endpoint.host} broke off at "
                    f"{sink.offset} of {descriptor.size} bytes: {reason}",
                    hint="what has arrived is kept; the next pull goes on from there",
                )
            pause(failures + 1, None, cancelled)

    def _fetch_some(
        self,
        transport: Transport,
        reference: Reference,
        descriptor: Descriptor,
        sink: BlobSink,
        cancelled: Cancelled,
    ) -> None:
        start = sink.offset
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = transport.open(
            "GET",
            f"/v2/{reference.path}/blobs/{descriptor.digest}",
            headers={**headers, "Accept-Encoding": "identity"},
            scope=_pull_scope(reference),
            cancelled=cancelled,
        )
        try:
            stated = _stated_size(response)
            if stated is not None and stated != descriptor.size:
                raise Invalid(
                    f"blob {descriptor.digest} has {stated} bytes at {transport.endpoint.host}, "
                    f"not {descriptor.size} as its descriptor says"
                )
            if response.status == 416 or (response.status == 206 and not _continues(response, start)):
                sink.restart()
                return
            if response.status not in (200, 206):
                raw = response.read(4096)
                raise read_error(response.status, raw, f"blob {descriptor.digest}", reference)
            if response.status == 200 and start:
                sink.restart()  # the server knows no ranges
            while chunk := response.read(CHUNK, decode_content=False):
                if cancelled():
                    raise Cancel("cancelled")
                sink.write(chunk)
        finally:
            # Not drained: what is left may be endless.
            response.close()

    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        response = self._writing().request(
            "HEAD", f"/v2/{reference.path}/blobs/{digest}", scope=_push_scope(reference)
        )
        if response.status in (401, 403):
            raise write_error(response.status, response.data, f"blob {digest}")
        return response.status == 200

    def tags(self, reference: Reference, cancelled: Cancelled = _never) -> tuple[str, ...]:
        """All tags of the repository, as the registry orders them. Raises `NotFound`, `Denied`, `Invalid`, ..."""
        return self._read(lambda transport: self._tags_at(transport, reference, cancelled))

    def _tags_at(self, transport: Transport, reference: Reference, cancelled: Cancelled) -> tuple[str, ...]:
        path = f"/v2/{reference.path}/tags/list"
        found: dict[str, None] = {}
        for _ in range(MAX_TAG_PAGES):
            answer = transport.request("GET", path, scope=_pull_scope(reference), cancelled=cancelled)
            if answer.status != 200:
                raise read_error(
                    answer.status, answer.data, f"repository {reference.familiar_name}", reference
                )
            found.update(dict.fromkeys(parse_tags(answer.data)))
            following = next_page(answer.headers.get("Link", ""), transport.url + path)
            if not following:
                return tuple(found)
            path = following
        raise Invalid(f"the list of tags of {reference.familiar_name} does not end")

    # Writing

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str = "",
        progress: Callable[[int], None] = lambda _sent: None,
        cancelled: Cancelled = _never,
    ) -> str:
        """Upload a blob (see `BlobUpload`); the repository it was mounted from, "" when it was sent.

        `mount_from`: path of a repository on this registry that may have it.
        """
        upload = BlobUpload(
            self._writing(), reference, descriptor, source, progress=progress, cancelled=cancelled
        )
        return upload.run(mount_from)

    def push_manifest(self, reference: Reference, wanted: str, media_type: str, raw: bytes) -> Digest:
        """`wanted` is a tag or the manifest's digest."""
        response = self._writing().request(
            "PUT",
            f"/v2/{reference.path}/manifests/{quote(wanted, safe=':')}",
            headers={"Content-Type": media_type},
            body=raw,
            scope=_push_scope(reference),
            redirect=False,
        )
        if response.status != 201:
            raise write_error(response.status, response.data, f"manifest for {reference.familiar}")
        return digest_of(raw)

    def check_credentials(self) -> str:
        """Whether the registry accepts the credentials; an identity token if it gives one, else "".

        Raises `Unauthorized`, `Unavailable`.
        """
        transport = self._writing()
        response = transport.request("GET", "/v2/", retry=False)
        if response.status != 200:
            raise Unauthorized(
                f"login attempt to {transport.url}/v2/ failed with status: {response.status} {response.reason}"
            )
        challenge = transport.challenge
        if challenge is not None and challenge.scheme == "bearer" and self._credentials:
            return transport.fetch_token(challenge, "", offline=True).refresh_token
        return ""

    # Endpoints

    def _read(self, attempt: Callable[[Transport], T]) -> T:
        for mirror in tuple(self._mirrors):
            try:
                return attempt(mirror)
            except Unavailable:
                self._drop(mirror)  # it has been tried often enough
            except (NotFound, Denied, Unauthorized, Invalid):
                continue  # whatever is wrong with a mirror, the registry itself decides
        return attempt(self._writing())

    def distrust_mirrors(self) -> bool:
        """Don't ask them any more: what came from one of them was wrong. False when there are none."""
        mirrors = tuple(self._mirrors)
        for mirror in mirrors:
            self._drop(mirror)
        return bool(mirrors)

    def _drop(self, mirror: Transport) -> None:
        with self._lock:
            if mirror in self._mirrors:
                self._mirrors.remove(mirror)

    def _writing(self) -> Transport:
        """The registry itself: the first of its endpoints that speaks the protocol."""
        with self._lock:
            if self._origin is None:
                self._origin = self._find_origin()
            return self._origin

    def _find_origin(self) -> Transport:
        failure: SampanError = Internal("no endpoint")
        directory = self._config.certs_dir / registry_host(self.domain)
        own_ca = directory.is_dir() and any(directory.glob("*.crt"))
        endpoints = origin_endpoints(self.domain, self._config, own_ca=own_ca)
        for endpoint in endpoints:
            transport = Transport(endpoint, self._config, self._credentials)
            if len(endpoints) == 1:
                return transport
            try:
                transport.ping()
                return transport
            except Unavailable as error:
                failure = error
                transport.close()
        raise failure


def _pull_scope(reference: Reference) -> str:
    return f"repository:{reference.path}:pull"


def _push_scope(reference: Reference) -> str:
    return f"repository:{reference.path}:pull,push"


def _stated_size(response: urllib3.BaseHTTPResponse) -> int | None:
    """The whole blob's size as an answer's fields tell it (RFC 9110, 8.6 and 14.4); None when they don't."""
    if response.status == 200 and "Content-Encoding" not in response.headers:
        text = response.headers.get("Content-Length", "")
    elif response.status in (206, 416):
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _continues(response: urllib3.BaseHTTPResponse, start: int) -> bool:
    """Whether a 206 answer really begins where it was asked to (RFC 9110, 14.4)."""
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _checked_manifest(wanted: str, raw: bytes, headers: Mapping[str, str]) -> FetchedManifest:
    digest = digest_of(raw)
    if ":" in wanted and digest != wanted:
        raise Invalid(f"manifest verification failed for digest {wanted}: its bytes have the digest {digest}")
    claimed = headers.get("Docker-Content-Digest", "")
    if ":" not in wanted and claimed.startswith("sha256:") and claimed != digest:
        raise Invalid(f"the registry says the manifest is {claimed}, but its bytes have the digest {digest}")
    media_type = headers.get("Content-Type", "").partition(";")[0].strip()
    return FetchedManifest(Descriptor(media_type, digest, len(raw)), raw)
