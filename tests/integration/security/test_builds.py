"""Builds whose contexts, steps and images mean harm: whatever they leave behind, the engine tidies up and goes on."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

_DEEP = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 0; i=$((i+1)); done; echo x > f"
"""Deeper than Python recurses, and 3,000 bytes of path: nearly as long as one can be."""
_BUNDLE = "RUN mkdir -p /etc/ssl/certs && echo > /etc/ssl/certs/ca-certificates.crt\n"
_DEEPER = _DEEP.replace("1500", "2200")


def test_directories_nested_deeper_than_python_recurses_do_not_stop_an_engine(
    fresh_sampan: Any, tmp_path: Path
) -> None:
    """One entry of a context made the engine's start fail for ever: what it had not removed it could not sweep."""
    sampan = fresh_sampan
    sampan.import_busybox()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        deep = tarfile.TarInfo("/".join("d" * 1500))
        deep.type = tarfile.DIRTYPE
        archive.addfile(deep)
        text = b"FROM busybox\nCOPY Dockerfile /\n"
        file = tarfile.TarInfo("Dockerfile")
        file.size = len(text)
        archive.addfile(file, io.BytesIO(text))
    sampan.ok("build", "-", stdin=context.getvalue())
    sampan.ok("build", "--call", "targets", "-", stdin=context.getvalue())
    lines = (
        "FROM busybox",
        f"RUN --mount=type=cache,target=/c,id=deep cd /c; {_DEEPER}",
        f"RUN --mount=type=bind,target=/b,rw cd /b; {_DEEP}",
    )
    (tmp_path / "Dockerfile").write_text("\n".join(lines) + "\n")
    sampan.ok("build", str(tmp_path))
    sampan.ok("run", "--rm", "-v", "deep:/v", "busybox", "sh", "-c", f"cd /v; {_DEEPER}")
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{_BUNDLE}RUN mkdir /d; cd /d; {_DEEP}\n")
    for options in ((), ("--host-ca",)):
        refused = sampan.run("build", *options, str(tmp_path))
        assert refused.returncode == 1 and "nested more than" in refused.stderr, refused.stderr
    assert json.loads(sampan.ok("system", "df", "--format", "json").splitlines()[0])
    sampan.ok("volume", "rm", "deep")
    sampan.ok("builder", "prune", "-af")
    sampan.engine.terminate()
    sampan.engine.start()
    root, run = sampan.engine.root, sampan.engine.run_dir
    assert os.listdir(root / "builds") == os.listdir(run / "builds") == []
    assert not [name for name in os.listdir(root / "caches") if name != "empty"]
    assert os.listdir(root / "volumes") == []
    log = sampan.engine.log.read_text()
    assert "Recursion" not in log and "Traceback" not in log, log[-3000:]
