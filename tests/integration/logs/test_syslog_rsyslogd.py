"""The syslog driver against a real rsyslogd: every transport and format, restarts, floods and hostile bytes."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

import pytest

from sampan.logs import syslog
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import entry, source

pytestmark = pytest.mark.root

TAG = "9d0b46eac513"


def test_rsyslogd_understands_every_transport_and_format(rsyslog: Any, certificate: tuple[str, str]) -> None:
    addresses = {
        "udp": {"syslog-address": f"udp://127.0.0.1:{rsyslog.udp}"},
        "tcp": {"syslog-address": f"tcp://127.0.0.1:{rsyslog.tcp}"},
        "tls": {
            "syslog-address": f"tcp+tls://127.0.0.1:{rsyslog.tls}",
            "syslog-tls-ca-cert": certificate[0],
        },
        "unix": {"syslog-address": f"unixgram://{rsyslog.unix}5424"},
    }
    pid = os.getpid()
    for transport, address in addresses.items():
        for format in ("rfc3164", "rfc5424", "rfc5424micro"):
            options = address | {"syslog-format": format, "syslog-facility": "local0"}
            destination = syslog.open(options, source(host="host1"))
            text = f"{transport} {format}!"
            destination.send([entry(text.encode()), entry(b"bad", stream=2)])
            destination.close()
            out, err = rsyslog.next().split("|"), rsyslog.next().split("|")
            assert [out[0], err[0]] == ["134", "131"], text  # local0.info, local0.err
            assert out[6].strip() == text and err[6].strip() == "bad"
            assert out[2:5] == ["host1", TAG, str(pid)], text
            if format.startswith("rfc5424"):
                assert out[5] == TAG
                # What comes through a Unix socket it gives the time of its arrival.
                assert transport == "unix" or ("." in out[1]) == (format == "rfc5424micro"), out[1]
    destination = syslog.open({"syslog-address": f"unixgram://{rsyslog.unix}"}, source())
    destination.send([entry(b"local")])
    destination.close()
    assert rsyslog.next().split("|")[3:] == [TAG, str(pid), "-", " local"]


def test_no_line_and_no_tag_makes_a_record_of_its_own(rsyslog: Any, certificate: tuple[str, str]) -> None:
    hostile = [b"\0\x01\x1b[31m\xff\xfe", b"a\n<0>1 - forged forged - - - x", b"\r\r12 <0>forged", b"%s" * 50]
    for address in (
        f"udp://127.0.0.1:{rsyslog.udp}",
        f"tcp://127.0.0.1:{rsyslog.tcp}",
        f"tcp+tls://127.0.0.1:{rsyslog.tls}",
        f"unixgram://{rsyslog.unix}5424",
    ):
        options = {
            "syslog-address": address,
            "syslog-format": "rfc5424",
            "syslog-tls-ca-cert": certificate[0],
        }
        destination = syslog.open(options, source(tag="t\n<0>1 forged"))
        destination.send([entry(line) for line in hostile])
        destination.send([entry(b"the end")])
        destination.close()
        records = [rsyslog.next() for _ in range(len(hostile) + 1)]
        assert records[-1].endswith("the end"), address
        assert all(record.startswith("30|") for record in records), records


def test_a_server_that_was_restarted_gets_every_line_once_and_in_order(rsyslog: Any) -> None:
    options = {"syslog-address": f"tcp://127.0.0.1:{rsyslog.tcp}", "syslog-format": "rfc5424"}
    destination = syslog.open(options, source())
    destination.send([entry(b"before %d" % number) for number in range(100)])
    assert [rsyslog.next().split("|")[6].strip() for _ in range(100)][-1] == "before 99"
    rsyslog.stop()
    after = [entry(b"after %d" % number) for number in range(100)]
    with pytest.raises(Undelivered, match="refused") as caught:
        destination.send(after)
    assert caught.value.delivered == 0
    rsyslog.start()
    destination.send(after)
    destination.close()
    got = [rsyslog.next().split("|")[6].strip() for _ in range(100)]
    assert got == [f"after {number}" for number in range(100)]


def test_a_flood_over_tls_arrives_whole(rsyslog: Any, certificate: tuple[str, str]) -> None:
    options = {
        "syslog-address": f"tcp+tls://127.0.0.1:{rsyslog.tls}",
        "syslog-format": "rfc5424",
        "syslog-tls-ca-cert": certificate[0],
    }
    destination = syslog.open(options, source())
    lines = [b"%d " % number + b"x" * (number % 2000) for number in range(3000)]
    for start in range(0, len(lines), 500):
        rest = [entry(line) for line in lines[start : start + 500]]
        while rest:
            try:
                destination.send(rest)
                rest = []
            except Undelivered as error:
                rest = rest[error.delivered :]
    got = [rsyslog.next().split("|")[6].strip() for _ in lines]
    destination.close()
    assert got == [line.decode().strip() for line in lines]


def test_a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    rsyslog: Any, certificate: tuple[str, str]
) -> None:
    options = {"syslog-address": f"tcp+tls://127.0.0.1:{rsyslog.tls}"}
    with pytest.raises(OSError, match="certificate verify failed"):
        syslog.open(options, source())
    unchecked = syslog.open(options | {"syslog-tls-skip-verify": "true"}, source())
    unchecked.send([entry(b"unchecked")])
    unchecked.close()
    assert rsyslog.next().strip().endswith("unchecked")


def test_the_client_shows_its_certificate_to_a_server_that_wants_one(
    rsyslog: Any, certificate: tuple[str, str]
) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    with socket.create_connection(("127.0.0.1", rsyslog.mutual), 10) as plain:
        # Without one the server ends the conversation: so this test can fail.
        with (
            pytest.raises(OSError, match=r"alert|EOF|reset"),
            context.wrap_socket(plain, server_hostname="127.0.0.1") as anonymous,
        ):
            if not anonymous.recv(1):
                raise OSError("EOF")
    options = {
        "syslog-address": f"tcp+tls://127.0.0.1:{rsyslog.mutual}",
        "syslog-tls-ca-cert": certificate[0],
        "syslog-tls-cert": certificate[0],
        "syslog-tls-key": certificate[1],
    }
    destination = syslog.open(options, source())
    destination.send([entry(b"known")])
    destination.close()
    assert rsyslog.next().strip().endswith("known")
