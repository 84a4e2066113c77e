"""What the host's crash took: a build does not wait for the disk, so a later start looks what got there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


def test_an_image_whose_layers_were_not_on_disk_when_the_host_went_down_is_gone_and_can_be_built_again(
    make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    text = b"FROM busybox\nRUN echo made > /made\n"
    sampan = make_sampan(tmp_path / "engine")
    try:
        sampan.ok("build", "-q", "-t", "made", "-t", "again:1", "-", stdin=text)
        sampan.ok("create", "--name", "stays", "busybox", "true")
        image = json.loads(sampan.ok("image", "inspect", "made"))[0]
        sampan.engine.terminate()
        # As it is while the disk has not got everything, and as the host's next boot finds it.
        own = sampan.engine.root / "layers" / image["RootFS"]["Layers"][-1].removeprefix("sha256:")
        record = json.loads((own / "layer.json").read_bytes())
        assert "boot" not in record  # an engine that is stopped waits for the disk
        (own / "layer.json").write_text(json.dumps({**record, "boot": "the boot before"}))
        sampan.engine.start()
        assert sampan.ok("images", "--format", "{{.Repository}}") == "busybox"
        assert "image again:1, made:latest is lost: the host went down" in sampan.engine.log.read_text()
        assert sampan.ok("start", "-a", "stays") == ""
        sampan.ok("build", "-q", "-t", "made", "-", stdin=text)
        assert sampan.ok("run", "--rm", "made", "cat", "/made") == "made"
    finally:
        sampan.close()
        sampan.engine.stop()
