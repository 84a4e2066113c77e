"""The driver `syslog`: RFC 3164 and RFC 5424 over UDP, TCP, TLS and Unix sockets, as Docker writes them.

A message ends with a newline. On TLS with an RFC 5424 format it is preceded by its length (RFC 5425, octet counting);
on all other streams the newline is what separates it from the next.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Invalid
from sampan.logs.datagrams import Datagrams
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.option_values import host_and_port, parse_bool, refuse_unknown, split_address
from sampan.logs.stream_connection import StreamConnection
from sampan.logs.undelivered import Losses, Undelivered, deliver_lines

if TYPE_CHECKING:
    import ssl

_OPTIONS = (
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
)
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", ""),
    *(f"local{number}" for number in range(8)),
)
_DAEMON = _FACILITIES.index("daemon")
_ERROR, _INFO = 3, 6
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_LOCAL_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
_DEFAULT_PORT = 514
_NOT_IN_A_HEADER = re.compile(r"[^!-~]")


class Settings(msgspec.Struct, frozen=True):
    """`scheme`: udp, tcp, tcp+tls, unix, unixgram, or empty for the host's own; `path` of a Unix socket."""

    scheme: str = ""
    host: str = ""
    port: int = _DEFAULT_PORT
    path: str = ""
    facility: int = _DAEMON
    format: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True

    @property
    def counts_octets(self) -> bool:
        return self.scheme == "tcp+tls" and self.format.startswith("rfc5424")


def check_options(options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    refuse_unknown("syslog", options, _OPTIONS)
    path = settings(options).path
    if path and not os.path.exists(path):
        raise Invalid(f"stat {path}: no such file or directory")


def settings(options: Mapping[str, str]) -> Settings:
    """Raises `Invalid`."""
    address = options.get("syslog-address", "")
    chosen = _address(address) if address else Settings()
    format = options.get("syslog-format", "")
    if format not in _FORMATS:
        raise Invalid("Invalid syslog format", hint=f"{format!r} is none of {', '.join(_FORMATS[1:])}")
    skip = options.get("syslog-tls-skip-verify", "false")
    return msgspec.structs.replace(
        chosen,
        facility=_facility(options.get("syslog-facility", "")),
        format=format,
        ca=options.get("syslog-tls-ca-cert", ""),
        certificate=options.get("syslog-tls-cert", ""),
        key=options.get("syslog-tls-key", ""),
        verify=not parse_bool(skip or "true"),
    )


def _address(text: str) -> Settings:
    parts = split_address(text)
    if parts is None or parts[0] not in ("udp", "tcp", "tcp+tls", "unix", "unixgram"):
        raise Invalid(f"syslog-address should be in form proto://address, got {text}")
    scheme, rest = parts
    if scheme in ("unix", "unixgram"):
        return Settings(scheme=scheme, path=rest)
    host, port = host_and_port(rest.partition("/")[0], text)
    return Settings(scheme=scheme, host=host or "localhost", port=_DEFAULT_PORT if port is None else port)


def _facility(text: str) -> int:
    if not text:
        return _DAEMON
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= 23:
        return int(text)
    raise Invalid("invalid syslog facility", hint=f"{text!r} is neither a facility's name nor 0 to 23")


class Formatter:
    """Messages of one container. What would end a record or a header's field early is replaced: the container does not
    write the protocol."""

    def __init__(self, chosen: Settings, host: str, tag: str, pid: int) -> None:
        self._counts = chosen.counts_octets
        self._micro = chosen.format == "rfc5424micro"
        self._priorities = {
            stream: f"<{chosen.facility * 8 + severity}>".encode()
            for stream, severity in ((1, _INFO), (2, _ERROR))
        }
        tag = _NOT_IN_A_HEADER.sub("_", tag) or "-"
        host = _NOT_IN_A_HEADER.sub("_", host) or "-"
        self._newer = chosen.format.startswith("rfc5424")
        if self._newer:
            self._after = f" {host} {tag} {pid} {tag} - ".encode()
        elif chosen.format == "rfc3164":
            self._after = f" {host} {tag}[{pid}]: ".encode()
        else:
            self._after = f" {tag}[{pid}]: ".encode()
        self._second = -1
        self._moment = ("", "")

    def message(self, entry: LogEntry) -> bytes:
        """With its newline, and its length before it where that is the framing."""
        line = entry.line.replace(b"\n", b"#012")
        priority = self._priorities.get(entry.stream, self._priorities[1])
        text = b"%b%b%b%b\n" % (priority, self._time(entry.time_ns), self._after, line)
        return b"%d %b" % (len(text), text) if self._counts else text

    def _time(self, time_ns: int) -> bytes:
        """In the host's time zone."""
        second, rest = divmod(time_ns, 10**9)
        if second != self._second:
            self._second = second
            local = time.localtime(second)
            self._moment = _rfc5424(local) if self._newer else (_rfc3164(local), "")
        before, after = self._moment
        return (f"{before}.{rest // 1000:06}{after}" if self._micro else before + after).encode()


def _rfc3164(moment: time.struct_time) -> str:
    clock = f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    return f"{_MONTHS[moment.tm_mon - 1]} {moment.tm_mday:2} {clock}"


def _rfc5424(moment: time.struct_time) -> tuple[str, str]:
    """What is before and after the fraction of the second."""
    text = time.strftime("1 %Y-%m-%dT%H:%M:%S", moment)
    minutes = moment.tm_gmtoff // 60
    if minutes == 0:
        return text, "Z"
    return text, f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


class SyslogDestination:
    """Sends entries to one server. Empty lines are no messages, as with Docker."""

    def __init__(self, chosen: Settings, source: LogSource) -> None:
        self.losses = Losses()
        self._formatter = Formatter(chosen, source.host, source.tag, os.getpid())
        self._stream: StreamConnection | None = None
        self._datagrams: Datagrams | None = None
        if chosen.scheme == "unix":
            self._stream = StreamConnection(chosen.path)
        elif chosen.scheme == "tcp":
            self._stream = StreamConnection((chosen.host, chosen.port))
        elif chosen.scheme == "tcp+tls":
            self._stream = StreamConnection((chosen.host, chosen.port), tls=_tls_context(chosen))
        elif chosen.scheme == "udp":
            self._datagrams = Datagrams((chosen.host, chosen.port))
        else:
            self._datagrams = Datagrams([chosen.path] if chosen.path else _LOCAL_SOCKETS)

    def connect(self) -> None:
        """Raises OSError when the server does not answer."""
        if self._stream is not None:
            self._stream.connect()
        elif self._datagrams is not None:
            self._datagrams.connect()

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Raises `Undelivered`."""
        deliver_lines(entries, self._deliver)

    def _deliver(self, entries: Sequence[LogEntry]) -> None:
        messages = [self._formatter.message(entry) for entry in entries]
        if self._stream is not None:
            self._stream.write(messages)
        else:
            self._send_datagrams(entries, messages)

    def _send_datagrams(self, entries: Sequence[LogEntry], messages: Sequence[bytes]) -> None:
        assert self._datagrams is not None
        for done, text in enumerate(messages):
            try:
                self._datagrams.send(text)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise Undelivered(error.strerror or str(error), delivered=done) from error
                self.losses.add(entries[done : done + 1])  # no datagram holds it, now or later

    def close(self) -> None:
        """What a slow server has half of is finished, or counted as a loss."""
        if self._stream is not None and (left := self._stream.end()):
            self.losses.count(1, left)
        if self._datagrams is not None:
            self._datagrams.close()


def open(options: Mapping[str, str], source: LogSource) -> SyslogDestination:
    """Raises `Invalid`, and OSError when the server does not answer."""
    destination = SyslogDestination(settings(options), source)
    try:
        destination.connect()
    except BaseException:
        destination.close()
        raise
    return destination


def _tls_context(chosen: Settings) -> Callable[[], ssl.SSLContext]:
    """The files are read at once, so that a wrong one is said at the start. Raises `Invalid`."""
    import ssl

    context = ssl.create_default_context()
    if not chosen.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if chosen.ca:
            context.load_verify_locations(chosen.ca)
    except OSError as error:
        raise Invalid(f'could not read CA certificate "{chosen.ca}": {error.strerror or error}') from error
    try:
        if chosen.certificate or chosen.key:
            context.load_cert_chain(chosen.certificate, chosen.key or None)
    except OSError as error:
        raise Invalid(
            f"could not load X509 key pair: {error.strerror or error}",
            hint=f"syslog-tls-cert={chosen.certificate} syslog-tls-key={chosen.key}",
        ) from error
    return lambda: context
