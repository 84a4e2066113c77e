"""What is garbage, decided from what there is and who refers to what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampan.oci.digest import Digest
from sampan.storage.gc import Have, find_garbage

NAMES = st.sampled_from([Digest(f"sha256:{letter * 64}") for letter in "abcdef0123"])
A, B, C, BLOB_A, BLOB_B = (Digest(f"sha256:{letter * 64}") for letter in "abc12")


def test_a_layer_without_a_root_goes_with_its_blob_and_the_note_of_it() -> None:
    have = Have(frozenset({A, B}), frozenset({BLOB_A, BLOB_B}), {A: BLOB_A, B: BLOB_B})
    garbage = find_garbage(have, [A], [])
    assert (garbage.layers, garbage.blobs, garbage.mappings) == ({B}, {BLOB_B}, {B})


def test_a_blob_that_is_held_stays_without_its_layer() -> None:
    have = Have(frozenset(), frozenset({BLOB_A, BLOB_B}), {})
    assert find_garbage(have, [], [BLOB_A]).blobs == {BLOB_B}


def test_a_blob_of_two_layers_lives_as_long_as_one_of_them() -> None:
    have = Have(frozenset({A, B}), frozenset({BLOB_A}), {A: BLOB_A, B: BLOB_A})
    assert find_garbage(have, [B], []).blobs == frozenset()


@given(
    st.frozensets(NAMES), st.frozensets(NAMES), st.dictionaries(NAMES, NAMES), st.sets(NAMES), st.sets(NAMES)
)
def test_nothing_that_is_referred_to_is_ever_garbage(
    layers: frozenset[Digest],
    blobs: frozenset[Digest],
    blob_of: dict[Digest, Digest],
    roots: set[Digest],
    held: set[Digest],
) -> None:
    garbage = find_garbage(Have(layers, blobs, blob_of), roots, held)
    assert not garbage.layers & roots
    assert not garbage.blobs & held
    assert not garbage.blobs & {blob for layer, blob in blob_of.items() if layer in roots}
    assert garbage.layers == layers - roots
