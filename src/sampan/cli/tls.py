"""Which TLS files a TCP connection to an engine uses (`--tls*`, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH)."""

from __future__ import annotations

import os

from sampan.client.address import DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Address, TlsFiles


def add_tls(
    address: Address, *, use: bool, verify: bool, ca: str, cert: str, key: str, directory: str
) -> None:
    """Set `address.tls` when TLS was asked for by an option, the environment or an https:// address."""
    verify = verify or bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not use and not verify and not address.text.startswith("https://"):
        return
    place = os.environ.get("DOCKER_CERT_PATH") or directory or os.path.expanduser("~/.docker")
    cert = cert or _existing(place, "cert.pem")
    key = key or _existing(place, "key.pem")
    address.tls = TlsFiles(ca or _existing(place, "ca.pem"), cert if key else "", key, verify)
    if address.port == DEFAULT_TCP_PORT and not address.text.rstrip("/").endswith(f":{DEFAULT_TCP_PORT}"):
        address.port = DEFAULT_TLS_PORT


def _existing(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    return path if os.path.exists(path) else ""
