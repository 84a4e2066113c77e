"""Build caches in a directory of the client's: both sides of the session, over a socket, on real (tiny) stores."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.build.cache_options import parse_cache_from, parse_cache_to
from sampan.build.events import VertexWarning
from sampan.build.session import ClientSession
from sampan.build.solver.cache import CacheEntry
from sampan.build.solver.remote_format import decode
from sampan.build.solver.transfer import CacheLost, Seen
from sampan.build.worker import CacheWish
from sampan.cli.build.cache_directory import CacheDirectory
from sampan.cli.build.session import BuildSession
from sampan.client.address import parse_address
from sampan.engine.build_sessions import LinkedClient
from sampan.engine.cache_leases import CacheLeases
from sampan.engine.cache_mounts import CacheMounts, name_of
from sampan.engine.cache_transfer import BuildCaches
from sampan.errors import Invalid, SampanError, Unavailable
from sampan.multiplex.link import Link, Stream
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import Descriptor
from sampan.storage.content import ContentStore
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata

WHEN = "2026-01-02T03:04:05.000006Z"
KEY, OTHER = "a" * 64, "b" * 64
CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"


class _Client:
    """What `BuildSession` needs of a client: it connects to nobody but this test."""

    def __init__(self) -> None:
        self.address = parse_address("unix:///nowhere")
        self.ours, self.theirs = socket.socketpair()

    def hijack(self, _path: str, _query: object, protocol: str) -> object:
        assert protocol
        return type("Hijacked", (), {"sock": self.theirs, "preread": b""})()


class Engine:
    """A store, and a build's session with a client that offers `directory` for reading and for writing."""

    def __init__(self, root: Path, directory: Path, tag: str = "latest", *, pruned: bool = False) -> None:
        self.metadata = Metadata(root)
        self.store = ImageStore(ContentStore(root / "content"), LayerStore(root / "layers"), self.metadata)
        self.reported: list[Any] = []
        self.touched: list[str] = []
        self.connection = _Client()
        reading = CacheDirectory(str(directory), "latest", writable=False)
        writing = CacheDirectory(str(directory), tag, writable=True, pruned=pruned)
        offers = {("cache", "in"): reading.serve, ("cache", "out"): writing.serve}
        self._session = BuildSession(cast(Any, self.connection), offers)
        self._link = Link(self.connection.ours, name="the build's client")
        self.client: ClientSession = LinkedClient(self._link)
        images = cast(Any, SimpleNamespace(store=self.store))
        self.mounts = CacheMounts(root / "caches", self.metadata, lambda _name: False)
        self.leases = CacheLeases(self.mounts)
        self.caches = BuildCaches(images, {}, self.client, self.mounts, self.leases, self.touched.append)

    def layer(self, content: bytes) -> Digest:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        return ingest_tar(self.store, [out.getvalue()]).diff_id

    def export(
        self, records: dict[str, CacheEntry], more: str = ",mode=max", mounts: frozenset[str] = frozenset()
    ) -> None:
        target = parse_cache_to(f"type=local,dest=d,id=out{more}")
        self.caches.save(target, Seen(records, (), mounts), self.reported.append, threading.Event())

    def load(self, more: str = "") -> list[str]:
        """The warnings."""
        self.reported.clear()
        source = parse_cache_from(f"type=local,src=d,id=in{more}")
        self.caches.load([source], self.reported.append, threading.Event())
        return self.warnings()

    def warnings(self) -> list[str]:
        return [one.short for one in self.reported if isinstance(one, VertexWarning)]

    @contextlib.contextmanager
    def mount(self, wish: CacheWish) -> Iterator[Path]:
        """As a step has it."""
        cancelled = threading.Event()
        with self.leases.lease(wish, lambda _name: None, cancelled, self.caches.fill_mount) as directory:
            yield Path(f"/proc/self/fd/{directory}")

    def close(self) -> None:
        self._session.close()
        self._link.close()
        self.metadata.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(**options: Any) -> Engine:
        made.append(Engine(tmp_path / f"engine{len(made)}", tmp_path / "cache", **options))
        return made[-1]

    yield engine
    for one in made:
        one.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def blob(cache: Path, digest: str) -> Path:
    return cache / "blobs" / "sha256" / digest.removeprefix("sha256:")


def manifest(cache: Path) -> Any:
    return document(blob(cache, document(cache / "index.json")["manifests"][-1]["digest"]))


def files(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if not path.is_dir()}


def test_a_fresh_engine_takes_from_the_directory_what_another_has_exported(
    make: Callable[..., Engine], cache: Path
) -> None:
    first, second = make(), make()
    layer = first.layer(b"made by RUN" * 1000)
    first.export({KEY: CacheEntry(WHEN, layer, step="RUN make"), OTHER: CacheEntry(WHEN)})
    assert second.load() == []
    assert second.caches.find(KEY) == CacheEntry(WHEN, layer, step="RUN make")
    assert not second.store.layers.has(layer)  # it comes when it is needed
    second.caches.ensure((layer,))
    assert second.store.layers.has(layer)
    assert second.store.blob_for(layer) is not None
    # image-spec image-layout.md
    assert document(cache / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    entry = document(cache / "index.json")["manifests"][0]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest(cache)["config"]["mediaType"] == CONFIG_TYPE
    assert manifest(cache)["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    for path in (cache / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert {name.split("/")[0] for name in files(cache)} == {"oci-layout", "index.json", "blobs"}


def test_blobs_that_are_there_stay_and_a_broken_one_is_written_again(
    make: Callable[..., Engine], cache: Path
) -> None:
    engine = make()
    records = {KEY: CacheEntry(WHEN, engine.layer(b"one" * 999))}
    engine.export(records)
    path = blob(cache, manifest(cache)["layers"][0]["digest"])
    before, content = path.stat(), path.read_bytes()
    engine.export(records)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(content[:10])
    engine.export(records)
    assert path.read_bytes() == content


def test_a_build_that_has_nothing_to_export_leaves_the_cache_as_it_was(
    make: Callable[..., Engine], cache: Path
) -> None:
    engine = make()
    engine.export({KEY: CacheEntry(WHEN)})
    before = (cache / "index.json").read_bytes()
    engine.export({OTHER: CacheEntry("", content="a checksum that is remembered")})
    assert (cache / "index.json").read_bytes() == before


def test_what_no_manifest_has_goes_when_that_is_asked_for(make: Callable[..., Engine], cache: Path) -> None:
    first, other, pruning = make(), make(tag="other"), make(pruned=True)
    layers = [first.layer(text * 99) for text in (b"one", b"two")]
    for layer in layers:
        first.export({KEY: CacheEntry(WHEN, layer)})
    other.export({OTHER: CacheEntry(WHEN, other.layer(b"three"))}, ",mode=max,tag=other")
    before = files(cache)
    kept = pruning.layer(b"two" * 99)
    pruning.export({KEY: CacheEntry(WHEN, kept)})
    # Of the older export its manifest, configuration and layer went; the other tag and what is shared stay.
    assert len(before - files(cache)) == 3
    reader = make()
    assert reader.load() == reader.load(",tag=other") == []
    reader.caches.ensure((kept,))
    assert reader.store.layers.has(kept)
    # Where a manifest can't be read nobody knows what belongs to it.
    entry = document(cache / "index.json")["manifests"][0]
    blob(cache, entry["digest"]).write_bytes(b"[]")
    lost = cache / "blobs" / "sha256" / ("0" * 64)
    lost.touch()
    pruning.export({OTHER: CacheEntry(WHEN)})
    assert lost.exists()


def test_a_cache_that_lost_a_blob_while_it_was_exported_gets_no_name(
    make: Callable[..., Engine], cache: Path
) -> None:
    engine = make()
    engine.export({KEY: CacheEntry(WHEN, engine.layer(b"one"))})
    before, digest = (
        (cache / "index.json").read_bytes(),
        document(cache / "index.json")["manifests"][0]["digest"],
    )
    blob(cache, manifest(cache)["layers"][0]["digest"]).unlink()
    stream = engine.client.cache("out")
    stream.write(json.dumps({"ask": "name", "manifest": {"digest": digest}}).encode() + b"\n")
    stream.end()
    with pytest.raises(Invalid, match=r"was removed from .* while the cache was exported"):
        stream.read()
    assert (cache / "index.json").read_bytes() == before


def test_a_tag_is_replaced_and_others_stay_and_each_can_be_taken_by_its_digest(
    make: Callable[..., Engine], cache: Path
) -> None:
    first, tagged, reader = make(), make(tag="branch"), make()
    first.export({KEY: CacheEntry(WHEN)})
    old = document(cache / "index.json")["manifests"][0]["digest"]
    tagged.export({OTHER: CacheEntry(WHEN)}, ",mode=max,tag=branch")
    first.export({KEY: CacheEntry(WHEN), OTHER: CacheEntry(WHEN)})
    entries = document(cache / "index.json")["manifests"]
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in entries] == [
        "branch",
        "latest",
    ]
    assert reader.load(",tag=branch") == []
    assert (reader.caches.find(KEY), reader.caches.find(OTHER)) == (None, CacheEntry(WHEN))
    reader.caches.forget()
    assert reader.load(f",digest={old}") == []
    assert (reader.caches.find(KEY), reader.caches.find(OTHER)) == (CacheEntry(WHEN), None)


@pytest.mark.parametrize(
    ("options", "manifest_type", "layer_type"),
    [
        ("compression=zstd", "image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("compression=uncompressed", "image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar"),
        ("image-manifest=false", "image.index.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "oci-mediatypes=false",
            "manifest.list.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ],
)
def test_the_forms_are_those_of_buildkit_and_each_can_be_read(
    make: Callable[..., Engine], cache: Path, options: str, manifest_type: str, layer_type: str
) -> None:
    first, second = make(), make()
    layer = first.layer(b"text " * 5000)
    # Layers that came as a tar are another program's, and keep their form unless it is forced.
    first.export({KEY: CacheEntry(WHEN, layer)}, f",mode=max,force-compression=true,{options}")
    written = manifest(cache)
    assert written["mediaType"].endswith(manifest_type)
    members = written.get("layers") or written["manifests"]
    assert members[0]["mediaType"] == layer_type
    assert second.load() == []
    second.caches.ensure((layer,))
    assert second.store.layers.has(layer)
    # What was made for this form alone is not kept.
    own = first.store.blob_for(layer)
    assert own is not None
    assert first.store.content.has(members[0]["digest"]) == (members[0]["digest"] == own.digest)


def test_compression_levels_count(make: Callable[..., Engine], cache: Path) -> None:
    engine = make()
    records = {KEY: CacheEntry(WHEN, engine.layer(" ".join(str(n * n) for n in range(30_000)).encode()))}
    sizes = []
    for level in (1, 19):
        engine.export(records, f",mode=max,compression=zstd,compression-level={level},force-compression=true")
        sizes.append(manifest(cache)["layers"][0]["size"])
    assert sizes[0] > sizes[1]


def _fifo(cache: Path) -> None:
    (cache / "index.json").unlink()
    os.mkfifo(cache / "index.json")


def _cut(cache: Path) -> None:
    path = blob(cache, document(cache / "index.json")["manifests"][0]["digest"])
    path.write_bytes(path.read_bytes()[:-5])


def _swapped(cache: Path) -> None:
    path = blob(cache, manifest(cache)["config"]["digest"])
    path.write_bytes(path.read_bytes().replace(b"RUN", b"EVL"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda cache: (cache / "index.json").unlink(), "no such file or directory"),
        (lambda cache: (cache / "index.json").write_text("{"), "malformed"),
        (lambda cache: (cache / "index.json").write_text('{"manifests":[]}'), "no tag latest"),
        (lambda cache: (cache / "index.json").write_bytes(b" " * (5 << 20)), "more than"),
        (_fifo, "no regular file"),
        (_cut, "other bytes"),
        (_swapped, "other bytes"),
        (
            lambda cache: blob(cache, document(cache / "index.json")["manifests"][0]["digest"]).unlink(),
            "no such file",
        ),
    ],
)
def test_a_directory_that_is_damaged_is_a_warning(
    make: Callable[..., Engine], cache: Path, damage: Callable[[Path], object], words: str
) -> None:
    first, second = make(), make()
    first.export({KEY: CacheEntry(WHEN, first.layer(b"x"), step="RUN x")})
    damage(cache)
    (warning,) = second.load()
    assert warning.startswith("no cache from local:d: ")
    assert words in warning
    assert second.caches.find(KEY) is None


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"0", lambda raw: b"0" * len(raw)]
)
def test_a_layer_with_other_bytes_than_promised_is_no_layer(
    make: Callable[..., Engine], cache: Path, change: Callable[[bytes], bytes]
) -> None:
    first, second = make(), make()
    layer = first.layer(b"content" * 100)
    first.export({KEY: CacheEntry(WHEN, layer)})
    path = blob(cache, manifest(cache)["layers"][0]["digest"])
    path.write_bytes(change(path.read_bytes()))
    assert second.load() == []
    with pytest.raises(CacheLost):
        second.caches.ensure((layer,))
    assert not second.store.layers.has(layer)


def test_a_layer_that_is_none_of_the_promised_content_is_refused(
    make: Callable[..., Engine], cache: Path
) -> None:
    """A cache whose configuration gives a good blob another diff-id, with all digests right."""
    first, second = make(), make()
    good, evil = first.layer(b"good"), first.layer(b"evil")
    first.export({KEY: CacheEntry(WHEN, evil)})
    written = manifest(cache)
    config = document(blob(cache, written["config"]["digest"]))
    config["layers"][0]["annotations"]["diffID"] = good
    entry = document(cache / "index.json")["manifests"][0]
    for place, value in ((written["config"], config), (entry, written)):
        raw = json.dumps(value).encode()
        place.update(digest="sha256:" + hashlib.sha256(raw).hexdigest(), size=len(raw))
        blob(cache, place["digest"]).write_bytes(raw)
    (cache / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert second.load() == []
    with pytest.raises(CacheLost):
        second.caches.ensure((good,))
    assert not second.store.layers.has(good)


def test_an_index_that_is_something_else_is_not_overwritten(make: Callable[..., Engine], cache: Path) -> None:
    cache.mkdir()
    (cache / "index.json").write_text('["mine"]')
    with pytest.raises(SampanError, match="is no image index"):
        make().export({KEY: CacheEntry(WHEN)})
    assert (cache / "index.json").read_text() == '["mine"]'


def test_a_client_that_ends_in_the_middle_leaves_the_cache_as_it_was_and_the_next_one_sweeps(
    make: Callable[..., Engine], cache: Path
) -> None:
    first, second = make(), make()
    first.export({KEY: CacheEntry(WHEN)})
    before = (cache / "index.json").read_bytes()
    stream = first.client.cache("out")
    raw = b"blob" * 1000
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    stream.write(json.dumps({"ask": "store", "digest": digest, "size": len(raw)}).encode() + b"\n" + raw[:9])
    first.connection.theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Unavailable):
        while True:
            stream.read()
    assert (cache / "index.json").read_bytes() == before
    assert not blob(cache, digest).exists()
    # One that was killed can't clean up; one that is at work has a lock.
    (cache / "ingest" / "sampan-dead").write_bytes(b"half")
    with open(cache / "ingest" / "sampan-alive", "wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        second.export({OTHER: CacheEntry(WHEN)})
    assert not (cache / "ingest" / "sampan-dead").exists()
    assert (cache / "ingest" / "sampan-alive").exists()


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("in", {"ask": "blob", "digest": "sha256:../../../secret"}),
        ("in", {"ask": "blob", "digest": "sha256:" + "A" * 64}),
        ("in", {"ask": "blob"}),
        ("in", {"ask": "store", "digest": "sha256:" + "0" * 64, "size": 0}),
        ("in", {"ask": "name", "manifest": {"digest": "x"}}),
        ("out", {"ask": "blob", "digest": "sha256:" + "0" * 64}),
        ("out", {"ask": "index"}),
        ("out", {"ask": "name", "manifest": "x"}),
        ("out", {"ask": "store", "digest": "sha256:" + "0" * 64, "size": 0}),
        ("in", ["index"]),
        ("in", "x" * 100_000),
    ],
)
def test_an_engine_gets_nothing_but_a_caches_files(
    make: Callable[..., Engine], cache: Path, name: str, question: object
) -> None:
    cache.mkdir()
    (cache.parent / "secret").write_text("secret")
    stream = make().client.cache(name)
    with pytest.raises(Invalid):
        stream.write(json.dumps(question).encode() + b"\n")
        stream.end()
        while stream.read():
            raise AssertionError("it answered")
    assert files(cache) == set()


def test_two_clients_that_export_at_the_same_time_leave_both_tags(
    make: Callable[..., Engine], cache: Path
) -> None:
    engines = [make(tag=f"t{number}") for number in range(4)]
    started = threading.Barrier(len(engines))

    def export(number: int) -> None:
        started.wait()
        for _ in range(5):
            engines[number].export({KEY: CacheEntry(WHEN)})

    threads = [threading.Thread(target=export, args=(number,)) for number in range(len(engines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = document(cache / "index.json")["manifests"]
    tags = {one["annotations"]["org.opencontainers.image.ref.name"] for one in entries}
    assert tags == {"t0", "t1", "t2", "t3"}
    assert not (cache / "index.json.lock").exists()


NPM = CacheWish("npm")


def _fill(engine: Engine, text: str, wish: CacheWish = NPM) -> None:
    with engine.mount(wish) as path:
        (path / "sub").mkdir(exist_ok=True)
        (path / "sub" / "file").write_text(text)


def _content(engine: Engine, wish: CacheWish = NPM) -> str | None:
    with engine.mount(wish) as path:
        file = path / "sub" / "file"
        return file.read_text() if file.exists() else None


def test_cache_mounts_come_along_when_that_is_asked_for(make: Callable[..., Engine], cache: Path) -> None:
    first, second, third = make(), make(), make()
    _fill(first, "packages")
    _fill(first, "of another project", CacheWish("other"))
    first.export({KEY: CacheEntry(WHEN)}, mounts=frozenset({"npm"}))
    assert second.load() == []
    assert _content(second) is None  # mounts=true was not said
    first.export({KEY: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"npm"}))
    assert third.load() == []
    assert _content(third) == "packages"
    assert _content(third, CacheWish("other")) is None
    assert _content(third, CacheWish("npm", mode=0o700)) is None  # one with another mode is another one
    # What an engine has of its own is newer, and stays.
    _fill(second, "newer")
    second.caches.forget()
    assert second.load() == []
    assert _content(second) == "newer"


def test_mounts_that_no_step_has_needed_stay_in_the_cache_unread(
    make: Callable[..., Engine], cache: Path
) -> None:
    first, second, third = make(), make(), make()
    _fill(first, "packages")
    first.export({KEY: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"npm"}))
    second.load()
    second.export({KEY: CacheEntry(WHEN), OTHER: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"npm"}))
    assert not second.mounts.list()
    assert not list(second.store.content.digests())
    third.load()
    assert third.caches.find(OTHER) is not None
    assert _content(third) == "packages"
    # One that the Dockerfile does not name any more goes.
    third.export({KEY: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"pip"}))
    assert manifest(cache)["layers"] == []


def test_layers_that_were_not_needed_stay_in_the_cache_unread(
    make: Callable[..., Engine], cache: Path
) -> None:
    first, second, third = make(), make(), make()
    layer = first.layer(b"made by RUN" * 1000)
    first.export({KEY: CacheEntry(WHEN, layer)})
    second.load()
    second.export({KEY: CacheEntry(WHEN, layer), OTHER: CacheEntry(WHEN)})
    assert not second.store.layers.has(layer)
    third.load()
    third.caches.ensure((layer,))
    assert third.store.layers.has(layer)


def test_a_new_mount_has_its_owner_and_mode_whatever_the_cache_says(make: Callable[..., Engine]) -> None:
    first, second = make(), make()
    wish = CacheWish("npm", mode=0o700, uid=os.getuid(), gid=os.getgid())
    _fill(first, "packages", wish)
    first.export({KEY: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"npm"}))
    second.load()
    with second.mount(wish) as path:
        assert path.stat().st_mode & 0o7777 == 0o700
        assert (path / "sub" / "file").read_text() == "packages"


def _hostile(kind: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("first"))
        entry = tarfile.TarInfo("device")
        entry.type = kind
        archive.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize("content", [_hostile(tarfile.CHRTYPE), _hostile(tarfile.FIFOTYPE), b"no tar at all"])
def test_a_mount_that_cannot_be_unpacked_begins_empty(
    make: Callable[..., Engine], cache: Path, content: bytes
) -> None:
    first, second = make(), make()
    _fill(first, "packages")
    first.export({KEY: CacheEntry(WHEN)}, ",mounts=true", mounts=frozenset({"npm"}))
    written = manifest(cache)
    config = document(blob(cache, written["config"]["digest"]))
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    blob(cache, digest).write_bytes(content)
    written["layers"] = [{"mediaType": "application/x-tar", "digest": digest, "size": len(content)}]
    config["sampan.mounts"][0]["blob"] = digest
    entry = document(cache / "index.json")["manifests"][0]
    for place, value in ((written["config"], config), (entry, written)):
        raw = json.dumps(value).encode()
        place.update(digest="sha256:" + hashlib.sha256(raw).hexdigest(), size=len(raw))
        blob(cache, place["digest"]).write_bytes(raw)
    (cache / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert second.load() == []
    with second.mount(NPM) as path:
        assert list(path.iterdir()) == []
    assert "the cache mount npm was not imported" in second.warnings()[0]
    assert not second.store.content.has(Digest(digest))


def test_a_mount_is_packed_when_no_step_has_it(make: Callable[..., Engine], cache: Path) -> None:
    engine = make()
    _fill(engine, "packages")
    exporting = threading.Thread(
        target=engine.export, args=({KEY: CacheEntry(WHEN)}, ",mounts=true", frozenset({"npm"}))
    )
    with engine.mount(NPM) as path:
        exporting.start()
        exporting.join(0.3)
        assert exporting.is_alive()
        (path / "sub" / "file").write_text("complete")
    exporting.join()
    assert engine.touched == [name_of("npm")]  # no collection takes it away meanwhile
    second = make()
    second.load()
    assert _content(second) == "complete"


@pytest.mark.parametrize(
    "mount",
    [
        {"name": "../../etc", "id": "npm"},
        {"name": "a" * 64, "id": "x" * 5000},
        {"name": "a" * 64, "id": "npm", "blob": "sha256:" + "0" * 64},
    ],
)
def test_a_mount_that_says_nonsense_is_left_out(mount: dict[str, str]) -> None:
    kept = Descriptor("application/x-tar", digest_of(b"tar"), 3)
    config = {"layers": [], "records": [], "sampan.mounts": [{"blob": kept.digest, **mount}]}
    assert decode(json.dumps(config).encode(), [kept]).mounts == {}
    with pytest.raises(Invalid):
        decode(json.dumps({**config, "sampan.mounts": [config["sampan.mounts"][0]] * 257}).encode(), [kept])  # type: ignore[index]


@pytest.mark.parametrize("ask", ["index", "blob", "layer"])
def test_a_client_that_sends_without_end_is_cut_off(
    make: Callable[..., Engine], cache: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    first, second = make(), make()
    layer = first.layer(b"content")
    first.export({KEY: CacheEntry(WHEN, layer)})
    names = {"index": "index.json", "blob": "blobs", "layer": manifest(cache)["layers"][0]["digest"][7:]}
    send = CacheDirectory._send

    def endless(directory: CacheDirectory, stream: Stream, name: str) -> None:
        while names[ask] in name:
            stream.write(bytes(1 << 16))
        send(directory, stream, name)

    monkeypatch.setattr(CacheDirectory, "_send", endless)
    warnings = second.load()
    assert len(warnings) == (ask != "layer")
    if ask == "layer":
        with pytest.raises(CacheLost, match="more than the expected"):
            second.caches.ensure((layer,))
    else:
        assert "more than" in warnings[0]
