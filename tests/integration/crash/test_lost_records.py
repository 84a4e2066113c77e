"""What is kept, and what goes, when records of containers are damaged or were never written."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.storage.metadata import Metadata, Table

pytestmark = pytest.mark.root


def test_no_prune_takes_what_a_container_whose_record_can_not_be_read_may_have(fresh_sampan: Any) -> None:
    """One record names what it has; of the other, half is missing."""
    sampan = fresh_sampan
    named, cut = (sampan.ok("create", "-v", "/anonymous", "busybox", "true") for _ in range(2))
    volume = sampan.ok("inspect", "-f", "{{(index .Mounts 0).Name}}", named)
    other = sampan.ok("inspect", "-f", "{{(index .Mounts 0).Name}}", cut)
    sampan.engine.kill()
    metadata = Metadata(sampan.engine.root)
    try:
        for key, damage in (
            (named, lambda body: b"[" + body + b"]"),
            (cut, lambda body: body[: body.index(b'"image_id"')]),
        ):
            metadata.put(Table.CONTAINERS, key, damage(metadata.get(Table.CONTAINERS, key)))
    finally:
        metadata.close()
    sampan.engine.start()

    def pruned(*what: str) -> str:
        return str(sampan.ok(*what, "prune", "-a", "-f"))

    assert volume not in pruned("volume") and "busybox" not in pruned("image")
    sampan.ok("system", "prune", "-a", "-f", "--volumes")
    assert set(sampan.ok("volume", "ls", "-q").split()) == {volume, other}
    assert sampan.ok("images", "-q")
    refused = sampan.run("volume", "rm", volume)
    assert f"volume is in use - [{named}]" in refused.stderr
    assert "its record can't be read" in sampan.run("rm", cut).stderr
    sampan.ok("rm", "-f", cut[:12])
    assert not (sampan.engine.root / "snapshots" / cut).exists()
    said = pruned("volume")
    assert other in said and volume not in said
    assert "busybox" not in pruned("image")  # the whole record names it
    sampan.ok("rm", "-f", named)
    assert volume in pruned("volume") and "busybox" in pruned("image")


def test_a_volume_that_goes_with_a_container_does_so_when_the_engine_is_killed_in_between(
    fresh_sampan: Any,
) -> None:
    """In the making of the container, or in its removal: its record is not in the database, or not any more."""
    sampan = fresh_sampan

    def create(name: str, *options: str) -> tuple[str, str]:
        container = sampan.ok("create", "--name", name, "-v", "/anonymous", *options, "busybox", "true")
        return container, sampan.ok("inspect", "-f", "{{(index .Mounts 0).Name}}", name)

    gone = {name: create(name) for name in ("cut", "lent", "named", "kept")}
    nobodys = sampan.ok("volume", "create")
    sampan.ok("create", "--name", "borrower", "--volumes-from", "lent", "busybox", "true")
    sampan.ok("create", "--name", "other", "-v", f"{gone['named'][1]}:/data", "busybox", "true")
    sampan.ok("rm", "kept")  # its volume stays, as Docker's
    sampan.ok("rm", "-v", "other")
    sampan.engine.kill()
    metadata = Metadata(sampan.engine.root)
    try:
        for name in ("cut", "lent", "named"):
            metadata.delete(Table.CONTAINERS, gone[name][0])
    finally:
        metadata.close()
    sampan.engine.start()
    staying = {nobodys, *(gone[name][1] for name in ("lent", "named", "kept"))}
    assert set(sampan.ok("volume", "ls", "-q").split()) == staying
    assert not (sampan.engine.root / "volumes" / gone["cut"][1]).exists()
    sampan.ok("rm", "borrower")
    sampan.engine.kill()
    sampan.engine.start()
    assert set(sampan.ok("volume", "ls", "-q").split()) == staying
