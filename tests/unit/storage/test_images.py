"""The image store: names, removal and collection, over real (tiny) layers."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampan.errors import Conflict, Invalid, NotFound, Unavailable
from sampan.oci import media
from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults, History, ImageConfig, RootFS
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import parse_reference
from sampan.storage import image_data
from sampan.storage.content import ContentStore
from sampan.storage.image_model import MISSING, chain_ids
from sampan.storage.image_trial import ImageTrial
from sampan.storage.images import Image, ImageStore, Use
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata, Table
from sampan.storage.removal import remove_tree


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.open()

    def open(self) -> None:
        self.metadata = Metadata(self.root)
        self.content = ContentStore(self.root / "content")
        self.layers = LayerStore(self.root / "layers")
        self.images = ImageStore(self.content, self.layers, self.metadata)

    def restart(self) -> None:
        self.metadata.close()
        self.open()

    def layer(self, content: bytes) -> Digest:
        return ingest_tar(self.images, [tar_of(content)]).diff_id

    def image(self, *contents: bytes, names: tuple[str, ...] = (), **fields: object) -> Image:
        layers = tuple(self.layer(content) for content in contents)
        config = ImageConfig("amd64", "linux", RootFS(layers), **fields)  # type: ignore[arg-type]
        return self.images.create(config, names=[parse_reference(name) for name in names])


def tar_of(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.metadata.close()


def test_an_image_is_found_by_every_way_to_write_its_name(store: Store) -> None:
    image = store.image(b"1", names=("app",))
    store.images.tag(image.id, parse_reference("app@sha256:" + "d" * 64))
    for name in (
        "app", "app:latest", "library/app", "docker.io/library/app:latest", image.id, image.id[7:],
        image.id[7:19], image.id[:12], "app@sha256:" + "d" * 64, "app:other@sha256:" + "d" * 64,
    ):  # fmt: skip
        assert store.images.get(name).id == image.id, name


@pytest.mark.parametrize(
    ("name", "shown"),
    [("nothing", "nothing:latest"), ("app:v9", "app:v9"), ("localhost:5000/x", "localhost:5000/x:latest")],
)
def test_an_unknown_image_is_reported_in_dockers_words(store: Store, name: str, shown: str) -> None:
    store.image(b"1", names=("app:v1",))
    with pytest.raises(NotFound) as caught:
        store.images.get(name)
    assert caught.value.message == f"No such image: {shown}"


def test_a_prefix_that_fits_several_ids_names_none_of_them(store: Store) -> None:
    for number in range(17):  # seventeen ids: two begin with the same digit
        store.image(b"same", author=str(number))
    first = [image.id[7] for image in store.images.list()]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(NotFound, match=f"No such image: {twice}:latest") as caught:
        store.images.get(twice)
    assert "begins" in caught.value.hint or "begin" in caught.value.hint


def test_a_name_goes_before_an_id_that_begins_the_same(store: Store) -> None:
    first = store.image(b"1")
    second = store.image(b"2", names=(first.id[7:15],))
    assert store.images.get(first.id[7:15]).id == second.id


def test_everything_is_there_after_a_restart(store: Store) -> None:
    image = store.image(b"1", b"2", names=("app:v1", "app:v2"))
    blob = store.images.blob_for(image.diff_ids[0])
    store.restart()
    assert store.images.get("app:v1") == image
    assert blob is not None
    assert store.images.blob_for(image.diff_ids[0]) == blob


def test_a_tag_moves_and_the_image_that_had_it_is_left_dangling(store: Store) -> None:
    old = store.image(b"1", names=("app",))
    new = store.image(b"2")
    assert store.images.tag(new.id, parse_reference("app")) == old.id
    assert store.images.get("app").id == new.id
    assert store.images.get(old.id).dangling


def test_an_image_needs_all_its_layers(store: Store) -> None:
    missing = Digest("sha256:" + "0" * 64)
    with pytest.raises(Conflict, match=missing):
        store.images.create(ImageConfig("amd64", "linux", RootFS((missing,))))
    assert store.images.list() == []


def test_a_manifest_with_another_number_of_layers_is_refused(store: Store) -> None:
    image = store.image(b"1", b"2")
    blob = Descriptor(media.OCI_LAYER_GZIP, image.id, 1)
    with pytest.raises(Invalid, match="the manifest has 1 layers, the configuration 2"):
        store.images.register(image.config_raw, blobs=[blob])


def test_removing_the_last_name_frees_layers_and_blobs_that_no_other_image_has(store: Store) -> None:
    kept = store.image(b"shared", names=("kept",))
    gone = store.image(b"shared", b"own" * 100, names=("gone",))
    removal = store.images.remove("gone")
    chains = chain_ids(gone.diff_ids)
    assert removal.records() == [
        {"Untagged": "gone:latest"},
        {"Deleted": gone.id},
        {"Deleted": chains[1]},
    ]
    assert removal.layers == (gone.diff_ids[1],)
    assert removal.freed >= 300
    assert list(store.layers.digests()) == [kept.diff_ids[0]]
    assert len(list(store.content.digests())) == 1
    with pytest.raises(NotFound):
        store.images.get(gone.id)


def test_layers_that_containers_or_running_work_need_are_not_collected(store: Store) -> None:
    image = store.image(b"1", b"2", b"3", names=("app",))
    store.images.layer_roots = lambda: [image.diff_ids[0]]
    with store.images.hold([image.diff_ids[1]]):
        store.images.remove("app", force=True)
        assert set(store.layers.digests()) == set(image.diff_ids[:2])


def test_layers_of_images_that_were_removed_during_other_work_go_with_its_end(store: Store) -> None:
    image = store.image(b"4", b"5", names=("app",))
    with store.images.no_collection():
        with store.images.no_collection():
            store.images.remove("app")
        assert all(store.layers.has(one) for one in image.diff_ids)
        store.images.layer_roots = lambda: [image.diff_ids[0]]  # the work has found a use for it
    assert list(store.layers.digests()) == [image.diff_ids[0]]
    assert len(list(store.content.digests())) == 1


def test_work_holds_what_it_needs_and_only_that(store: Store) -> None:
    needed, other = store.image(b"7", names=("app",)), store.image(b"8", names=("other",))
    with store.images.holding() as hold:
        hold(needed.diff_ids)
        hold(needed.diff_ids)  # learnt of twice
        store.images.remove("app")
        store.images.remove("other")
        assert list(store.layers.digests()) == list(needed.diff_ids)
        with store.images.holding() as also:
            also(needed.diff_ids)
        assert list(store.layers.digests()) == list(needed.diff_ids)
    assert list(store.layers.digests()) == []
    assert list(store.content.digests()) == []
    assert other.diff_ids != needed.diff_ids


def test_a_collection_that_fails_at_the_end_of_other_work_is_not_its_failure(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.image(b"6", names=("app",))

    def refuse(_paths: object) -> None:
        raise Unavailable("the launcher is gone")

    store.images.release = refuse
    with store.images.no_collection():
        store.images.remove("app")
    assert "the launcher is gone" in caplog.text


@pytest.mark.parametrize("how", ["remove", "prune", "collect"])
def test_others_are_served_while_the_trees_of_a_removed_image_are_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store.image(b"1", names=("app",))
    seen: list[list[Image]] = []

    def delete(tree: Path) -> None:
        with ThreadPoolExecutor(1) as another:
            seen.append(another.submit(store.images.list).result(10))
        remove_tree(tree)

    monkeypatch.setattr(image_data, "remove_tree", delete)
    if how == "remove":
        store.images.remove("app")
    elif how == "prune":
        store.images.prune(dangling=False)
    else:
        store.images.collect([store.layer(b"2")])
    assert [len(found) for found in seen] == [1 if how == "collect" else 0]
    assert len(os.listdir(store.root / "layers")) == (1 if how == "collect" else 0)


def test_layers_are_announced_before_they_are_removed(store: Store) -> None:
    image = store.image(b"1", names=("app",))
    path = store.layers.mount_of(image.diff_ids[0]).path
    seen: list[tuple[list[str], bool]] = []
    store.images.release = lambda paths: seen.append((list(paths), os.path.exists(paths[0])))
    store.images.remove("app")
    assert seen == [([path], True)]


def test_what_nobody_refers_to_yet_is_left_alone_until_it_is_old(store: Store) -> None:
    diff_id = store.layer(b"a builder's layer without an image")
    assert store.images.collect() == (0, ())
    assert store.layers.has(diff_id)
    freed, layers = store.images.collect(min_age=-1)
    assert layers == (diff_id,)
    assert freed > 0
    assert list(store.content.digests()) == []


def test_a_full_disk_leaves_memory_and_database_as_they_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = store.image(b"1", names=("app",))

    def full(table: Table, *_: object, **__: object) -> None:
        raise Unavailable("no space left on device")

    monkeypatch.setattr(store.metadata, "put", full)
    monkeypatch.setattr(store.metadata, "delete", full)
    with pytest.raises(Unavailable):
        store.image(b"1", names=("other",), author="x")
    with pytest.raises(Unavailable):
        store.images.remove("app")
    with pytest.raises(Unavailable):
        store.images.tag(image.id, parse_reference("second"))
    monkeypatch.undo()
    assert [str(tag) for tag in store.images.get("app").tags] == ["docker.io/library/app:latest"]
    assert store.images.count() == 1
    store.restart()
    assert [str(tag) for tag in store.images.get("app").tags] == ["docker.io/library/app:latest"]


def test_pruning_takes_dangling_images_or_all_that_no_container_uses(store: Store) -> None:
    dangling = store.image(b"1")
    tagged = store.image(b"2", names=("tagged:1", "tagged:2"))
    used = store.image(b"3", names=("used",))

    def uses(image_id: Digest) -> list[Use]:
        return [Use("c" * 64, running=False)] if image_id == used.id else []

    assert store.images.prune(uses=uses).deleted == (dangling.id,)
    removal = store.images.prune(dangling=False, uses=uses)
    assert removal.deleted == (tagged.id,)
    assert removal.untagged == ("tagged:1", "tagged:2")
    assert [image.id for image in store.images.list()] == [used.id]


def test_pruning_heeds_labels_and_age(store: Store) -> None:
    old = store.image(b"1", created="2020-01-01T00:00:00Z", config=ContainerDefaults(labels={"a": "b"}))
    store.image(b"2", created="2024-01-01T00:00:00.123456789Z")
    moment_2022 = 1640995200
    assert store.images.prune(until=moment_2022, matches=lambda labels: "no" in labels).deleted == ()
    assert store.images.prune(until=moment_2022).deleted == (old.id,)


def test_history_tells_sizes_of_layers_and_ids_of_what_is_here(store: Store) -> None:
    base = store.image(
        b"12345", names=("base",), history=(History(created_by="ADD rootfs", created="2024-01-01T00:00:00Z"),)
    )
    child = store.images.create(
        ImageConfig(
            "amd64", "linux", RootFS((*base.diff_ids, store.layer(b"1234567"))),
            history=(
                *(base.config.history or ()),
                History(created_by="ENV A=1", empty_layer=True),
                History(created_by="RUN x", comment="note"),
            ),
        ),
        parent=base.id,
    )  # fmt: skip
    shown = [(one.id, one.created_by, one.size, one.tags) for one in store.images.history(child.id)]
    assert shown == [
        (child.id, "RUN x", 7, ()),
        (MISSING, "ENV A=1", 0, ()),
        (base.id, "ADD rootfs", 5, ("base:latest",)),
    ]
    assert store.images.children(base.id) == (child.id,)


def test_disk_usage_counts_shared_layers_once(store: Store) -> None:
    store.image(b"x" * 100, names=("a",))
    store.image(b"x" * 100, b"y" * 10, names=("b",))
    usage = store.images.disk_usage()
    assert usage.layers_size == 110
    assert {str(one.image.tags[0].familiar): one.shared for one in usage.images} == {
        "a:latest": 100,
        "b:latest": 100,
    }


def test_chain_ids_are_those_of_the_specification() -> None:
    # image-spec config.md: ChainID(A) = A; ChainID(A|B) = Digest(ChainID(A) + " " + B)
    first, second = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
    joined = hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == (first, f"sha256:{joined}")


def test_a_trial_of_a_prune_says_what_the_prune_then_does(store: Store) -> None:
    kept = store.image(b"shared", b"own", names=("kept:1",))
    store.image(b"shared", b"second", names=("gone:1", "gone:2"))
    store.image(b"third", b"second")
    uses = {kept.id: [Use("c" * 64, False)]}
    before = store.images.list()
    for dangling in (True, False):
        told = ImageTrial(store.images, lambda: ()).prune(
            dangling=dangling, uses=lambda image: uses.get(image, ())
        )
        assert store.images.list() == before
        done = store.images.prune(dangling=dangling, uses=lambda image: uses.get(image, ()))
        assert told == done
        assert done.freed > 0
        before = store.images.list()
    assert [image.id for image in before] == [kept.id]
