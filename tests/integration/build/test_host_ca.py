"""`build --host-ca` on a real engine: steps trust the host's certificates, and their layers are the same without."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

OWN = "-----BEGIN CERTIFICATE-----\nb3du\n-----END CERTIFICATE-----\n"
SEEN = (
    "FROM base\n"
    "RUN grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; grep -c BEGIN $SSL_CERT_FILE; ls -ld /etc/ssl/certs; "
    "test $(readlink -f /etc/pki/bundle) = /etc/ssl/certs/ca-certificates.crt; cat $APT_CONFIG; echo $PIP_CERT\n"
)
STEPS = (
    "FROM base\n"
    # What update-ca-certificates does: a new bundle of the certificates that belong to it, moved over the old one.
    "RUN cat /usr/local/ca/* > /etc/ssl/certs/new && mv /etc/ssl/certs/new /etc/ssl/certs/ca-certificates.crt\n"
    "RUN cat /usr/local/ca/more >> /etc/ssl/certs/ca-certificates.crt && cp /etc/ssl/certs/ca-certificates.crt /copy\n"
    "RUN sed -i s/b3du/b3du/ /etc/ssl/certs/ca-certificates.crt && chmod 600 /etc/ssl/certs/ca-certificates.crt\n"
    "RUN rm /etc/ssl/certs/ca-certificates.crt\n"
)


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, Path]]:
    """One whose host has a certificate of this test's, and a base image with a bundle that lacks it."""
    from tests.integration.conftest import _make

    path = tmp_path_factory.mktemp("ca")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
         "-subj", "/CN=corporate", "-keyout", str(path / "key"), "-out", str(path / "host.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(path / "host.pem")
    try:
        sampan = _make(path / "engine", options=("--build-host-ca",))
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before
    try:
        out = io.BytesIO(busybox_tar())
        with tarfile.open(fileobj=out, mode="a") as archive:
            for name, content in (
                ("etc/ssl/certs/ca-certificates.crt", OWN),
                ("usr/local/ca/one", OWN),
                ("usr/local/ca/more", OWN.replace("b3du", "bW9yZQ==")),
            ):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_000_000_000
                archive.addfile(entry, io.BytesIO(content.encode()))
            link = tarfile.TarInfo("etc/pki/bundle")
            link.type, link.linkname = tarfile.SYMTYPE, "../ssl/certs/ca-certificates.crt"
            archive.addfile(link)
        sampan.engine.cli("import", "-", "base", stdin=out.getvalue())
        yield sampan, path
    finally:
        sampan.close()
        sampan.engine.stop()


def build(sampan: Any, text: str, *flags: str) -> str:
    command = ("build", "--no-cache", "--progress", "plain", *flags, "-")
    done = sampan.run(*command, stdin=text.encode(), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def contents(sampan: Any, name: str, tmp_path: Path) -> list[dict[str, tuple[Any, ...]]]:
    """Of every layer: path -> type, mode, owner, content; times left out."""
    file = tmp_path / "image.tar"
    sampan.ok("save", "-o", str(file), name)
    layers = []
    with tarfile.open(file) as image:
        manifest = json.load(image.extractfile("manifest.json"))  # type: ignore[arg-type]
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=image.extractfile(layer)) as archive:
                layers.append(
                    {
                        entry.name: (
                            entry.type,
                            entry.mode,
                            entry.uid,
                            entry.linkname,
                            archive.extractfile(entry).read() if entry.isreg() else b"",  # type: ignore[union-attr]
                        )
                        for entry in archive
                    }
                )
    return layers


def test_a_step_sees_the_hosts_certificates_where_programs_look(engine: tuple[Any, Path]) -> None:
    sampan, _ = engine
    said = build(sampan, SEEN)
    assert said.count(" 2\n") >= 2
    assert "Acquire::https::CAInfo" in said and "/run/.sampan-host-ca.pem" in said
    said = build(
        sampan,
        SEEN.replace("$SSL_CERT_FILE", "/dev/null").replace("cat $APT_CONFIG", "true"),
        "--host-ca=false",
    )
    assert " 1\n" in said and " 2\n" not in said


def test_layers_are_the_same_with_and_without_the_hosts_certificates(
    engine: tuple[Any, Path], tmp_path: Path
) -> None:
    sampan, path = engine
    build(sampan, STEPS, "-t", "with")
    build(sampan, STEPS, "--host-ca=false", "-t", "without")
    with_ca, without = contents(sampan, "with", tmp_path), contents(sampan, "without", tmp_path)
    assert with_ca == without
    assert len(with_ca) == 5
    # Taken apart: each certificate a file of its own.
    apart = "FROM base\nRUN awk '/BEGIN/{n++} {print > \"/part-\" n}' /etc/ssl/certs/ca-certificates.crt\n"
    build(sampan, apart, "-t", "apart")
    parts = contents(sampan, "apart", tmp_path)[-1]
    assert [parts[name][-1] for name in ("part-1", "part-2")] == [OWN.encode(), b""]
    host = (path / "host.pem").read_text().splitlines()[1]
    found = subprocess.run(
        ["grep", "-rlaF", "-D", "skip", "--", host, str(sampan.engine.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
