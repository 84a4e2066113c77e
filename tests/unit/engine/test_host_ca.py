"""Bundles and Java keystores with the host's certificates in them, and without them again."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sampan.engine.host_ca import keystore, pkcs12
from sampan.engine.host_ca.bundle import certificates, joined
from sampan.engine.host_ca.layer import clean_up, find_places, own_bundle, write_layer
from sampan.errors import Invalid


def pem(content: bytes) -> bytes:
    text = base64.encodebytes(content)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


ONE, TWO, THREE = (pem(name * 40) for name in (b"one", b"two", b"three"))


def test_a_joined_bundle_has_what_the_image_lacks_and_no_more() -> None:
    both = joined(b"# own\n" + ONE + TWO, TWO + THREE)
    assert both.content.startswith(b"# own\n" + ONE + TWO)
    assert list(certificates(both.content)) == [b"one" * 40, b"two" * 40, b"three" * 40]
    assert both.content.count(b"BEGIN") == 3
    assert joined(ONE + TWO, TWO + ONE).inserted == b""


def test_what_was_inserted_goes_whatever_was_written_around_it() -> None:
    both = joined(ONE.rstrip(b"\n"), TWO)
    assert both.removed_from(both.content) == ONE.rstrip(b"\n")
    assert both.removed_from(b"# head\n" + both.content + THREE) == b"# head\n" + ONE.rstrip(b"\n") + THREE
    assert both.removed_from(THREE) == THREE


def test_beginnings_without_an_end_take_no_time() -> None:
    both = joined(ONE, TWO)
    hostile = b"-----BEGIN CERTIFICATE-----\n" * 300_000
    began = time.process_time()
    assert both.removed_from(hostile) == hostile
    assert both.removed_from(ONE + hostile) == ONE + hostile
    assert list(certificates(ONE + hostile)) == [b"one" * 40]
    assert time.process_time() - began < 5  # to look for the end of each takes hours


def test_what_is_no_certificate_is_left_out() -> None:
    assert certificates(b"-----BEGIN CERTIFICATE-----\n***\n-----END CERTIFICATE-----\n") == {}
    assert certificates(b"-----BEGIN CERTIFICATE-----\nAAAA") == {}


def test_a_keystore_that_is_damaged_or_has_another_password_is_left_alone() -> None:
    good = keystore.encode(keystore.Store(2, ()).with_certificates([b"der"]))
    assert keystore.decode(good) is not None
    assert keystore.decode(good[:-1] + b"x") is None
    assert keystore.decode(b"PKCS12 or so" * 10) is None
    with pytest.raises(Invalid):
        keystore.decode(keystore.encode(keystore.Store(2, (keystore.Entry(b"", b"\0\0\0\2\0\x10x"),))))


@pytest.mark.skipif(shutil.which("keytool") is None, reason="Java's keytool judges, and is not here")
def test_java_reads_the_keystore_and_what_it_made_of_it_is_cleaned(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    for name in ("own", "host", "added"):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "9")  # fmt: skip
    tool = ("keytool", "-noprompt", "-storepass", "changeit", "-keystore", "store")
    imports = (*tool, "-importcert", "-storetype", "JKS")
    run(*imports, "-alias", "own", "-file", "own.pem")
    store = tmp_path / "store"
    before = keystore.decode(store.read_bytes())
    assert before is not None
    ders = list(certificates((tmp_path / "own.pem").read_bytes() + (tmp_path / "host.pem").read_bytes()))
    store.write_bytes(keystore.encode(before.with_certificates(ders)))
    listing = run(*tool, "-list", "-v")
    assert "Your keystore contains 2 entries" in listing and "Owner: CN=host" in listing
    run(*imports, "-alias", "added", "-file", "added.pem")
    after = keystore.decode(store.read_bytes())
    assert after is not None
    store.write_bytes(keystore.encode(after.without_ours()))
    listing = run(*tool, "-list", "-v")
    assert "Your keystore contains 2 entries" in listing and "CN=host" not in listing


@pytest.mark.skipif(shutil.which("keytool") is None, reason="Java's keytool judges, and is not here")
def test_java_reads_a_store_without_password_and_what_it_made_of_it_is_cleaned(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    for name in ("own", "host", "added"):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "9")  # fmt: skip
    # As JDKs are built since 18 (JDK-8275252).
    bare = [f"-J-Dkeystore.pkcs12.{name}=NONE" for name in ("certProtectionAlgorithm", "macAlgorithm")]
    tool = (
        "keytool",
        *bare,
        "-noprompt",
        "-storetype",
        "PKCS12",
        "-storepass",
        "changeit",
        "-keystore",
        "store",
    )
    run(*tool, "-importcert", "-alias", "own", "-file", "own.pem")
    store = tmp_path / "store"
    original = store.read_bytes()
    before = pkcs12.decode(original)
    assert before is not None
    ders = list(certificates((tmp_path / "own.pem").read_bytes() + (tmp_path / "host.pem").read_bytes()))
    extended = before.with_certificates(ders)
    assert pkcs12.encode(extended.without_ours()) == original
    store.write_bytes(pkcs12.encode(extended))
    listing = run(*tool, "-list", "-v")
    assert "Your keystore contains 2 entries" in listing and "Owner: CN=host" in listing
    assert listing.count("trustedCertEntry") == 2
    run(*tool, "-importcert", "-alias", "added", "-file", "added.pem")
    after = pkcs12.decode(store.read_bytes())
    assert after is not None
    store.write_bytes(pkcs12.encode(after.without_ours()))
    listing = run(*tool, "-list", "-v")
    assert "Your keystore contains 2 entries" in listing and "CN=host" not in listing
    # One with a password is another's business.
    locked = [*(word for word in tool[:-1] if not word.startswith("-J")), "locked"]
    run(*locked, "-importcert", "-alias", "x", "-file", "host.pem")
    assert pkcs12.decode((tmp_path / "locked").read_bytes()) is None


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 20, 40, -1])
def test_a_store_without_password_that_is_damaged_is_left_alone(cut: int) -> None:
    good = pkcs12.encode(pkcs12.Safes(()).with_certificates([b"der" * 60]))
    assert pkcs12.decode(good) is not None
    assert pkcs12.decode(good[:cut]) is None
    for wrong in (b"\x30\x80", b"\x30\x85\1\1\1\1\1", b"\x30\x84\xff\xff\xff\xff", b"\x30\0"):
        assert pkcs12.decode(wrong + good) is None


def test_a_layer_looks_like_the_image_and_leaves_nothing_behind(tmp_path: Path) -> None:
    root, layer, upper = tmp_path / "root", tmp_path / "layer", tmp_path / "upper"
    for directory in (
        root / "etc/ssl/certs/java",
        root / "etc/pki/tls/certs",
        layer,
        upper / "etc",
        upper / "opt",
    ):
        directory.mkdir(parents=True)
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.write_bytes(ONE)
    bundle.chmod(0o640)
    os.utime(bundle, (1e9, 1e9))
    (root / "etc/pki/tls/certs/ca-bundle.crt").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    store = keystore.encode(keystore.Store(2, ()))
    (root / "etc/ssl/certs/java/cacerts").write_bytes(store)
    (root / "etc/ssl").chmod(0o711)
    os.utime(root / "etc/ssl", (2e9, 2e9))
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        places = find_places(fd, TWO, "/usr/lib/none")
        assert sorted(place.path for place in places) == [
            "etc/ssl/certs/ca-certificates.crt",
            "etc/ssl/certs/java/cacerts",
        ]
        assert own_bundle(fd) == ONE
        write_layer(fd, places, layer)
    finally:
        os.close(fd)
    made = layer / "etc/ssl/certs/ca-certificates.crt"
    assert made.read_bytes().startswith(ONE) and TWO in made.read_bytes()
    assert (made.stat().st_mode, made.stat().st_mtime) == (bundle.stat().st_mode, 1e9)
    assert (layer / "etc/ssl").stat().st_mode & 0o7777 == 0o711 and (layer / "etc/ssl").stat().st_mtime == 2e9
    (upper / "etc/edited").write_bytes(made.read_bytes() + THREE)
    (upper / "opt/cacerts").write_bytes((layer / "etc/ssl/certs/java/cacerts").read_bytes())
    (upper / "opt/other").write_bytes(b"x" * 5000)
    (upper / "opt/link").symlink_to("/etc/shadow")
    os.utime(upper / "etc/edited", (3e9, 3e9))
    clean_up(upper, places)
    assert (upper / "etc/edited").read_bytes() == ONE + THREE
    assert (upper / "etc/edited").stat().st_mtime == 3e9
    assert (upper / "opt/cacerts").read_bytes() == store
    assert (upper / "opt/other").read_bytes() == b"x" * 5000


def test_a_certificate_that_was_copied_alone_goes_and_an_images_own_stays(tmp_path: Path) -> None:
    der = b"corporate" * 20
    both = joined(ONE, pem(der))
    (inserted,) = both.blocks
    assert certificates(inserted) == {der: inserted}
    assert both.removed_from(b"x\n" + inserted + b"y\n") == b"x\ny\n"
    assert both.removed_from(inserted.rstrip(b"\n")) == b""
    # What a Dockerfile copies into the image has other lines, though it is the same certificate.
    own = "\n".join(base64.b64encode(der).decode()[at : at + 64] for at in range(0, 240, 64))
    text = f"-----BEGIN CERTIFICATE-----\n{own}\n-----END CERTIFICATE-----\n".encode()
    assert list(certificates(text)) == [der]
    assert both.removed_from(text + ONE) == text + ONE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl judges, and is not here")
def test_openssl_reads_what_was_inserted(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=host", "-keyout", "key",
        "-out", "host.pem", "-days", "9")  # fmt: skip
    (tmp_path / "both.pem").write_bytes(joined(b"", (tmp_path / "host.pem").read_bytes()).content)
    assert "CN = host" in run("openssl", "x509", "-noout", "-subject", "-in", "both.pem")
    assert "host.pem: OK" in run("openssl", "verify", "-CAfile", "both.pem", "host.pem")
