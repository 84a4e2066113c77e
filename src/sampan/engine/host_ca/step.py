"""How one build step trusts the host's certificates: by what its image has, and by what variables tell programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sampan.engine.host_ca.bundle import MAX_BUNDLE, joined
from sampan.engine.host_ca.layer import Place, clean_up, find_places, own_bundle, write_layer
from sampan.engine.model import MountPoint
from sampan.errors import NotFound
from sampan.oci.rootfs import LayerMount, RootAssembly

BUNDLE = "/run/.sampan-host-ca.pem"
"""Where a step sees the image's bundle and the host's as one file: also in an image that has none."""
_APT = "/run/.sampan-host-ca.apt"
_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, Python, Go, Ruby, Rust
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",  # Node.js, npm, yarn
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
)
_CANDIDATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class HostTrust:
    """The host's bundle."""

    content: bytes


def host_trust() -> HostTrust:
    """The host's CA bundle: what SSL_CERT_FILE says, else where distributions keep it. Raises `NotFound`."""
    for candidate in (os.environ.get("SSL_CERT_FILE", ""), *_CANDIDATES):
        if candidate and Path(candidate).is_file():
            with open(candidate, "rb") as file:
                return HostTrust(file.read(MAX_BUNDLE))
    raise NotFound(
        "this host has no bundle of CA certificates", hint="install ca-certificates, or set SSL_CERT_FILE"
    )


class StepTrust:
    """Of one step. `points`, `environment` and `layers` are there after `prepare`."""

    def __init__(self, host: HostTrust, directory: Path) -> None:
        """`directory`: for this step's files; its owner removes it."""
        self._host = host
        self._directory = directory
        self._places: list[Place] = []
        self.points: list[MountPoint] = []
        self.environment: tuple[str, ...] = ()
        self.layers: tuple[str, ...] = ()

    def prepare(self, root: int, environment: Sequence[str]) -> None:
        """`root`: the root file system that the step begins with, closed here. `environment`: the step's."""
        try:
            home = next((one[10:] for one in environment if one.startswith("JAVA_HOME=")), "")
            self._places = find_places(root, self._host.content, home)
            own = own_bundle(root)
            if self._places:
                layer = self._directory / "host-ca"
                layer.mkdir(mode=0o755)
                write_layer(root, self._places, layer)
                self.layers = (str(layer),)
        finally:
            os.close(root)
        self._show("host-ca.pem", BUNDLE, joined(own, self._host.content).content)
        self._show("host-ca.apt", _APT, f'Acquire::https::CAInfo "{BUNDLE}";\n'.encode())
        # What the step's own environment says wins.
        self.environment = (*(f"{name}={BUNDLE}" for name in _VARIABLES), f"APT_CONFIG={_APT}")

    def over(self, root: RootAssembly) -> RootAssembly:
        trusted = (LayerMount("dir", path) for path in self.layers)
        return msgspec.structs.replace(root, layers=(*root.layers, *trusted))

    def clean_up(self, upper: Path) -> None:
        if self._places:
            clean_up(upper, self._places)

    def _show(self, name: str, place: str, content: bytes) -> None:
        file = self._directory / name
        file.write_bytes(content)
        file.chmod(0o644)
        self.points.append(MountPoint("bind", place, str(file), rw=False, internal=True))
