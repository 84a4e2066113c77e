"""Run by test_journal_of_containers.py where the journal is: an engine whose container logs to journald only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar

FLAGS = ["--network=none", "--log-driver=journald", "--log-opt=tag=own"]


def main(directory: Path) -> None:
    with EngineProcess(directory / "engine") as engine:
        engine.cli("import", "-", "busybox:latest", stdin=busybox_tar())
        script = "echo one; echo two >&2; read line; echo got $line"
        uncached = ["--log-opt=cache-disabled=true"]
        engine.cli("run", "-di", "--name=web", *FLAGS, *uncached, "busybox", "sh", "-c", script)
        command = [sys.executable, "-m", "sampan.cli.main", "logs", "-f", "web"]
        with subprocess.Popen(
            command, env=engine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as follower:
            assert follower.stdout is not None
            said = [follower.stdout.readline()]
            engine.cli("attach", "--sig-proxy=false", "web", stdin=b"it\n")
            said.append(follower.stdout.readline())
            out, errors = follower.communicate(timeout=30)
        engine.cli("run", "--name=cached", *FLAGS, "busybox", "echo", "copy")
        found = {
            "followed": [line.decode() for line in (*said, out)],
            "errors": errors.decode(),
            "stored": engine.cli("logs", "web").stdout,
            "tail": engine.cli("logs", "--tail=1", "web").stdout,
            "cached": engine.cli("logs", "cached").stdout,
            "copy": [path.name for path in engine.root.glob("containers/*/container-cached.log")],
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
