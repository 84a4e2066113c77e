"""Layers of builds reach the disk in the background; one that did not before the host went down is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sampan.storage import layer_settling, layers
from sampan.storage.layers import Layer, LayerStore


def adopt(store: LayerStore, directory: Path, content: str) -> Layer:
    tree = directory / content
    tree.mkdir()
    (tree / "file").write_text(content)
    return store.adopt_tree(tree)


def record(root: Path, layer: Layer) -> Path:
    return root / layer.diff_id.removeprefix("sha256:") / "layer.json"


def test_a_layer_is_there_at_once_and_its_record_is_plain_when_it_is_on_disk(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    layer = adopt(store, tmp_path, "one")
    assert store.has(layer.diff_id)
    store.settle()
    assert json.loads(record(tmp_path / "layers", layer).read_bytes()) == {
        "size": 3,
        "entries": 1,
        "origin": "tree",
    }
    names = {path.name for path in record(tmp_path / "layers", layer).parent.iterdir()}
    assert names == {"fs", "layer.json"}


@pytest.fixture
def never_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(layer_settling, "sync_all", fail)


@pytest.mark.usefixtures("never_on_disk")
def test_an_engine_that_ends_keeps_layers_that_were_not_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LayerStore(tmp_path / "layers")
    layer = adopt(store, tmp_path, "one")
    store.settle()
    monkeypatch.undo()
    again = LayerStore(tmp_path / "layers")
    again.sweep()
    again.settle()
    assert again.lost == ()
    assert again.get(layer.diff_id).size == 3
    assert "boot" not in json.loads(record(tmp_path / "layers", layer).read_bytes())


@pytest.mark.usefixtures("never_on_disk")
def test_a_host_that_went_down_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LayerStore(tmp_path / "layers")
    old, new = adopt(store, tmp_path, "old"), adopt(store, tmp_path, "new")
    store.settle()
    record(tmp_path / "layers", old).write_bytes(b'{"size":3,"entries":1,"origin":"tree"}')
    monkeypatch.setattr(layers, "boot_id", lambda: "another boot")
    again = LayerStore(tmp_path / "layers")
    again.sweep()
    assert again.lost == (new.diff_id,)
    assert not again.has(new.diff_id)
    assert again.has(old.diff_id)


def test_a_damaged_record_is_of_a_layer_that_is_lost(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "layers")
    layer = adopt(store, tmp_path, "one")
    store.settle()
    record(tmp_path / "layers", layer).write_bytes(b"")
    store.sweep()
    assert store.lost == (layer.diff_id,)


def test_a_layer_that_is_removed_before_it_is_on_disk_does_not_come_back(tmp_path: Path) -> None:
    target = tmp_path / "gone" / "layer.json"
    target.parent.mkdir()
    shutil.rmtree(target.parent)
    layer_settling.replace_file(target, b"{}")
    assert not target.parent.exists()


def test_what_a_full_disk_refused_is_tried_again_with_the_next_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash of the host would take a layer that has long been on disk."""
    store = LayerStore(tmp_path / "layers")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(layer_settling.os, "fsync", fail)
        early = [adopt(store, tmp_path, "one"), adopt(store, tmp_path, "two")]
        store.settle()
    records = [record(tmp_path / "layers", layer) for layer in early]
    assert all("boot" in json.loads(path.read_bytes()) for path in records)
    assert all({each.name for each in path.parent.iterdir()} == {"fs", "layer.json"} for path in records)
    adopt(store, tmp_path, "three")
    store.settle()
    assert not any("boot" in json.loads(path.read_bytes()) for path in records)
