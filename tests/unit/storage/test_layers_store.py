"""The layer store: nothing half-made is ever visible."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Invalid, NotFound, SampanError, Unavailable, Unsupported
from sampan.oci.digest import Digest, digest_of
from sampan.oci.media import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from sampan.storage.extract import CALLER, ExtractOptions, extract_tar
from sampan.storage.layer_ingest import LayerLimits
from sampan.storage.layers import LayerStore
from sampan.storage.tar_format import TarLimits


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


PLAIN = archive({"a": b"x" * 5000, "d/b": b"y"})
DIFF_ID = digest_of(PLAIN)


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "layers")


def visible(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "layers")


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (OCI_LAYER, PLAIN),
        (OCI_LAYER_GZIP, gzip.compress(PLAIN)),
        (OCI_LAYER_GZIP, gzip.compress(PLAIN[:700]) + gzip.compress(PLAIN[700:])),
        (OCI_LAYER_ZSTD, zstandard.compress(PLAIN)),
        (OCI_LAYER, gzip.compress(PLAIN)),  # wrong media types are common
    ],
)
def test_a_layer_is_stored_whatever_its_compression(store: LayerStore, media_type: str, data: bytes) -> None:
    with store.ingest(media_type, DIFF_ID) as ingest:
        for at in range(0, len(data), 100):
            ingest.write(data[at : at + 100])
        layer = ingest.commit()
    assert (layer.diff_id, layer.size, layer.entries) == (DIFF_ID, 5001, 3)
    assert store.has(DIFF_ID)
    assert store.get(DIFF_ID) == layer
    assert store.size(DIFF_ID) == 5001
    assert list(store.digests()) == [DIFF_ID]
    mount = store.mount_of(DIFF_ID)
    assert mount.kind == "erofs"
    assert Path(mount.path).read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"


def test_the_diff_id_covers_everything_up_to_the_last_byte(store: LayerStore) -> None:
    data = PLAIN + bytes(70000) + b"trailing garbage"
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(gzip.compress(data))
        assert ingest.commit().diff_id == digest_of(data)


def test_an_empty_stream_is_an_empty_layer(store: LayerStore) -> None:
    empty = Digest("sha256:" + hashlib.sha256(b"").hexdigest())
    with store.ingest(OCI_LAYER, empty) as ingest:
        assert ingest.commit().size == 0
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(bytes(1024))
        assert ingest.commit().diff_id == digest_of(bytes(1024))


def test_a_wrong_diff_id_leaves_nothing(store: LayerStore, tmp_path: Path) -> None:
    ingest = store.ingest(OCI_LAYER, digest_of(b"other"))
    ingest.write(PLAIN)
    with pytest.raises(Invalid, match="wrong diff id"):
        ingest.commit()
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(PLAIN)[:-20],
        gzip.compress(PLAIN[:5000]),
        gzip.compress(archive({"../escape": b""})),
        gzip.compress(b"no tar" * 500),
        b"\x1f\x8b" + bytes(100),
    ],
)
@pytest.mark.parametrize("prefer", ["erofs", "dir"])
def test_a_bad_stream_leaves_nothing_and_the_next_try_succeeds(
    tmp_path: Path, data: bytes, prefer: str
) -> None:
    store = LayerStore(tmp_path / "layers", prefer="dir" if prefer == "dir" else "erofs")
    with pytest.raises(Invalid), store.ingest(OCI_LAYER_GZIP, DIFF_ID) as ingest:
        ingest.write(data)
        ingest.commit()
    assert visible(tmp_path) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("layer-")]
    if prefer == "erofs":
        with store.ingest(OCI_LAYER_GZIP, DIFF_ID) as ingest:
            ingest.write(gzip.compress(PLAIN))
            ingest.commit()
        assert store.has(DIFF_ID)


def test_a_bad_stream_is_noticed_before_its_end(store: LayerStore) -> None:
    endless = archive({"../escape": b""}) + bytes(1 << 20)
    with store.ingest(OCI_LAYER) as ingest, pytest.raises(Invalid, match="outside"):
        for _ in range(1000):
            ingest.write(endless)


def test_leaving_without_commit_leaves_nothing(store: LayerStore, tmp_path: Path) -> None:
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(PLAIN)
    assert visible(tmp_path) == []
    ingest.abort()


def test_a_layer_that_is_there_is_not_read_again(store: LayerStore) -> None:
    for data in (PLAIN, b"anything"):
        with store.ingest(OCI_LAYER, DIFF_ID) as ingest:
            ingest.write(data)
            assert ingest.commit().diff_id == DIFF_ID


def test_two_at_once_of_the_same_layer_both_succeed(store: LayerStore, tmp_path: Path) -> None:
    first, second = store.ingest(OCI_LAYER, DIFF_ID), store.ingest(OCI_LAYER, DIFF_ID)
    for ingest in (first, second):
        ingest.write(PLAIN)
    assert first.commit() == second.commit()
    assert visible(tmp_path) == [DIFF_ID[7:]]


def test_limits_hold_for_what_is_decompressed(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers", limits=LayerLimits(plain_size=1 << 20, tar=TarLimits(members=1)))
    with pytest.raises(Invalid, match="larger than"), store.ingest(OCI_LAYER_GZIP) as ingest:
        ingest.write(gzip.compress(archive({"zeros": bytes(5 << 20)})))
        ingest.commit()
    with pytest.raises(Invalid, match="more than 1 members"), store.ingest(OCI_LAYER_GZIP) as ingest:
        ingest.write(PLAIN)
        ingest.commit()


def test_what_a_killed_process_left_is_invisible_and_swept(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from sampan.storage.layers import LayerStore\n"
        "ingest = LayerStore(Path(sys.argv[1])).ingest('tar')\n"
        "ingest.write(sys.stdin.buffer.read())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "layers"], input=PLAIN + bytes(3 << 20), check=False
    )
    assert done.returncode == -9
    assert len(visible(tmp_path)) == 1
    store = LayerStore(tmp_path / "layers")
    assert list(store.digests()) == []
    assert not store.has(DIFF_ID)
    store.sweep()
    assert visible(tmp_path) == []


def test_sweeping_keeps_complete_layers(store: LayerStore) -> None:
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(PLAIN)
        ingest.commit()
    store.sweep()
    assert store.has(DIFF_ID)


def test_removing_is_idempotent_and_unknown_layers_are_named(store: LayerStore, tmp_path: Path) -> None:
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(PLAIN)
        ingest.commit()
    store.remove(DIFF_ID)
    store.remove(DIFF_ID)
    assert visible(tmp_path) == []
    for call in (store.get, store.size, store.mount_of, store.reproducible):
        with pytest.raises(NotFound, match=DIFF_ID):
            call(DIFF_ID)


def test_an_adopted_tree_is_moved_and_gives_its_tar_again(store: LayerStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f").write_bytes(b"hello")
    inode = (tree / "d" / "f").stat().st_ino
    layer = store.adopt_tree(tree)
    assert not tree.exists()
    assert (layer.size, layer.entries) == (5, 2)
    mount = store.mount_of(layer.diff_id)
    assert mount.kind == "dir"
    assert Path(mount.path, "d", "f").stat().st_ino == inode
    out = io.BytesIO()
    assert store.reproducible(layer.diff_id)
    store.tar(layer.diff_id, out)
    assert digest_of(out.getvalue()) == layer.diff_id
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["d", "d/f"]


def test_an_empty_upper_directory_is_a_valid_layer(store: LayerStore, tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "upper").mkdir()
        layer = store.adopt(tmp_path / "upper")
        assert layer.diff_id == digest_of(bytes(1024))
        assert not (tmp_path / "upper").exists()


def test_a_layer_that_came_as_a_tar_has_no_tar_of_its_own(store: LayerStore) -> None:
    with store.ingest(OCI_LAYER) as ingest:
        ingest.write(PLAIN)
        ingest.commit()
    assert not store.reproducible(DIFF_ID)
    with pytest.raises(Unsupported):
        store.tar(DIFF_ID, io.BytesIO())


def test_a_full_disk_is_told_as_such_and_leaves_nothing(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, buffers: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(Unavailable, match="No space left on device"), store.ingest(OCI_LAYER) as ingest:
        ingest.write(PLAIN + bytes(3 << 20))
        ingest.commit()
    assert visible(tmp_path) == []


def hostile_samples() -> list[bytes]:
    """Small archives with every feature, to be damaged."""
    samples = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, type_, link, body in (
                ("d/", tarfile.DIRTYPE, "", b""),
                ("d/" + "f" * 90, tarfile.REGTYPE, "", b"x" * 1500),
                ("d/s", tarfile.SYMTYPE, "../d", b""),
                ("d/s/h", tarfile.LNKTYPE, "d/" + "f" * 90, b""),
                (".wh.gone", tarfile.REGTYPE, "", b""),
                ("p", tarfile.FIFOTYPE, "", b""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size, info.mode = type_, link, len(body), 0o755
                if kind == tarfile.PAX_FORMAT:
                    info.pax_headers = {"SCHILY.xattr.user.x": "v", "mtime": "1.5"}
                tar.addfile(info, io.BytesIO(body))
        samples.append(out.getvalue())
    return samples


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_gives_a_sound_image(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    archive = bytearray(data.draw(st.sampled_from(hostile_samples())))
    for _ in range(data.draw(st.integers(1, 5))):
        block = data.draw(st.integers(0, len(archive) // 512 - 4)) * 512
        at = block + data.draw(
            st.sampled_from([0, 1, 2, 3, 100, 107, 108, 116, 124, 134, 136, 156, 157, 158, 257, 345])
        )
        archive[at] = data.draw(st.sampled_from(b"\0 0127-=./dxLKS\n\x80\xff"))
        archive[block + 148 : block + 156] = b" " * 8
        archive[block + 148 : block + 156] = b"%06o\0 " % sum(archive[block : block + 512])
    top = tmp_path_factory.mktemp("damaged")
    store = LayerStore(top / "layers")
    try:
        with store.ingest(OCI_LAYER) as ingest:
            ingest.write(bytes(archive))
            image = store.mount_of(ingest.commit().diff_id).path
        if fsck := shutil.which("fsck.erofs"):
            subprocess.run([fsck, "--extract", image], check=True, capture_output=True)
    except SampanError:
        assert os.listdir(top / "layers") == []
    (top / "x").mkdir()
    fd = os.open(top / "x", os.O_RDONLY)
    try:
        extract_tar([bytes(archive)], fd, ExtractOptions(owner=CALLER, devices=False))
    except SampanError:
        pass
    finally:
        os.close(fd)
    shutil.rmtree(top)
