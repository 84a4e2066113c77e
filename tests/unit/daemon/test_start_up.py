"""An engine's start is on the way of the first command: what only some engines ever do is loaded when it is done."""

from __future__ import annotations

import subprocess
import sys

PROBE = "import sys, sampan.daemon.main; print(*sys.modules)"
LATER = (
    "botocore",
    "dns",
    "dulwich",
    "email",
    "prometheus_client",
    "urllib3",
    "sampan.build.dockerfile.parse",
    "sampan.build.fetch.git",
    "sampan.build.rules",
    "sampan.build.solver.builder",
    "sampan.engine.build_job",
    "sampan.engine.host_ca.step",
    "sampan.engine.networks.cluster",
    "sampan.network.dns_process",
    "sampan.network.overlay.control",
    "sampan.registry.pull",
)


def test_an_engine_that_starts_has_not_loaded_what_a_build_or_a_registry_needs() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", PROBE], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sampan.daemon.wiring" in loaded
    assert loaded.isdisjoint(LATER)
