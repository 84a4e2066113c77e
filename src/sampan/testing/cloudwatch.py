"""A small CloudWatch Logs: AWS's JSON 1.1 protocol over HTTP, its documented limits and Signature Version 4 checked.

https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

_TARGET = "Logs_20140328."
_DAY = 24 * 3600 * 1000
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/logs/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


class Refused(Exception):
    """An error answer: AWS's name of it, and HTTP's status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class CloudWatchLogs:
    """`streams` holds what was taken, by (group, stream). `fail_next` has answers for the next PutLogEvents."""

    def __init__(self) -> None:
        self.groups: set[str] = set()
        self.streams: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.calls: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.fail_next: list[Refused] = []
        self.changed = threading.Condition()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: the test says what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def messages(self, group: str, stream: str) -> list[str]:
        with self.changed:
            return [event["message"] for event in self.streams.get((group, stream), [])]

    def wait_for(self, group: str, stream: str, count: int, timeout: float = 30) -> list[str]:
        """The messages, as soon as there are `count`."""
        with self.changed:
            enough = self.changed.wait_for(
                lambda: len(self.streams.get((group, stream), [])) >= count, timeout
            )
            assert enough, (self.calls, self.streams.keys())
        return self.messages(group, stream)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        status, answer = 200, {}
        with self.changed:
            try:
                check_signature(request, body)
                target = request.headers["X-Amz-Target"]
                if not target.startswith(_TARGET):
                    raise Refused("UnknownOperationException", target)
                self.calls.append(target.removeprefix(_TARGET))
                self.headers.append({name.lower(): value for name, value in request.headers.items()})
                # The service replaces what is no UTF-8; AWS's SDK for Go sends such bytes as they are.
                answer = self._perform(self.calls[-1], json.loads(body.decode("utf-8", "replace")))
            except Refused as error:
                status, answer = error.status, {"__type": error.code, "message": str(error)}
            self.changed.notify_all()
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/x-amz-json-1.1")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _perform(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        group, stream = body["logGroupName"], body.get("logStreamName", "")
        if operation == "CreateLogGroup":
            if group in self.groups:
                raise Refused("ResourceAlreadyExistsException")
            self.groups.add(group)
        elif operation == "CreateLogStream":
            if group not in self.groups:
                raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
            if (group, stream) in self.streams:
                raise Refused("ResourceAlreadyExistsException")
            self.streams[group, stream] = []
        elif operation == "PutLogEvents":
            if self.fail_next:
                raise self.fail_next.pop(0)
            if (group, stream) not in self.streams:
                raise Refused("ResourceNotFoundException", "The specified log stream does not exist.")
            check_batch(body["logEvents"])
            self.streams[group, stream] += body["logEvents"]
        else:
            raise Refused("UnknownOperationException", operation)
        return {}


def check_batch(events: list[dict[str, Any]]) -> None:
    """The documented limits of one request. Raises `Refused`."""
    times = [event["timestamp"] for event in events]
    sizes = [len(event["message"].encode()) + 26 for event in events]
    now = time.time() * 1000
    wrong = {
        "no events, or more than 10,000": not 1 <= len(events) <= 10_000,
        "more than 1,048,576 bytes": sum(sizes) > 1_048_576,
        "an event of more than 256 KB": max(sizes, default=0) > 256 * 1024,
        "an empty message": min(sizes, default=0) <= 26,
        "not in chronological order": times != sorted(times),
        "more than 24 hours": bool(times) and times[-1] - times[0] > _DAY,
        "more than two hours in the future": bool(times) and times[-1] > now + _DAY / 12,
    }
    reasons = [reason for reason, holds in wrong.items() if holds]
    if reasons:
        raise Refused("InvalidParameterException", "; ".join(reasons))


def check_signature(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. Raises `Refused`."""
    match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    if not match or match[1] != ACCESS_KEY:
        raise Refused("UnrecognizedClientException", request.headers.get("Authorization", "no signature"))
    _, day, region, names, signature = match.groups()
    if not {"host", "x-amz-date", "x-amz-target"} <= set(names.split(";")):
        raise Refused("IncompleteSignatureException", names)
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names.split(";"))
    canonical = f"POST\n/\n\n{headers}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{region}/logs/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.headers['X-Amz-Date']}\n{scope}\n{digest}"
    key = b"AWS4" + SECRET_KEY.encode()
    for part in (day, region, "logs", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
        raise Refused("InvalidSignatureException", text, 403)
