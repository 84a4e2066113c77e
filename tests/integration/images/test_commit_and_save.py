"""Images made of containers, and archives of several tags, through the whole engine."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.registry import RealRegistry

pytestmark = pytest.mark.root


def saved_tags(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        file = archive.extractfile("manifest.json")
        assert file is not None
        return {tag for entry in json.load(file) for tag in entry["RepoTags"] or ()}


def test_a_committed_image_can_be_pushed_pulled_and_saved(sampan: Any, tmp_path: Path) -> None:
    sampan.ok("run", "--name", "worker", "busybox", "sh", "-c", "echo made > /made; rm /etc/group")
    sampan.ok("commit", "worker", "committed:1")
    with RealRegistry(tmp_path / "registry") as registry:
        name = f"{registry.host}/committed:1"
        sampan.ok("tag", "committed:1", name)
        sampan.ok("push", name)
        sampan.ok("rm", "worker")
        sampan.ok("rmi", name, "committed:1")
        sampan.ok("pull", name)
    shown = sampan.ok("run", "--rm", name, "sh", "-c", "cat /made; ls /etc")
    assert shown.split()[0] == "made"
    assert "passwd" in shown.split()
    assert "group" not in shown.split()
    sampan.ok("save", "-o", str(tmp_path / "image.tar"), name)
    assert saved_tags(tmp_path / "image.tar") == {name}
    sampan.ok("rmi", name)


def test_a_repository_without_a_tag_is_saved_with_all_its_tags(sampan: Any, tmp_path: Path) -> None:
    for tag in ("one", "two"):
        sampan.ok("tag", "busybox", f"several:{tag}")
    sampan.ok("save", "-o", str(tmp_path / "all.tar"), "several")
    assert saved_tags(tmp_path / "all.tar") == {"several:one", "several:two"}
    sampan.ok("save", "-o", str(tmp_path / "one.tar"), "several:one")
    assert saved_tags(tmp_path / "one.tar") == {"several:one"}
    image_id = sampan.ok("images", "-q", "--no-trunc", "several:one")
    sampan.ok("save", "-o", str(tmp_path / "id.tar"), image_id)
    assert saved_tags(tmp_path / "id.tar") == set()
    sampan.ok("rmi", "several:one", "several:two")
