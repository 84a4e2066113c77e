"""`rmi`, decided; expected messages are those of Docker's daemon (images/image_delete.go's cases)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from sampan.errors import Conflict
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.image_model import Use
from sampan.storage.image_removal import Plan, plan_removal

ID = Digest("sha256:" + "1" * 64)
CHILD = Digest("sha256:" + "2" * 64)
BASE = Digest("sha256:" + "3" * 64)
CONTAINER = "c" * 64


def ref(text: str) -> Reference:
    return parse_reference(text)


V1, V2, OTHER = ref("app:v1"), ref("app:v2"), ref("other:v1")
DIGEST = ref("app@sha256:" + "d" * 64)
OTHER_DIGEST = ref("other@sha256:" + "d" * 64)


@dataclass
class State:
    named: dict[Digest, list[Reference]] = field(default_factory=dict)
    parents: dict[Digest, Digest] = field(default_factory=dict)
    used: dict[Digest, list[Use]] = field(default_factory=dict)

    def names(self, image_id: Digest) -> Sequence[Reference]:
        return self.named.get(image_id, [])

    def children(self, image_id: Digest) -> Sequence[Digest]:
        return [child for child, parent in self.parents.items() if parent == image_id]

    def parent(self, image_id: Digest) -> Digest | None:
        return self.parents.get(image_id)

    def uses(self, image_id: Digest) -> Sequence[Use]:
        return self.used.get(image_id, [])

    def remove(self, reference: Reference | None, *, force: bool = False, prune: bool = True) -> Plan:
        return plan_removal(self, ID, reference, force=force, prune_parents=prune)


def stopped(image_id: Digest = ID) -> dict[Digest, list[Use]]:
    return {image_id: [Use(CONTAINER, running=False)]}


def running(image_id: Digest = ID) -> dict[Digest, list[Use]]:
    return {image_id: [Use(CONTAINER, running=True)]}


def test_one_of_several_tags_is_only_untagged() -> None:
    assert State({ID: [V1, V2]}).remove(V1) == Plan([V1], [])
    assert State({ID: [V1, OTHER]}).remove(V1) == Plan([V1], [])


def test_the_last_tag_takes_the_image_and_the_digests_with_it() -> None:
    assert State({ID: [V1, DIGEST]}).remove(V1) == Plan([V1, DIGEST], [ID])


def test_a_digest_of_another_repository_keeps_the_image() -> None:
    assert State({ID: [V1, DIGEST, OTHER_DIGEST]}).remove(V1) == Plan([V1, DIGEST], [])


def test_by_id_with_one_repository_everything_goes() -> None:
    assert State({ID: [V1, DIGEST]}).remove(None) == Plan([V1, DIGEST], [ID])
    assert State({}).remove(None) == Plan([], [ID])


@pytest.mark.parametrize("names", [[V1, V2], [V1, OTHER], [V1, OTHER_DIGEST]])
def test_by_id_with_several_names_force_is_needed(names: list[Reference]) -> None:
    message = r"unable to delete 1{12} \(must be forced\) - image is referenced in multiple repositories"
    with pytest.raises(Conflict, match=message):
        State({ID: names}).remove(None)
    assert State({ID: names}).remove(None, force=True) == Plan(names, [ID])


def test_by_name_a_container_that_uses_it_needs_force() -> None:
    message = (
        r'conflict: unable to remove repository reference "app:v1" \(must force\) - '
        r"container cccccccccccc is using its referenced image 111111111111"
    )
    with pytest.raises(Conflict, match=message):
        State({ID: [V1]}, used=stopped()).remove(V1)
    assert State({ID: [V1]}, used=stopped()).remove(V1, force=True) == Plan([V1], [ID])


def test_by_name_with_force_a_running_container_keeps_the_image_and_loses_the_name() -> None:
    assert State({ID: [V1]}, used=running()).remove(V1, force=True) == Plan([V1], [])


def test_by_name_another_name_makes_use_by_containers_no_matter() -> None:
    assert State({ID: [V1, V2]}, used=running()).remove(V1) == Plan([V1], [])


def test_by_id_a_running_container_cannot_be_overcome() -> None:
    message = (
        r"conflict: unable to delete 111111111111 \(cannot be forced\) - "
        "image is being used by running container cccccccccccc"
    )
    for force in (False, True):
        with pytest.raises(Conflict, match=message):
            State({ID: [V1]}, used=running()).remove(None, force=force)


def test_by_id_a_stopped_container_takes_force() -> None:
    message = (
        r"conflict: unable to delete 111111111111 \(must be forced\) - "
        "image is being used by stopped container cccccccccccc"
    )
    with pytest.raises(Conflict, match=message):
        State({ID: [V1]}, used=stopped()).remove(None)
    assert State({ID: [V1]}, used=stopped()).remove(None, force=True) == Plan([V1], [ID])


def test_an_image_that_others_were_built_on_stays() -> None:
    state = State({ID: [V1]}, parents={CHILD: ID})
    message = (
        r"conflict: unable to delete 111111111111 \(cannot be forced\) - image has dependent child images"
    )
    with pytest.raises(Conflict, match=message):
        state.remove(None, force=True)
    assert state.remove(V1) == Plan([V1], [])


def test_parents_without_a_name_go_with_their_last_child() -> None:
    assert State({ID: [V1]}, parents={ID: BASE}).remove(V1) == Plan([V1], [ID, BASE])
    assert State({ID: [V1]}, parents={ID: BASE}).remove(V1, prune=False) == Plan([V1], [ID])


def test_a_parent_stays_that_has_a_name_another_child_or_a_container() -> None:
    assert State({ID: [V1], BASE: [OTHER]}, {ID: BASE}).remove(V1).delete == [ID]
    assert State({ID: [V1]}, {ID: BASE, CHILD: BASE}).remove(V1).delete == [ID]
    assert State({ID: [V1]}, {ID: BASE}, stopped(BASE)).remove(V1).delete == [ID]
