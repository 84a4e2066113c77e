"""A base image from package mirrors: nothing of this host in it, and small."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.root

LOOK = """
set -e
cat /etc/resolv.conf /etc/hostname /etc/machine-id | wc -c
ls /etc/apt/apt.conf.d /etc/dpkg/dpkg.cfg.d
find /var/log /var/lib/apt/lists -type f -size +0
ls -d /usr/share/man/man1 /usr/share/locale/de 2>/dev/null || true
grep -h '^deb ' /etc/apt/sources.list | sort
/usr/sbin/policy-rc.d || echo policy $?
"""


@pytest.mark.timeout(700)  # it downloads packages
def test_a_slim_debian_has_nothing_of_this_host(pair: Any) -> None:
    made = pair.sampan.run("image", "bootstrap", "--quiet", "debian:bookworm-slim", timeout=600)
    assert made.status == 0, made.err
    assert made.out.startswith("sha256:")
    # The engine mounts its own resolv.conf, hosts and hostname at the first start: look at the image itself.
    side = pair.docker
    seen = side.run("run", "--rm", "--network", "none", "debian:bookworm-slim", "sh", "-c", LOOK)
    assert seen.status == 0, seen.err
    lines = seen.out.splitlines()
    assert lines[1:] == [
        "/etc/apt/apt.conf.d:",
        "01autoremove",
        "70debconf",
        "90container",
        "",
        "/etc/dpkg/dpkg.cfg.d:",
        "slim",
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://deb.debian.org/debian-security bookworm-security main",
        "policy 101",
    ]
    inspected = side.run("inspect", "-f", "{{.Size}} {{.Config.Cmd}}", "debian:bookworm-slim").out.split(
        maxsplit=1
    )
    assert int(inspected[0]) < 90_000_000
    assert inspected[1] == "[bash]\n"
