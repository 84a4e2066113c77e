"""Steps with the host's network or every power: only when both have agreed (CVE-2024-23653), and then really."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


def build(sampan: Any, dockerfile: str, *flags: str) -> Any:
    return sampan.run("build", "--no-cache", "--progress", "plain", *flags, "-", stdin=dockerfile.encode())


NETWORK = "FROM busybox\nRUN echo before\nRUN --network=host cat /proc/net/unix\n"
INSECURE = (
    "FROM busybox\nRUN --security=insecure grep -E '^(CapEff|CapAmb|Seccomp):' /proc/self/status && "
    "mkdir /m && mount -t tmpfs x /m && ls /dev/fuse /dev/net/tun /dev/loop0 && "
    "! ls /dev/mem && echo 1 > /proc/sys/net/ipv4/ip_forward && umount /m\n"
    "USER 1000\nRUN --security=insecure mount -t tmpfs x /tmp && echo mounted as $(id -u)\n"
    "USER 0\nRUN mount -t tmpfs x /m || grep Seccomp: /proc/self/status\n"
)


def test_the_hosts_network_takes_the_builders_consent(sampan: Any) -> None:
    refused = build(sampan, NETWORK)
    assert refused.returncode == 1
    said = refused.stdout + refused.stderr
    assert "network.host is not allowed" in said and "--allow network.host" in said
    assert "before" not in refused.stdout.replace("RUN echo before", "")  # nothing ran
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0sampan-test-of-consent")
        granted = build(sampan, NETWORK, "--allow", "network.host")
        whole = build(sampan, "FROM busybox\nRUN cat /proc/net/unix\n", "--network", "host")
    assert "@sampan-test-of-consent" in granted.stdout + granted.stderr
    assert "@sampan-test-of-consent" in whole.stdout + whole.stderr


def test_a_step_with_every_power_takes_two_consents(
    sampan: Any, make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    assert "security.insecure is not allowed" in build(sampan, INSECURE).stderr
    forbidden = build(sampan, INSECURE, "--allow", "security.insecure")
    assert "granting entitlement security.insecure is not allowed by build daemon" in forbidden.stderr
    other = make_sampan(
        tmp_path / "engine", config={"builder": {"entitlements": {"security-insecure": True}}}
    )
    try:
        assert "security.insecure is not allowed" in build(other, INSECURE).stderr
        done = build(other, INSECURE, "--allow", "security.insecure")
    finally:
        other.close()
        other.engine.stop()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    own = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    mask = own.split()[1]
    assert f"CapEff:\t{mask}" in said and f"CapAmb:\t{mask}" in said and "Seccomp:\t0" in said
    assert "mounted as 1000" in said
    assert "Seccomp:\t2" in said
