"""The awslogs driver over HTTP: moto, an implementation of CloudWatch Logs that is not ours, and an endpoint that holds
it to AWS's documented limits and checks its signatures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sampan.errors import Invalid
from sampan.logs import awslogs
from sampan.logs.awslogs.client import LogStreamClient
from sampan.logs.awslogs.events import Event
from sampan.logs.awslogs.outcome import Outcome
from sampan.logs.awslogs.settings import parse
from sampan.testing.cloudwatch import CloudWatchLogs, Refused
from sampan.testing.log_drivers import ID, entry, source

pytestmark = pytest.mark.root


def options(endpoint: str, **more: str) -> dict[str, str]:
    named = {f"awslogs-{name.replace('_', '-')}": value for name, value in more.items()}
    fixed = {"awslogs-group": "g", "awslogs-region": "eu-west-1", "awslogs-endpoint": endpoint}
    return {**fixed, "awslogs-force-flush-interval-seconds": "1", **named}


def now(line: bytes, **more: Any) -> Any:
    return entry(line, **{"time_ns": time.time_ns(), **more})


@pytest.fixture
def moto(aws_environment: None) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_moto_has_the_group_the_stream_and_the_events(moto: str) -> None:
    import botocore.session

    destination = awslogs.open(options(moto, create_group="true"), source())
    lines = [b"hello", b"a\xffb", "grüße".encode(), b"x" * 300_000, b"\0\x1b[31m", b""]
    destination.send([now(line, stream=number % 2 + 1) for number, line in enumerate(lines)])
    destination.close()
    assert (destination.losses.entries, destination.last_error) == (0, "")
    client = botocore.session.Session().create_client("logs", region_name="eu-west-1", endpoint_url=moto)
    answer = client.get_log_events(logGroupName="g", logStreamName=ID, startFromHead=True)
    got = [event["message"] for event in answer["events"]]
    assert got[:3] == ["hello", "a\ufffdb", "grüße"]
    assert "".join(got[3:5]) == "x" * 300_000 and len(got[3]) == 256 * 1024 - 26
    assert got[5:] == ["\0\x1b[31m"]
    client.close()


def test_without_the_group_the_stream_is_not_made_and_the_error_is_awss(cloud: CloudWatchLogs) -> None:
    with pytest.raises(OSError, match=r"failed to create Cloudwatch log stream: .*ResourceNotFoundException"):
        awslogs.open(options(cloud.url), source())
    cloud.groups.add("g")
    awslogs.open(options(cloud.url), source()).close()
    assert ("g", ID) in cloud.streams
    awslogs.open(options(cloud.url), source()).close()  # it is there already
    awslogs.open(options(cloud.url, stream="named"), source()).close()
    awslogs.open(options(cloud.url) | {"tag": "{{.Name}}"}, source(tag="web")).close()
    assert ("g", "named") in cloud.streams and ("g", "web") in cloud.streams


def test_requests_keep_to_the_limits_and_are_signed(cloud: CloudWatchLogs) -> None:
    cloud.groups.add("g")
    destination = awslogs.open(options(cloud.url, max_buffered_events="20000"), source())
    small = [now(b"%d" % number) for number in range(12_000)]
    large = [now("ü".encode() * 100_000) for _ in range(8)]
    destination.send(small + large)
    destination.close()
    assert (destination.losses.entries, destination.last_error) == (0, "")
    assert cloud.messages("g", ID)[:12_000] == [str(number) for number in range(12_000)]
    assert len(cloud.messages("g", ID)) == 12_008
    # Out of order, and as far apart as one batch must not be.
    destination = awslogs.open(
        options(cloud.url, stream="times", force_flush_interval_seconds="60"), source()
    )
    moment = time.time_ns()
    times = {b"late": 0, b"early": 10**9, b"yesterday": 24 * 3600 * 10**9}
    destination.send([entry(line, time_ns=moment - before) for line, before in times.items()])
    destination.close()
    assert cloud.messages("g", "times") == ["early", "late", "yesterday"]
    assert set(cloud.calls) == {"CreateLogStream", "PutLogEvents"}
    assert "sampan/" in cloud.headers[-1]["user-agent"]


def test_throttling_server_errors_and_a_removed_stream_lose_nothing(cloud: CloudWatchLogs) -> None:
    cloud.groups.add("g")
    destination = awslogs.open(options(cloud.url), source())
    cloud.fail_next = [
        Refused("ThrottlingException", "Rate exceeded"),
        Refused("ServiceUnavailableException", status=500),
        Refused("InternalFailure", status=503),
        Refused("ThrottlingException", "Rate exceeded"),
    ]
    destination.send([now(b"one"), now(b"two")])
    assert cloud.wait_for("g", ID, 2) == ["one", "two"]
    with cloud.changed:
        del cloud.streams["g", ID]
    destination.send([now(b"three")])
    assert cloud.wait_for("g", ID, 1) == ["three"]
    destination.close()
    assert destination.losses.entries == 0


def test_an_endpoint_that_is_not_there_fails_the_start(cloud: CloudWatchLogs) -> None:
    cloud.close()
    with pytest.raises(OSError, match="Could not connect to the endpoint URL"):
        awslogs.open(options(cloud.url), source())
    with pytest.raises(Invalid, match="Invalid endpoint"):
        awslogs.open(options("no address"), source())


def test_metrics_are_marked_and_credentials_come_from_the_endpoint_that_was_named(
    cloud: CloudWatchLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.groups.add("g")
    destination = awslogs.open(options(cloud.url, format="json/emf"), source())
    destination.send([now(b'{"_aws":{}}')])
    destination.close()
    assert cloud.headers[-1]["x-amzn-logs-format"] == "json/emf"

    from botocore.credentials import ContainerMetadataFetcher

    asked: list[str] = []

    def retrieve(self: object, url: str, *_: object, **__: object) -> dict[str, str]:
        asked.append(url)
        return {
            "AccessKeyId": "other",
            "SecretAccessKey": "s",
            "Token": "t",
            "Expiration": "2099-01-01T00:00:00Z",
        }

    monkeypatch.setattr(ContainerMetadataFetcher, "retrieve_full_uri", retrieve)
    with pytest.raises(OSError, match=r"UnrecognizedClientException.*Credential=other"):
        awslogs.open(options(cloud.url, credentials_endpoint="/v2/credentials/x"), source())
    assert asked == ["http://169.254.170.2/v2/credentials/x"]


GARBAGE = (
    b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": "x"}}',
    b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1.5, "tooNewLogEventStartIndex": [1]}}',
    b'{"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": -7, "tooNewLogEventStartIndex": 1e400}}',
    b'{"rejectedLogEventsInfo": [1]}',
    b'{"rejectedLogEventsInfo": "x"}',
    b'{"nextSequenceToken": {"a": 1}}',
    b'{"__type": {"a": 1}, "message": [1]}',
    *(b"[1]", b'"x"', b"null", b"not json", b"\xff\xfe", b"[" * 100_000),
)


@pytest.mark.parametrize("status", [200, 400])
def test_answers_that_are_garbage_are_an_outcome_and_not_the_writers_end(
    aws_environment: None, status: int
) -> None:
    class Handler(BaseHTTPRequestHandler):
        answer = b""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(self.answer)))
            self.end_headers()
            self.wfile.write(self.answer)

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            client = LogStreamClient(parse({**options(endpoint), "awslogs-create-stream": "false"}), "s")
            for Handler.answer in GARBAGE:
                for _ in range(2):  # what the first answer left counts in the second request
                    outcome, refused, _ = client.put([Event(1, "a", 1)])
                    assert outcome in Outcome
                    assert len(refused) <= 1
            client.close()
        finally:
            server.shutdown()
            thread.join()
