"""The fluentd driver against an implementation of the forward protocol that is not ours: @fluent-org/logger's server.

Neither fluentd nor fluent-bit is a package of Debian 12, PyPI or npm; this is the fluent organisation's own for Node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.logs import fluentd
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import ID, MOMENT, entry, source

pytestmark = pytest.mark.root

TAG = ID[:12]
SECONDS = MOMENT // 10**9


def record(log: str, **more: str) -> dict[str, str]:
    return {"container_id": ID, "container_name": "/web", "source": "stdout", "log": log, **more}


def test_the_server_understands_single_entries_batches_and_times(node_server: Any) -> None:
    server = node_server("fluent_server.js", "0")
    address = {"fluentd-address": f"127.0.0.1:{server.port}"}
    for acknowledged in ("false", "true"):
        options = address | {"fluentd-request-ack": acknowledged}
        destination = fluentd.open(options, source(attributes={"team": "a\nb"}))
        destination.send([entry(b"one")])
        destination.send([entry(b"two", stream=2), entry(b"three")])
        destination.close()
        got = [server.next() for _ in range(3)]
        assert got[0] == {"tag": TAG, "time": SECONDS, "record": record("one", team="a\nb")}
        assert got[1]["record"] == record("two", team="a\nb", source="stderr")
        assert got[2]["record"]["log"] == "three"
    destination = fluentd.open(address | {"fluentd-sub-second-precision": "true"}, source())
    destination.send([entry(b"exact")])
    destination.send([entry(b"exact"), entry(b"exact")])
    destination.close()
    for _ in range(3):
        assert server.next()["time"] == [SECONDS, MOMENT % 10**9]


def test_hostile_bytes_are_one_record_each(node_server: Any) -> None:
    server = node_server("fluent_server.js", "0")
    options = {"fluentd-address": f"127.0.0.1:{server.port}", "fluentd-request-ack": "true"}
    destination = fluentd.open(options, source())
    # What is no UTF-8 is up to each decoder; it stays one value of one record.
    lines = [b"\x94\xa1x\x01\x80", b"\xff\xfe", b"\0\x1b[31m", b"a\nb", b"x" * 70_000]
    destination.send([entry(line) for line in lines])
    destination.close()
    got = [server.next()["record"] for _ in lines]
    assert [each["container_id"] for each in got] == [ID] * len(lines)
    assert [each["log"] for each in got[2:]] == [line.decode() for line in lines[2:]]


def test_tls_and_unix_sockets(
    node_server: Any, certificate: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node_server("fluent_server.js", "0", *certificate)
    options = {"fluentd-address": f"tls://127.0.0.1:{server.port}", "fluentd-request-ack": "true"}
    with pytest.raises(OSError, match="certificate verify failed"):
        fluentd.open(options, source())
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    destination = fluentd.open(options, source())
    destination.send([entry(b"encrypted")])
    destination.close()
    assert server.next()["record"]["log"] == "encrypted"

    path = str(tmp_path / "fluent")
    server = node_server("fluent_server.js", path)
    destination = fluentd.open({"fluentd-address": f"unix://{path}", "fluentd-request-ack": "true"}, source())
    destination.send([entry(b"local")])
    destination.close()
    assert server.next()["record"]["log"] == "local"


def test_what_was_not_acknowledged_is_sent_to_the_server_that_came_back(node_server: Any) -> None:
    server = node_server("fluent_server.js", "0")
    options = {"fluentd-request-ack": "true", "fluentd-retry-wait": "1ms"}
    destination = fluentd.open(options | {"fluentd-address": f"127.0.0.1:{server.port}"}, source())
    destination.send([entry(b"before")])
    assert server.next()["record"]["log"] == "before"
    server.close()
    batch = [entry(b"%d" % number) for number in range(100)]
    with pytest.raises(Undelivered) as caught:
        destination.send(batch)
    assert caught.value.delivered == 0
    server = node_server("fluent_server.js", str(server.port))
    destination.send(batch)
    destination.close()
    assert [server.next()["record"]["log"] for _ in batch] == [str(number) for number in range(100)]
