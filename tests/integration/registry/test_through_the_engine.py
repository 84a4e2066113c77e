"""The registry client as people meet it: through the command line and a whole engine."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import pty
import random
import re
import stat
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.oci import media
from sampan.testing.engine import EngineProcess
from sampan.testing.misbehaving_registry import MisbehavingRegistry
from sampan.testing.proxy import CuttingProxy
from sampan.testing.registry import RealRegistry, make_ca_and_certificate

pytestmark = pytest.mark.root

USER, PASSWORD = "ann", "s3cret:with colon"
NOWHERE = "registry.example.invalid"
"""A name that leads nowhere: only a mirror can have its images."""


@dataclass
class Client:
    """The command line with a configuration directory of its own."""

    engine: EngineProcess
    directory: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.directory / "config.json"

    @property
    def environment(self) -> dict[str, str]:
        return {**self.engine.environment, "DOCKER_CONFIG": str(self.directory), **self.extra}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sampan.cli.main", *arguments]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, env=self.environment,
            timeout=60, check=False,
        )  # fmt: skip
        for sign in ("Traceback", "[Errno", "ConnectionPool", "urllib3", "object at 0x"):
            assert sign not in done.stdout + done.stderr
        return done

    def ok(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str, stdin: str = "") -> str:
        """What it says on standard error; its exit status must be 1."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def architecture(self, name: str) -> str:
        return self.ok("image", "inspect", "--format", "{{.Architecture}}", name).strip()


@dataclass
class Site:
    """Two engines, and registries on loopback and on the first engine's bridge (no loopback address).

    `second` trusts the CA of `secured` by SSL_CERT_FILE, and knows `insecure` as an insecure registry.
    """

    engine: EngineProcess
    second: EngineProcess
    certs: Path
    open: RealRegistry
    secured: RealRegistry
    secured_host: str
    insecure_host: str
    mirror: RealRegistry


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    top = tmp_path_factory.mktemp("site")
    certs = top / "certs.d"
    with RealRegistry(top / "mirror") as mirror, RealRegistry(top / "open") as plain:
        options = ["--registry-certs", str(certs), "--registry-mirror", f"{NOWHERE}=http://{mirror.host}"]
        with EngineProcess(top / "engine", options=options) as engine:
            gateway = engine.subnet.partition("/")[0]
            directory = top / "secured"
            directory.mkdir()
            make_ca_and_certificate(directory, names=f"IP:127.0.0.1,IP:{gateway}")
            secured = RealRegistry(directory, tls=True, htpasswd={USER: PASSWORD})
            with (
                secured,
                CuttingProxy(secured.port, host=gateway) as tls,
                CuttingProxy(plain.port, host=gateway) as http,
                pytest.MonkeyPatch.context() as patch,
            ):
                patch.setenv("SSL_CERT_FILE", str(secured.ca))
                second_options = ["--insecure-registry", http.host]
                with EngineProcess(top / "second", options=second_options) as second:
                    yield Site(engine, second, certs, plain, secured, tls.host, http.host, mirror)


@pytest.fixture
def client(site: Site, tmp_path: Path) -> Client:
    return Client(site.engine, tmp_path / "client")


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Client:
    return Client(site.second, tmp_path / "client")


# Images made by hand, so that what is pulled was not written by what pulls it.


def put_image(
    registry: str, repository: str, tag: str, *contents: bytes, architecture: str = "amd64"
) -> tuple[str, int]:
    """The digest and the size of its manifest; without `tag` it has no other name."""
    layers, diff_ids = [], []
    for content in contents:
        tar = layer_tar(content)
        diff_ids.append(digest_of(tar))
        layers.append(put_blob(registry, repository, gzip.compress(tar, 1, mtime=0), media.OCI_LAYER_GZIP))
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    described = put_blob(registry, repository, json.dumps(config).encode(), media.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described, "layers": layers}
    raw = json.dumps(manifest).encode()
    put_manifest(registry, repository, tag or digest_of(raw), raw, media.OCI_MANIFEST)
    return digest_of(raw), len(raw)


def put_index(registry: str, repository: str, tag: str, entries: Mapping[str, tuple[str, int]]) -> str:
    """`entries`: architecture -> digest and size of the manifest."""
    manifests = [
        {
            "mediaType": media.OCI_MANIFEST,
            "digest": digest,
            "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, (digest, size) in entries.items()
    ]
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
    raw = json.dumps(index).encode()
    put_manifest(registry, repository, tag, raw, media.OCI_INDEX)
    return digest_of(raw)


def put_blob(registry: str, repository: str, data: bytes, kind: str) -> dict[str, object]:
    start = urllib.request.Request(
        f"http://{registry}/v2/{repository}/blobs/uploads/", method="POST", data=b""
    )
    location = urllib.request.urlopen(start).headers["Location"]
    headers = {"Content-Type": "application/octet-stream"}
    url = f"{location}&digest={digest_of(data)}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=data, headers=headers))
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def put_manifest(registry: str, repository: str, wanted: str, raw: bytes, kind: str) -> None:
    url = f"http://{registry}/v2/{repository}/manifests/{wanted}"
    urllib.request.urlopen(
        urllib.request.Request(url, method="PUT", data=raw, headers={"Content-Type": kind})
    )


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(f"file-{digest_of(content)[7:15]}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def short(content: bytes) -> str:
    """The id that progress has for the layer of this content."""
    return digest_of(gzip.compress(layer_tar(content), 1, mtime=0))[7:19]


# Logging in


def test_login_writes_dockers_file_and_leaves_the_rest_of_it_alone(site: Site, client: Client) -> None:
    site.secured.install_ca(site.certs)
    host = site.secured.host
    client.directory.mkdir()
    other = {"auths": {"other.example": {"auth": "eDp5"}}, "psFormat": "{{.ID}}", "HttpHeaders": {"X": "y"}}
    client.config.write_text(json.dumps(other))
    client.config.chmod(0o600)
    assert "Login Succeeded\n" in client.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
    written = json.loads(client.config.read_text())
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert written == {**other, "auths": {**other["auths"], host: {"auth": pair}}}  # type: ignore[dict-item]
    assert stat.S_IMODE(client.config.stat().st_mode) == 0o600
    assert "Login Succeeded" in client.ok("login", host)  # with what is stored
    assert client.ok("logout", host) == f"Removing login credentials for {host}\n"
    assert json.loads(client.config.read_text()) == other


def test_a_new_configuration_file_is_readable_by_its_owner_only(site: Site, client: Client) -> None:
    site.secured.install_ca(site.certs)
    client.ok("login", "-u", USER, "--password-stdin", site.secured.host, stdin=PASSWORD + "\n")
    assert stat.S_IMODE(client.config.stat().st_mode) == 0o600
    assert stat.S_IMODE(client.directory.stat().st_mode) == 0o700


def test_wrong_credentials_are_refused_in_dockers_words_and_nothing_is_stored(
    site: Site, client: Client
) -> None:
    site.secured.install_ca(site.certs)
    host = site.secured.host
    said = client.fails("login", "-u", USER, "--password-stdin", host, stdin="guess")
    assert said == (
        f"Error response from daemon: login attempt to https://{host}/v2/ failed with status: 401 Unauthorized\n"
    )
    assert not client.config.exists()


HELPER = """#!/bin/sh
# A credential helper that keeps its secrets in a file and notes what it is asked.
input=$(cat)
echo "$1 $input" >> "{log}"
case $1 in
store) printf '%s' "$input" > "{secrets}";;
get) if [ -s "{secrets}" ]; then cat "{secrets}"; else echo "credentials not found in native keychain"; exit 1; fi;;
erase) rm -f "{secrets}";;
esac
"""


def test_a_credential_helper_stores_gives_and_erases(site: Site, client: Client, tmp_path: Path) -> None:
    site.secured.install_ca(site.certs)
    host = site.secured.host
    helper, secrets, log = (tmp_path / name for name in ("bin/docker-credential-test", "secrets", "log"))
    helper.parent.mkdir()
    helper.write_text(HELPER.format(log=log, secrets=secrets))
    helper.chmod(0o755)
    client.extra["PATH"] = f"{helper.parent}:{os.environ['PATH']}"
    client.directory.mkdir()
    client.config.write_text(json.dumps({"credsStore": "test"}))
    put_image(site.open.host, "helped", "1", b"helped")
    client.ok("pull", "-q", f"{site.open.host}/helped:1")
    client.ok("tag", f"{site.open.host}/helped:1", f"{host}/helped:1")

    client.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
    assert json.loads(secrets.read_text()) == {"ServerURL": host, "Username": USER, "Secret": PASSWORD}
    assert json.loads(client.config.read_text()) == {"credsStore": "test", "auths": {host: {}}}
    assert "Pushed" in client.ok("push", f"{host}/helped:1")
    client.ok("pull", f"{host}/helped:1")
    text = f"FROM {host}/helped:1\nLABEL a=b\n"
    client.ok("build", "--pull", "--push", "-t", f"{host}/built:1", "-", stdin=text)
    client.ok("logout", host)
    assert not secrets.exists()
    actions = [line.partition(" ")[0] for line in log.read_text().splitlines()]
    assert "store" in actions
    assert actions.count("get") >= 2
    assert actions[-1] == "erase"
    assert "no basic auth credentials" in client.fails("pull", f"{host}/helped:1")


def test_credentials_go_to_the_registry_they_belong_to_and_nowhere_else(site: Site, client: Client) -> None:
    with MisbehavingRegistry(basic=True) as own, MisbehavingRegistry(basic=True) as other:
        client.ok("login", "-u", own.user, "--password-stdin", own.host, stdin=own.password)
        client.fails("pull", f"{own.host}/x:1")
        assert "no basic auth credentials" in client.fails("pull", f"{other.host}/x:1")
        assert any("authorization" in one.headers for one in own.asked_for("/manifests/"))
        assert other.asked
        assert all("authorization" not in one.headers for one in other.asked)
        assert all(own.password not in str(one) for one in other.asked)


def test_an_identity_token_is_kept_instead_of_the_password(client: Client) -> None:
    with MisbehavingRegistry(token_realm="own", identity_token="the-identity") as registry:
        client.ok("login", "-u", registry.user, "--password-stdin", registry.host, stdin=registry.password)
        (entry,) = json.loads(client.config.read_text())["auths"].values()
        assert entry["identitytoken"] == "the-identity"
        assert registry.password not in base64.b64decode(entry["auth"]).decode()
        registry.asked.clear()
        assert "manifest unknown" in client.fails("pull", f"{registry.host}/x:1")
        assert [one.method for one in registry.asked_for("/token")] == ["POST"]
        assert all("basic" not in one.headers.get("authorization", "").lower() for one in registry.asked)


# Trust


def test_a_ca_in_certs_d_is_what_makes_a_registry_trusted(site: Site, client: Client) -> None:
    host = site.secured_host
    said = client.fails("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
    assert said == (
        f'Error response from daemon: Get "https://{host}/v2/": tls: failed to verify certificate: '
        "x509: certificate signed by unknown authority\n"
    )
    (site.certs / host).mkdir(parents=True)
    (site.certs / host / "ca.crt").write_bytes(site.secured.ca.read_bytes())
    put_image(site.open.host, "trusted", "1", b"trusted")
    client.ok("pull", "-q", f"{site.open.host}/trusted:1")
    client.ok("tag", f"{site.open.host}/trusted:1", f"{host}/team/trusted:1")
    assert "no basic auth credentials" in client.fails("push", f"{host}/team/trusted:1")
    client.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
    client.ok("push", f"{host}/team/trusted:1")
    client.ok("rmi", f"{host}/team/trusted:1", f"{site.open.host}/trusted:1")
    assert "Pull complete" in client.ok("pull", f"{host}/team/trusted:1")


def test_ssl_cert_file_is_trusted_too(site: Site, second: Client) -> None:
    host = site.secured_host
    put_image(site.open.host, "by-file", "1", b"by file")
    second.ok("pull", "-q", f"{site.open.host}/by-file:1")
    second.ok("tag", f"{site.open.host}/by-file:1", f"{host}/by-file:1")
    second.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
    second.ok("push", "-q", f"{host}/by-file:1")
    assert "up to date" in second.ok("pull", f"{host}/by-file:1")


def test_plain_http_off_this_machine_needs_to_be_configured(
    site: Site, client: Client, second: Client
) -> None:
    host = site.insecure_host
    put_image(site.open.host, "insecure", "1", b"insecure")
    assert client.fails("pull", f"{host}/insecure:1") == (
        f'Error response from daemon: Get "https://{host}/v2/": http: server gave HTTP response to HTTPS client\n'
    )
    assert "Pull complete" in second.ok("pull", f"{host}/insecure:1")


def test_a_mirror_serves_a_registry_of_any_name(site: Site, client: Client) -> None:
    put_image(site.mirror.host, "team/mirrored", "1", b"mirrored")
    shown = client.ok("pull", f"{NOWHERE}/team/mirrored:1")
    assert f"Status: Downloaded newer image for {NOWHERE}/team/mirrored:1\n" in shown
    said = client.fails("pull", f"{NOWHERE}/team/other:1")
    assert said == (
        f'Error response from daemon: Get "https://{NOWHERE}/v2/": dial tcp: lookup {NOWHERE}: no such host\n'
    )


# Platforms, tags and digests


def test_an_index_gives_this_machines_image_or_another_one_that_is_asked_for(
    site: Site, client: Client
) -> None:
    registry = site.open.host
    entries = {
        one: put_image(registry, "multi", "", one.encode(), architecture=one) for one in ("arm64", "amd64")
    }
    digest = put_index(registry, "multi", "1", entries)
    name = f"{registry}/multi:1"
    assert f"Digest: {digest}\n" in client.ok("pull", name)
    assert client.architecture(name) == "amd64"
    client.ok("pull", "--platform", "linux/arm64", name)
    assert client.architecture(name) == "arm64"
    assert client.fails("pull", "--platform", "linux/s390x", name) == (
        "no matching manifest for linux/s390x in the manifest list entries\n"
    )
    put_index(registry, "multi", "arm", {"arm64": entries["arm64"]})
    assert client.fails("pull", f"{registry}/multi:arm") == (
        "no matching manifest for linux/amd64 in the manifest list entries\n"
    )
    client.ok("pull", f"{registry}/multi@{entries['amd64'][0]}")
    assert client.architecture(f"{registry}/multi@{entries['amd64'][0]}") == "amd64"


def test_all_tags_are_pulled_and_pushed(site: Site, client: Client) -> None:
    name = f"{site.open.host}/tagged"
    one, _ = put_image(site.open.host, "tagged", "one", b"one")
    put_image(site.open.host, "tagged", "two", b"two")
    shown = client.ok("pull", "-a", name).splitlines()
    assert {"one: Pulling from tagged", "two: Pulling from tagged", f"Digest: {one}"} <= set(shown)
    assert shown[-2:] == [f"Status: Downloaded newer image for {name}", name]
    assert client.ok("pull", "-a", name).splitlines()[-2] == f"Status: Image is up to date for {name}"
    assert client.fails("pull", name) == (
        f"Error response from daemon: manifest for {name}:latest not found: manifest unknown: manifest unknown\n"
    )
    client.ok("tag", f"{name}:one", f"{site.open.host}/again:a")
    client.ok("tag", f"{name}:two", f"{site.open.host}/again:b")
    assert client.fails("push", f"{site.open.host}/again") == (
        f"tag does not exist: {site.open.host}/again:latest\n"
    )
    pushed = client.ok("push", "-a", f"{site.open.host}/again")
    assert f"a: digest: {one} size: " in pushed
    with urllib.request.urlopen(f"http://{site.open.host}/v2/again/tags/list") as answer:
        assert sorted(json.load(answer)["tags"]) == ["a", "b"]


def test_images_go_by_digest(site: Site, client: Client) -> None:
    name = f"{site.open.host}/digested"
    digest, _ = put_image(site.open.host, "digested", "1", b"digested")
    shown = client.ok("pull", f"{name}@{digest}").splitlines()
    assert shown[0] == f"{name}@{digest}: Pulling from digested"
    assert shown[-3:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}@{digest}",
        f"{name}@{digest}",
    ]
    rows = [line.split() for line in client.ok("images", "--digests", name).splitlines()]
    assert rows[0][:4] == ["REPOSITORY", "TAG", "DIGEST", "IMAGE"]
    assert rows[1][:3] == [name, "<none>", digest]
    assert client.ok("rmi", f"{name}@{digest}").splitlines()[0] == f"Untagged: {name}@{digest}"
    assert client.ok("images", "-q", name) == ""


def test_failures_have_dockers_words(site: Site, client: Client) -> None:
    with CuttingProxy(site.open.port) as closed:
        host = closed.host
    assert client.fails("pull", f"{host}/x:1") == (
        f'Error response from daemon: Get "http://{host}/v2/": dial tcp {host}: connect: connection refused\n'
    )
    assert "An image does not exist locally with the tag: nothing/here\n" in client.fails(
        "push", "nothing/here"
    )
    assert client.fails("pull", "-a", f"{site.open.host}/nothing") == (
        f"Error response from daemon: repository {site.open.host}/nothing not found: "
        "name unknown: repository name not known to registry\n"
    )


# Progress and resumption


def test_a_pull_goes_on_where_a_killed_daemon_left_it(site: Site, client: Client, tmp_path: Path) -> None:
    content = random.Random(11).randbytes(12 << 20)
    put_image(site.open.host, "large", "1", content)
    with CuttingProxy(site.open.port) as proxy, EngineProcess(tmp_path / "killed") as engine:
        killed = Client(engine, tmp_path / "client")
        proxy.hold_down_at = 9 << 20
        pulling = subprocess.Popen(
            killed.command("pull", f"{proxy.host}/large:1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=killed.environment,
        )  # fmt: skip
        assert proxy.held.wait(30)
        partial = (
            engine.root / "content/ingest" / digest_of(gzip.compress(layer_tar(content), 1, mtime=0))[7:]
        )
        wait_for_bytes(partial, 7 << 20)
        engine.kill()
        out, err = pulling.communicate(timeout=30)
        assert pulling.returncode == 1, out
        assert "Traceback" not in err
        proxy.reset()
        engine.start()
        assert killed.ok("images", "-q") == ""
        assert "Pull complete" in killed.ok("pull", f"{proxy.host}/large:1")
        # 12 MiB, of which at least 7 were on disk: only the rest comes again.
        assert (3 << 20) < proxy.down < (5 << 20) + (1 << 17)
        assert killed.architecture(f"{proxy.host}/large:1") == "amd64"


def wait_for_bytes(path: Path, size: int) -> None:
    """A file that another process writes sends no event about its size: look until it is there."""
    pause = threading.Event()
    for _ in range(1000):
        if path.exists() and path.stat().st_size >= size:
            return
        pause.wait(0.01)
    raise AssertionError(f"{path} did not get {size} bytes")


def on_terminal(client: Client, *arguments: str) -> bytes:
    """What the command writes to a terminal of 200 columns."""
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "200", "rows", "50"], stdin=slave, check=True)
    with subprocess.Popen(
        client.command(*arguments), stdin=slave, stdout=slave, stderr=slave, env=client.environment
    ) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # EIO: the last one with the terminal open has gone
                break
            if not data:
                break
            written += data
        os.close(master)
        assert process.wait(30) == 0, written
    return written


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this."""
    lines: dict[int, str] = {}
    row = column = 0
    for piece in re.findall(r"\x1b\[\d*[ABK]|[\r\n]|[^\r\n\x1b]+", written):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
        elif piece.startswith("\x1b"):
            number = int(piece[2:-1] or 1)
            if piece[-1] == "K":
                lines[row] = ""
            else:
                row += number if piece[-1] == "B" else -number
        else:
            before = lines.get(row, "").ljust(column)
            lines[row] = before[:column] + piece + before[column + len(piece) :]
            column += len(piece)
    return [lines.get(one, "").rstrip() for one in range(max(lines) + 1)]


def test_a_terminal_shows_one_line_per_layer_with_a_bar(site: Site, client: Client) -> None:
    contents = (random.Random(1).randbytes(6 << 20), b"small layer")
    digest, _ = put_image(site.open.host, "bars", "1", *contents)
    name = f"{site.open.host}/bars:1"
    written = on_terminal(client, "pull", name).decode()
    ids = [short(content) for content in contents]
    # As Docker's client writes it: up to the line, clear it, the bar of 50 characters, down again.
    bar = rf"\x1b\[\d+A\x1b\[2K\r{ids[0]}: Downloading \[=*> *\] +[\d.]+[kM]?B/6\.29\d?MB\r\x1b\[\d+B"
    assert re.search(bar, written), written
    bars = re.findall(r"Downloading \[(=*>? *)\]", written)
    assert all(len(one) in (51, 50) for one in bars)
    assert written.startswith("1: Pulling from bars\r\n\r\n\x1b[1A\x1b[2K\r" + ids[0] + ": Pulling fs layer")
    assert screen(written) == [
        "1: Pulling from bars",
        *(f"{one}: Pull complete" for one in ids),
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}",
        name,
    ]


def test_a_terminal_shows_a_push_to_its_end(site: Site, client: Client) -> None:
    contents = (random.Random(2).randbytes(5 << 20), b"another small layer")
    digest, _ = put_image(site.open.host, "up", "1", *contents)
    client.ok("pull", "-q", f"{site.open.host}/up:1")
    with RealRegistry(client.directory.parent / "empty") as empty:
        client.ok("tag", f"{site.open.host}/up:1", f"{empty.host}/up:1")
        written = on_terminal(client, "push", f"{empty.host}/up:1").decode()
    top_first = [digest_of(layer_tar(content))[7:19] for content in reversed(contents)]
    assert re.search(rf"{top_first[1]}: Pushing \[={{50}}>\] +5\.24\d*MB/5\.24\d*MB\r", written), written
    shown = screen(written)
    assert shown[:3] == [
        f"The push refers to repository [{empty.host}/up]",
        *(f"{one}: Pushed" for one in top_first),
    ]
    assert re.fullmatch(rf"1: digest: {digest} size: \d+", shown[3])


def test_plain_output_has_one_line_for_each_step_and_no_bars(site: Site, client: Client) -> None:
    digest, _ = put_image(site.open.host, "plain", "1", b"plain")
    name = f"{site.open.host}/plain:1"
    layer = short(b"plain")
    assert client.ok("pull", name).splitlines() == [
        "1: Pulling from plain",
        f"{layer}: Pulling fs layer",
        f"{layer}: Verifying Checksum",
        f"{layer}: Download complete",
        f"{layer}: Pull complete",
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}",
        name,
    ]
    client.ok("tag", name, f"{site.open.host}/plain:2")
    shown = client.ok("push", f"{site.open.host}/plain:2").splitlines()
    assert shown[0] == f"The push refers to repository [{site.open.host}/plain]"
    assert shown[1:3] == [
        f"{digest_of(layer_tar(b'plain'))[7:19]}: Preparing",
        f"{digest_of(layer_tar(b'plain'))[7:19]}: Layer already exists",
    ]
    assert re.fullmatch(rf"2: digest: {digest} size: \d+", shown[3])
