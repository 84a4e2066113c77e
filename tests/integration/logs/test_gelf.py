"""The GELF driver against decoders that are not ours: npm's graygelf for UDP, rsyslogd for NUL-terminated JSON on TCP.

Graylog itself is no package of Debian 12, PyPI or npm.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from sampan.logs import gelf
from sampan.testing.log_drivers import ID, entry, source

pytestmark = pytest.mark.root


def test_the_decoder_understands_every_compression_and_chunks(node_server: Any) -> None:
    server = node_server("gelf_server.js", "0")
    for compression in ("gzip", "zlib", "none"):
        options = {
            "gelf-address": f"udp://127.0.0.1:{server.port}",
            "gelf-compression-type": compression,
        }
        destination = gelf.open(options, source(attributes={"lab.el": "v1"}))
        destination.send([entry(b"hello", stream=2)])
        got = server.next()
        assert got == {
            "version": "1.1",
            "host": "vm",
            "short_message": "hello",
            "timestamp": 1795566243.701,
            "level": 3,
            "_command": "/bin/sh -c true",
            "_container_id": ID,
            "_container_name": "web",
            "_created": "2026-11-25T00:24:03.518629449Z",
            "_image_id": "sha256:" + "6f" * 32,
            "_image_name": "bb",
            "_lab.el": "v1",
            "_tag": ID[:12],
        }
        incompressible = os.urandom(20_000).hex().encode()  # more than one datagram, however compressed
        destination.send([entry(incompressible)])
        assert server.next()["short_message"] == incompressible.decode()
        destination.close()
        assert destination.losses.entries == 0


def test_hostile_bytes_are_one_message_each(node_server: Any) -> None:
    server = node_server("gelf_server.js", "0")
    destination = gelf.open({"gelf-address": f"udp://127.0.0.1:{server.port}"}, source())
    lines = [b'"},{"version":"1.1', b"\0\x1b[31m\xff\xfe", b"a\nb", b"\x1e\x0f\x1f\x8b"]
    for line in lines:
        destination.send([entry(line)])
        got = server.next()
        assert (got["short_message"], got["_container_id"]) == (line.decode("utf-8", "replace"), ID)
    destination.close()


def test_rsyslogd_takes_the_messages_of_a_tcp_connection_apart(rsyslog: Any) -> None:
    destination = gelf.open({"gelf-address": f"tcp://127.0.0.1:{rsyslog.gelf}"}, source())
    # rsyslogd's strings end at a NUL; that one arrives as JSON's escape is seen by the unit tests.
    lines = [b"hello", b"a\tb\x1b[31m", b'"},{"version":"1.1', b"x" * 30_000]
    destination.send([entry(line, stream=2) for line in lines])
    destination.close()
    for line in lines:
        version, level, name, text = rsyslog.next().split("|", 3)
        assert (version, level, name) == ("1.1", "3", "web")
        assert json.loads(f'"{text}"') == line.decode()
