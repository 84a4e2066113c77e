"""One blob to a registry: distribution-spec, "Pushing blobs".

A small blob goes in one POST and one PUT. A larger one goes in chunks (POST, PATCH ..., PUT); when a connection
breaks, the registry is asked how much it has, and the upload goes on from there. A registry that has lost the
upload gets a new one. What a chunk may be is found out: the registry's OCI-Chunk-Min-Length is kept, and after a
failure or a 413 (proxies have limits) the chunks get smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from sampan.errors import Invalid, SampanError, Unavailable
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference
from sampan.registry.answers import received, upload_location, write_error
from sampan.registry.transport import Answer, Cancel, Cancelled, Transport, pause

CHUNK = 32 << 20
"""Bytes of one PATCH, as long as nothing speaks against it."""
SMALLEST_CHUNK = 256 << 10
MONOLITHIC = 4 << 20
"""Bytes up to which a blob is sent with the closing PUT itself."""
ATTEMPTS = 8
"""Failures in a row, without a new byte at the registry, after which an upload is given up."""
SESSIONS = 5
"""Times that an upload is begun, at most."""
FINISH_SECONDS = 600.0
"""How long the registry may take over a whole blob: some hash or copy it before they answer."""

_NO_CHUNKS = frozenset({400, 405, 411, 415, 416, 501})
"""What registries that take no chunks answer to the first one."""
_LOST = frozenset({400, 404, 410, 416})


class BlobSource(Protocol):
    """The bytes of a blob."""

    def read(self, offset: int, length: int, /) -> Iterable[bytes]:
        """A new reading of `length` bytes from `offset`, in pieces of at most some ten KiB: a slow connection
        has the transport's timeout for each of them."""
        ...


class _Broken(Exception):
    """The registry's answer is missing, or says that another attempt may succeed."""

    def __init__(self, error: SampanError, retry_after: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class _Lost(Exception):
    """The upload is no longer known."""

    def __init__(self, error: SampanError) -> None:
        super().__init__(str(error))
        self.error = error


class BlobUpload:
    """Used once. `progress` gets the bytes of the blob that were sent; it falls back when some must be sent again."""

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: Callable[[int], None] = lambda _sent: None,
        cancelled: Cancelled = lambda: False,
    ) -> None:
        self._transport = transport
        self._reference = reference
        self._descriptor = descriptor
        self._source = source
        self._progress = progress
        self._cancelled = cancelled
        self._location = ""
        self._offset = 0
        self._unsure = False
        self._whole = descriptor.size <= MONOLITHIC
        self._chunk = CHUNK
        self._minimum = 0
        self._most = 0
        self._failures = 0
        self._sessions = 0

    def run(self, mount_from: str = "") -> str:
        """Upload the blob, or mount it from the repository `mount_from`, which is returned when that was possible.

        Raises `Denied`, `Unauthorized`, `Unavailable`, `Invalid`, `Cancel`.
        """
        if mount_from and self._begin(mount_from):
            return mount_from
        while True:
            try:
                if self._unsure:
                    self._ask()
                if not self._location:
                    self._begin()
                self._send()
                return ""
            except _Broken as broken:
                self._count(broken)
            except _Lost as lost:
                self._location, self._unsure = "", False
                if self._present():
                    return ""  # the closing PUT got through, its answer did not
                if self._sessions >= SESSIONS:
                    raise lost.error from None
                # Some registries take a first chunk and no second one.
                self._whole = self._whole or self._sessions >= SESSIONS - 2

    # The steps

    def _begin(self, mount_from: str = "") -> bool:
        """Start an upload; True when the blob was mounted instead."""
        query = urlencode({"mount": self._descriptor.digest, "from": mount_from}) if mount_from else ""
        self._sessions += 1
        answer = self._transport.request(
            "POST",
            f"/v2/{self._reference.path}/blobs/uploads/" + (f"?{query}" if query else ""),
            headers={"Content-Length": "0"},
            scope=self._scope + (f" repository:{mount_from}:pull" if mount_from else ""),
            redirect=False,
            cancelled=self._cancelled,
        )
        if answer.status == 201:
            return True
        if answer.status != 202:
            raise write_error(answer.status, answer.data, "upload")
        self._take_location(answer)
        self._offset = 0
        minimum = answer.headers.get("OCI-Chunk-Min-Length", "").strip()
        self._minimum = int(minimum) if minimum.isdecimal() and len(minimum) < 19 else 0
        return False

    def _send(self) -> None:
        size = self._descriptor.size
        while not self._whole and self._offset < size:
            self._send_chunk(min(max(self._chunk, self._minimum), size - self._offset))
        self._finish()

    def _send_chunk(self, length: int) -> None:
        start = self._offset
        answer = self._request(
            "PATCH",
            self._location,
            {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(length),
                "Content-Range": f"{start}-{start + length - 1}",
            },
            lambda: self._pieces(start, length),
        )
        if answer.status != 202:
            self._refused(answer, chunk=True)
            return
        self._take_location(answer)
        self._has(received(answer.headers.get("Range", ""), start + length, self._descriptor.size))
        if self._offset <= start:
            raise _Broken(Unavailable(f"upload of {self._descriptor.digest}: the registry took nothing"))

    def _finish(self) -> None:
        """The closing PUT, with the whole blob when no chunk was sent."""
        parts = urlsplit(self._location)
        query = "&".join(one for one in (parts.query, urlencode({"digest": self._descriptor.digest})) if one)
        size = self._descriptor.size if self._whole else 0
        answer = self._request(
            "PUT",
            urlunsplit(parts._replace(query=query)),
            {"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            (lambda: self._pieces(0, size)) if size else None,
        )
        if answer.status != 201:
            self._refused(answer, chunk=False)

    def _ask(self) -> None:
        """How much the registry has ("GET an upload's status"): go on from there."""
        self._unsure = False
        if self._whole:
            raise _Lost(Unavailable(f"upload of {self._descriptor.digest} broke off"))
        try:
            answer = self._request("GET", self._location, {}, None)
        except _Broken:
            self._unsure = True
            raise
        if answer.status not in (200, 202, 204):
            self._unsure = True
            self._refused(answer, chunk=False)
        if "Location" in answer.headers:
            self._take_location(answer)
        header = answer.headers.get("Range", "")
        self._has(received(header, self._offset, self._descriptor.size) if header else None)

    def _refused(self, answer: Answer, *, chunk: bool) -> None:
        """Decide what follows from an answer that is no success: another way, another try, or the end."""
        error = write_error(answer.status, answer.data, f"upload of {self._descriptor.digest}")
        status = answer.status
        if status == 413 and self._smaller() is not None:
            self._whole = False
            raise _Broken(error)
        if chunk and status in _NO_CHUNKS and self._offset == 0:
            self._whole = True
            raise _Lost(error)
        if chunk and status == 416 and not self._failures:
            raise _Broken(error)  # the registry has more or less than we think: it is asked
        if status in _LOST:
            raise _Lost(error)
        if status >= 500 or status in (408, 429):
            raise _Broken(error, answer.headers.get("Retry-After"))
        raise error

    # Parts of them

    @property
    def _scope(self) -> str:
        return f"repository:{self._reference.path}:pull,push"

    def _request(
        self, method: str, url: str, headers: dict[str, str], body: Callable[[], Iterable[bytes]] | None
    ) -> Answer:
        if self._cancelled():
            raise Cancel("cancelled")
        try:
            return self._transport.request(
                method,
                url,
                headers=headers,
                body=body,
                scope=self._scope,
                redirect=False,
                retry=False,
                read_seconds=FINISH_SECONDS if method == "PUT" else None,
            )
        except Unavailable as error:
            raise _Broken(error) from error

    def _pieces(self, offset: int, length: int) -> Iterable[bytes]:
        self._progress(offset)
        for piece in self._source.read(offset, length):
            if self._cancelled():
                raise Cancel("cancelled")
            yield piece
            offset += len(piece)
            self._progress(offset)

    def _has(self, offset: int | None) -> None:
        if offset is None:
            raise _Lost(Invalid(f"upload of {self._descriptor.digest}: the registry's Range makes no sense"))
        self._offset = offset
        self._progress(offset)
        if offset > self._most:
            self._most, self._failures = offset, 0

    def _count(self, broken: _Broken) -> None:
        """One failure more: wait, or give up."""
        self._failures += 1
        self._unsure = bool(self._location)
        if self._failures >= ATTEMPTS:
            raise broken.error from broken
        self._chunk = self._smaller() or self._chunk
        pause(self._failures, broken.retry_after, self._cancelled)

    def _smaller(self) -> int | None:
        """The next smaller size of a chunk; None when there is none that helps."""
        smaller = max(self._chunk // 4, SMALLEST_CHUNK, self._minimum)
        return smaller if smaller < min(self._chunk, self._descriptor.size) else None

    def _present(self) -> bool:
        answer = self._transport.request(
            "HEAD",
            f"/v2/{self._reference.path}/blobs/{self._descriptor.digest}",
            scope=self._scope,
            cancelled=self._cancelled,
        )
        if answer.status in (401, 403):
            raise write_error(answer.status, answer.data, "upload")
        return answer.status == 200

    def _take_location(self, answer: Answer) -> None:
        location = answer.headers.get("Location", "")
        if not location:
            raise Invalid(f"the registry {self._transport.endpoint.host} gave no location for the upload")
        self._location = upload_location(self._transport.url + "/", location)
