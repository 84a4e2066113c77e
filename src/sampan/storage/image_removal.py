"""What `rmi` takes away, decided as Docker's daemon decides it. Pure: nothing is removed here.

By name: the name goes, and the image with its last name. By id: all names go if they are one repository's,
else it takes `force`. An image that others were built on, or that a container uses, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sampan.errors import Conflict
from sampan.oci.digest import Digest, hex_of
from sampan.oci.reference import Reference
from sampan.storage.image_model import Use


class View(Protocol):
    """The state that the decision is about."""

    def names(self, image_id: Digest, /) -> Sequence[Reference]: ...
    def children(self, image_id: Digest, /) -> Sequence[Digest]: ...
    def parent(self, image_id: Digest, /) -> Digest | None: ...
    def uses(self, image_id: Digest, /) -> Sequence[Use]: ...


@dataclass(slots=True)
class Plan:
    untag: list[Reference] = field(default_factory=list)
    delete: list[Digest] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why an image can't go. `forcible`: `force` overcomes it; `used`: a container is the reason."""

    reason: str
    forcible: bool
    used: bool


def plan_removal(
    view: View, image_id: Digest, reference: Reference | None, *, force: bool, prune_parents: bool
) -> Plan:
    """`reference`: the name that was given, None when it was an id. Raises `Conflict` in Docker's words."""
    plan = Plan()
    names = list(view.names(image_id))
    if reference is not None:
        _untag(view, image_id, reference, names, force, plan)
        if names:
            return plan
        _delete(view, image_id, names, plan, force=force, prune=prune_parents, quiet=True)
        return plan
    if in_one_repository(names):
        obstacle = _obstacle(view, image_id, (), force=force, deleted=())
        if obstacle is not None:
            raise _refused(image_id, obstacle)
        plan.untag += names
        names.clear()
    _delete(view, image_id, names, plan, force=force, prune=prune_parents, quiet=False)
    return plan


def in_one_repository(names: Sequence[Reference]) -> bool:
    """At most one tag, and no other repository's digest beside it."""
    tags = [name for name in names if name.digest is None]
    repositories = {name.name for name in names}
    return len(names) >= 1 and len(tags) <= 1 and len(repositories) == 1


def _untag(
    view: View,
    image_id: Digest,
    reference: Reference,
    names: list[Reference],
    force: bool,
    plan: Plan,
) -> None:
    uses = view.uses(image_id)
    if not force and uses and in_one_repository(names):
        raise Conflict(
            f'conflict: unable to remove repository reference "{reference.familiar}" (must force) - '
            f"container {uses[0].container_id[:12]} is using its referenced image {hex_of(image_id)[:12]}"
        )
    names.remove(reference)
    plan.untag.append(reference)
    same = [name for name in names if name.name == reference.name]
    if reference.digest is None and all(name.digest is not None for name in same):
        # Digests alone are no reason to keep the image.
        for name in same:
            names.remove(name)
            plan.untag.append(name)


def _delete(
    view: View,
    image_id: Digest,
    names: Sequence[Reference],
    plan: Plan,
    *,
    force: bool,
    prune: bool,
    quiet: bool,
) -> None:
    obstacle = _obstacle(view, image_id, names, force=force, deleted=plan.delete)
    if obstacle is not None:
        has_children = any(child not in plan.delete for child in view.children(image_id))
        if quiet and (names or has_children or obstacle.used):
            return
        raise _refused(image_id, obstacle)
    plan.untag += names
    plan.delete.append(image_id)
    parent = view.parent(image_id) if prune else None
    if parent is not None:
        _delete(view, parent, view.names(parent), plan, force=False, prune=True, quiet=True)


def _obstacle(
    view: View, image_id: Digest, names: Sequence[Reference], *, force: bool, deleted: Sequence[Digest]
) -> _Obstacle | None:
    if any(child not in deleted for child in view.children(image_id)):
        return _Obstacle("image has dependent child images", forcible=False, used=False)
    uses = view.uses(image_id)
    for use in uses:
        if use.running:
            text = f"image is being used by running container {use.container_id[:12]}"
            return _Obstacle(text, forcible=False, used=True)
    if force:
        return None
    if names:
        return _Obstacle("image is referenced in multiple repositories", forcible=True, used=False)
    if uses:
        text = f"image is being used by stopped container {uses[0].container_id[:12]}"
        return _Obstacle(text, forcible=True, used=True)
    return None


def _refused(image_id: Digest, obstacle: _Obstacle) -> Conflict:
    how = "must be forced" if obstacle.forcible else "cannot be forced"
    return Conflict(f"conflict: unable to delete {hex_of(image_id)[:12]} ({how}) - {obstacle.reason}")
