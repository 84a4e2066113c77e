"""The cache's records on their way to other engines, and what hostile ones may do: nothing."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.build.cache_options import (
    CacheDirectory,
    CacheForm,
    CacheTo,
    parse_cache_from,
    parse_cache_to,
)
from sampan.build.model import BuildRequest
from sampan.build.solver import remote_format
from sampan.build.solver.cache import BuildCache, CacheEntry
from sampan.build.solver.remote_format import decode, decode_inline, encode, encode_inline
from sampan.build.solver.transfer import with_transfer
from sampan.errors import Invalid, SampanError, Unsupported
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import parse_reference
from sampan.storage.layer_forms import LayerForm

WHEN = "2026-01-02T03:04:05.000006Z"
LAYER, OTHER = digest_of(b"layer"), digest_of(b"other")
BLOB = Descriptor(media.OCI_LAYER_GZIP, digest_of(b"blob"), 12)
KEYS = ["a" * 64, "b" * 64, "c" * 64]


def test_what_is_written_is_read_again_and_checksums_stay_at_home() -> None:
    records = {
        KEYS[0]: CacheEntry(WHEN, LAYER, size=5, used=7, step="RUN make"),
        KEYS[1]: CacheEntry(WHEN, step="ENV a=b"),
        KEYS[2]: CacheEntry("", content="sum"),
    }
    cache = decode(encode(records, {LAYER: BLOB}), [BLOB])
    assert cache.records == {
        KEYS[0]: CacheEntry(WHEN, LAYER, step="RUN make"),
        KEYS[1]: CacheEntry(WHEN, step="ENV a=b"),
    }
    assert cache.layers == {LAYER: BLOB}
    inline = decode_inline(encode_inline(records, [OTHER, LAYER]), [OTHER, LAYER])
    assert inline.records == cache.records


def test_the_order_in_which_stages_came_by_does_not_show() -> None:
    records = {key: CacheEntry(WHEN, LAYER, step=key) for key in KEYS}
    turned = dict(reversed(records.items()))
    assert encode_inline(records, [LAYER]) == encode_inline(turned, [LAYER])
    assert encode(records, {LAYER: BLOB}) == encode(turned, {LAYER: BLOB})


def test_the_document_is_buildkits() -> None:
    document = json.loads(encode({KEYS[0]: CacheEntry(WHEN, LAYER)}, {LAYER: BLOB}))
    # cache/remotecache/v1/spec.go: layers with blob, parent and annotations; records with digest and layers.
    assert document["layers"] == [
        {
            "blob": BLOB.digest,
            "parent": -1,
            "annotations": {"mediaType": BLOB.media_type, "diffID": LAYER, "size": 12},
        }
    ]
    assert document["records"][0]["digest"] == "sha256:" + KEYS[0]
    assert document["records"][0]["layers"] == [{"layer": 0}]


def test_buildkits_own_cache_is_a_miss_and_no_error() -> None:
    document = {
        "layers": [{"blob": BLOB.digest, "parent": -1, "annotations": {"diffID": LAYER, "createdAt": WHEN}}],
        "records": [
            {"digest": digest_of(b"1")},
            {
                "digest": digest_of(b"2"),
                "layers": [{"layer": 0, "createdAt": WHEN}],
                "inputs": [[{"link": 0}]],
            },
            {"digest": digest_of(b"3"), "chains": [{"layers": [0], "createdAt": WHEN}]},
        ],
    }
    assert decode(json.dumps(document).encode(), [BLOB]).records == {}


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [{"layer": 7}]},
        {"layers": [{"layer": -1}]},
        {"layers": [{"layer": 0}, {"layer": 0}]},
        {"digest": "sha256:../../etc"},
        {"sampan.created": "yesterday"},
        {"sampan.created": "2026-01-02T03:04:05" + "0" * 500 + "Z"},
    ],
)
def test_a_record_that_says_nonsense_is_left_out(change: dict[str, Any]) -> None:
    document = json.loads(encode({KEYS[0]: CacheEntry(WHEN, LAYER)}, {LAYER: BLOB}))
    document["records"][0].update(change)
    assert decode(json.dumps(document).encode(), [BLOB]).records == {}


def test_a_layer_that_the_manifest_lacks_does_not_exist() -> None:
    cache = decode(encode({KEYS[0]: CacheEntry(WHEN, LAYER)}, {LAYER: BLOB}), [])
    assert (cache.records, cache.layers) == ({}, {})


def test_caches_without_bounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode({key: CacheEntry(WHEN) for key in KEYS}, {})
    monkeypatch.setattr(remote_format, "MAX_RECORDS", 2)
    with pytest.raises(Invalid, match="more than 2 records"):
        decode(raw, [])
    monkeypatch.setattr(remote_format, "MAX_CONFIG", 10)
    with pytest.raises(Invalid, match="larger than 10 bytes"):
        decode(raw, [])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["layers", "records", "digest", "layer", "blob"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | _json.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_in_is_a_cache_or_refused(raw: bytes) -> None:
    for read in (lambda: decode(raw, [BLOB]), lambda: decode_inline(base64.b64encode(raw).decode(), [LAYER])):
        try:
            read()
        except SampanError:
            pass


@pytest.mark.parametrize("text", [None, 5, {}, "%%%", "e30=", "å"])
def test_an_images_field_that_holds_no_cache_is_refused(text: object) -> None:
    with pytest.raises(Invalid):
        decode_inline(text, [LAYER])


class _Table(dict[str, bytes]):
    def put(self, key: str, body: bytes) -> None:
        self[key] = body

    def delete(self, key: str) -> None:
        self.pop(key, None)

    def items(self) -> Any:
        return list(super().items())


def test_an_imported_entry_is_kept_only_when_its_layer_came() -> None:
    here: set[Digest] = {LAYER}
    imported = {KEYS[0]: CacheEntry(WHEN, LAYER), KEYS[1]: CacheEntry(WHEN, OTHER)}
    table = _Table()
    cache = BuildCache(table, here.__contains__, imported=imported.get)
    assert cache.lookup(KEYS[0]) == imported[KEYS[0]]
    assert cache.lookup(KEYS[1]) == imported[KEYS[1]]
    assert cache.lookup(KEYS[2]) is None
    cache.keep_imported()
    assert set(table) == {KEYS[0]}


def test_options_are_those_of_buildkit() -> None:
    image = parse_reference("example.com/a/cache:latest")
    assert parse_cache_from("example.com/a/cache").place == image
    assert parse_cache_from("type=registry,ref=example.com/a/cache").place == image
    assert parse_cache_to("type=inline") == parse_cache_to("inline") == CacheTo(None)
    assert parse_cache_to("type=inline,mode=max,compression=zstd") == CacheTo(None)
    assert parse_cache_to("type=registry,ref=example.com/a/cache,mode=max,ignore-error=true") == CacheTo(
        image, everything=True, ignore_error=True
    )
    assert parse_cache_to("type=local,dest=d,id=x,tag=t,mode=max") == CacheTo(
        CacheDirectory("x", "d", "t"), everything=True
    )
    assert parse_cache_from("type=local,src=d,id=x").place == CacheDirectory("x", "d")
    assert parse_cache_from(f"type=local,src=d,id=x,digest={LAYER}").place == CacheDirectory(
        "x", "d", digest=LAYER
    )
    # Meant for the export, and of no meaning here: BuildKit does not look at it either.
    assert parse_cache_from("type=registry,ref=example.com/a/cache,mode=max").place == image


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("compression=zstd,compression-level=9", CacheForm(LayerForm("zstd", 9))),
        ("compression=uncompressed,force-compression=true", CacheForm(LayerForm("uncompressed", force=True))),
        ("image-manifest=false", CacheForm(image_manifest=False)),
        ("oci-mediatypes=false", CacheForm(oci=False, image_manifest=False)),
        ("oci-mediatypes=1,image-manifest=T", CacheForm()),
    ],
)
def test_the_form_of_a_cache_can_be_chosen(text: str, form: CacheForm) -> None:
    assert parse_cache_to(f"type=registry,ref=a,{text}").form == form


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("type=registry", Invalid),
        ("type=registry,ref=a,mode=some", Invalid),
        ("type=registry,ref=a,colour=red", Invalid),
        ("type=registry,ref=a,lonely", Invalid),
        ("type=registry,ref=a,image-manifest=perhaps", Invalid),
        ("type=registry,ref=a,image-manifest=true,oci-mediatypes=false", Invalid),
        ("type=registry,ref=a,compression=zstd,oci-mediatypes=false", Invalid),
        ("type=registry,ref=a,compression-level=12", Invalid),
        ("type=registry,ref=a,compression-level=high", Invalid),
        ("type=registry,ref=a,compression=estargz", Unsupported),
        ("type=registry,ref=a\nb", SampanError),
        ("type=local", Invalid),
        ("type=local,dest=x,id=y,tag=a b", Invalid),
        ("type=local,dest=x", Unsupported),  # a client without a session
        ("type=gha", Unsupported),
        ("", SampanError),
    ],
)
def test_options_that_cannot_work_are_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_cache_to(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("type=local", Invalid),
        ("type=local,src=x", Unsupported),
        ("type=local,src=x,id=y,digest=z", Invalid),
        ("type=registry,ref=a,colour=red", Invalid),
        ("type=s3,bucket=b", Unsupported),
    ],
)
def test_sources_that_cannot_work_are_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_cache_from(text)


class _Transfer:
    """Of a build that imports nothing more than it is told."""

    def load(self, *_: object) -> None:
        pass

    def forget(self) -> None:
        pass

    def find(self, key: str) -> CacheEntry | None:
        return CacheEntry(WHEN, LAYER) if key == KEYS[0] else None


def test_what_a_build_that_fails_has_imported_need_not_come_again() -> None:
    table = _Table()
    transfer: Any = _Transfer()
    cache = BuildCache(table, {LAYER}.__contains__, imported=transfer.find)

    def perform() -> Digest:
        assert cache.lookup(KEYS[0]) is not None
        raise Unsupported("a later step can't be done")

    with pytest.raises(Unsupported):
        with_transfer(
            transfer, cache, cast(Any, None), BuildRequest(), perform, lambda _event: None, threading.Event()
        )
    assert set(table) == {KEYS[0]}
