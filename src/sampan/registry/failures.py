"""What went wrong with a connection, in the words of Go's HTTP client, which Docker's users know. Pure.

No text of an exception is repeated: those of Python's libraries name Python's things.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl

from urllib3 import exceptions

_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Not about TLS: the other side has gone."""
_REFUSED = "Tunnel connection failed: "
"""What http.client says of a proxy's answer to CONNECT, before the status."""
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_EXPIRED = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_... numbers."""


def is_final(error: Exception) -> bool:
    """Whether another attempt right away can't end otherwise: nobody listens, no such name, no trust, no permission."""
    cause = _cause(error)
    if isinstance(error, exceptions.ProxyError) and f"{_REFUSED}4" in str(cause):
        return True
    return isinstance(error, exceptions.LocationParseError | exceptions.NameResolutionError) or (
        isinstance(cause, ConnectionRefusedError | ssl.SSLError | socket.gaierror)
        and not isinstance(cause, _CLOSED)
    )


def failed_to_connect(error: Exception) -> bool:
    """Whether no request was sent."""
    cause = _cause(error)
    return isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError) or (
        isinstance(cause, ssl.SSLError) and not isinstance(cause, _CLOSED)
    )


def describe(error: Exception, host: str = "") -> str:
    """The cause in a few words. `host`: the one that was asked, with its port."""
    if isinstance(error, exceptions.ProxyError):
        return f"proxyconnect tcp: {_of_proxy(_cause(error))}"
    cause = _cause(error)
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if isinstance(cause, socket.gaierror):
        words = "no such host" if cause.errno == socket.EAI_NONAME else str(cause.strerror).lower()
        return f"dial tcp: lookup {name}: {words}"
    if isinstance(cause, _CLOSED):
        return "EOF"
    if isinstance(cause, ssl.SSLError):
        return _tls(cause, name)
    if isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError):
        return f"dial tcp {host}: {_system(cause, 'connect: ')}"
    if isinstance(cause, TimeoutError) or isinstance(error, exceptions.TimeoutError):
        return "i/o timeout"
    if isinstance(cause, http.client.RemoteDisconnected):
        return "EOF"
    if isinstance(cause, OSError):
        return _system(cause, "")
    if isinstance(error, exceptions.IncompleteRead) or isinstance(cause, http.client.IncompleteRead):
        return "unexpected EOF"
    if isinstance(error, exceptions.LocationParseError | exceptions.LocationValueError):
        return f"dial tcp: {host}: invalid host or port"
    if isinstance(error, exceptions.DecodeError):
        return "the answer's Content-Encoding is malformed"
    return "malformed HTTP response"


def _cause(error: BaseException) -> BaseException:
    """The exception of the standard library that `error` wraps (urllib3 does so in one of two ways), or itself."""
    seen = 0
    while seen < 8 and isinstance(error, exceptions.HTTPError):
        inner = next((one for one in error.args if isinstance(one, Exception)), None)
        following = inner or error.__cause__ or error.__context__
        if following is None:
            break
        error, seen = following, seen + 1
    return error


def _of_proxy(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLError):
        return _tls(cause, "the proxy")
    if isinstance(cause, socket.gaierror):
        return "dial tcp: lookup of the proxy: no such host"
    refused = str(cause).partition(_REFUSED)[2]
    return refused[:100] if refused.isprintable() and refused else f"dial tcp: {_system(cause, 'connect: ')}"


def _system(cause: BaseException, prefix: str) -> str:
    number = cause.errno if isinstance(cause, OSError) else None
    return prefix + os.strerror(number).lower() if number else "i/o timeout"


def _tls(error: ssl.SSLError, name: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _UNKNOWN_AUTHORITY:
            words = "certificate signed by unknown authority"
        elif code in _EXPIRED:
            words = "certificate has expired or is not yet valid"
        elif code in _OTHER_NAME:
            words = f"certificate is not valid for {name}"
        else:
            words = str(error.verify_message)
        return f"tls: failed to verify certificate: x509: {words}"
    if error.reason in (
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
    ):
        return "http: server gave HTTP response to HTTPS client"
    reason = str(error.reason or "handshake failure").lower().replace("_", " ")
    return f"remote error: tls: {reason}" if "alert" in reason else f"tls: {reason}"
