"""Addresses of both families under the newest Docker and under sampan: the same answers, refusals and interfaces.

SAMPAN_NEWEST_DOCKER is the command that runs a docker client, on an engine on this host that needs no images.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sampan.testing.images import busybox_tar

COMMAND = shlex.split(os.environ.get("SAMPAN_NEWEST_DOCKER", ""))
IMAGE = "sampan-addresses:test"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not COMMAND, reason="SAMPAN_NEWEST_DOCKER names no docker client"),
]

Run = Callable[..., subprocess.CompletedProcess[str]]

_INSPECT = "{{.EnableIPv4}} {{.EnableIPv6}} {{.Internal}} {{json .IPAM.Config}} {{json .Options}}"
_ENDPOINT = (
    "{{range .NetworkSettings.Networks}}{{json .IPAMConfig}} {{.Gateway}} {{.IPAddress}}/{{.IPPrefixLen}}"
    " {{.IPv6Gateway}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}}{{end}} {{json .NetworkSettings.Ports}}"
)
FOUR, SIX = ("--subnet", "10.199.61.0/24"), ("--ipv6", "--subnet", "fd00:199:61::/64")
MODE = "com.docker.network.bridge.gateway_mode_ipv"

NETWORKS: dict[str, tuple[str, ...]] = {
    "both by themselves": ("--ipv6",),
    "ipv6 alone": ("--ipv4=false", "--ipv6"),
    "none": ("--ipv4=false",),
    "one given": SIX,
    "both given": (*FOUR, *SIX, "--gateway", "fd00:199:61::55", "--ip-range", "fd00:199:61::100/120"),
    "not switched on": ("--subnet", "fd00:199:61::/64"),
    "auxiliary": (*SIX, "--aux-address", "x=fd00:199:61::7"),
    "auxiliary is the gateway": (*SIX, "--aux-address", "x=fd00:199:61::1"),
    "range gives the gateway": (*SIX, "--ip-range", "fd00:199:61::1000/120"),
    "host bits": ("--ipv6", "--subnet", "fd00:199:61::1/64"),
    "range too large": (*SIX, "--ip-range", "fd00:199:61::/48"),
    "range with host bits": (*SIX, "--ip-range", "fd00:199:61::1/80"),
    "the anycast address": (*SIX, "--gateway", "fd00:199:61::"),
    "the network address": (*FOUR, "--gateway", "10.199.61.0"),
    "link-local part": ("--ipv6", "--subnet", "fe80::/80"),
    "multicast": ("--ipv6", "--subnet", "ff05::/64"),
    "too small": ("--ipv6", "--subnet", "fd00:199:61::/128"),
    "smallest": ("--ipv6", "--subnet", "fd00:199:61::/127"),
    "two of a family": (*SIX, "--subnet", "fd00:199:62::/64"),
    "capitals": ("--ipv6", "--subnet", "FD00:199:61:0::/64", "--gateway", "FD00:199:61::0001"),
    "routed": (*FOUR, *SIX, "-o", f"{MODE}6=routed"),
    "unknown mode": ("--ipv6", "-o", f"{MODE}6=bogus"),
    "isolated outside": ("--ipv6", "-o", f"{MODE}6=isolated"),
    "isolated": ("--internal", *FOUR, *SIX, "-o", f"{MODE}6=isolated", "-o", f"{MODE}4=isolated"),
    "internal": ("--internal", *FOUR, *SIX),
    "another way out": (*FOUR, "--aux-address", "DefaultGatewayIPv4=10.199.61.254"),
    "another way out of an internal one": ("--internal", *FOUR, "--aux-address", "DefaultGatewayIPv4=10.199.61.9"),
    "no number": (*FOUR, "-o", "com.docker.network.host_ipv6=x"),
}  # fmt: skip

_LOOK = (
    "ip -o addr show eth0 | sed 's/^[0-9]*: *//; s/ *valid_lft.*//; s/brd .*scope/scope/' | grep -v fe80; ip route;"
    " ip -6 route | grep -v fe80; tail -n 2 /etc/hosts; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"
)
CONTAINERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "both": ((*FOUR, *SIX), ()),
    "ipv6 alone": (("--ipv4=false", *SIX), ("-p", "127.0.0.1:18971:80", "-p", "18972:81")),
    "ipv4 alone": (FOUR, ()),
    "fixed": ((*FOUR, *SIX), ("--ip", "10.199.61.9", "--ip6", "fd00:199:61::99")),
    "fixed in an internal one": (("--internal", *FOUR, *SIX), ("--ip6", "fd00:199:61::99")),
    "isolated": (NETWORKS["isolated"], ("-p", "18973:80")),
    "another way out": (NETWORKS["another way out"], ()),
    "routed": (NETWORKS["routed"], ("-p", "18974:80")),
    "published": ((*FOUR, *SIX), ("-p", "18975:80", "-p", "[::1]:18976:81", "-p", "127.0.0.1:18977:82")),
    "outside": ((*FOUR, *SIX), ("--ip6", "fd00:199:62::99")),
    "no address": ((*FOUR, *SIX), ("--ip6", "banana")),
    "the wrong family": ((*FOUR, *SIX), ("--ip6", "10.199.61.7")),
    "the other wrong family": ((*FOUR, *SIX), ("--ip", "fd00:199:61::7")),
    "the gateway's": ((*FOUR, *SIX), ("--ip6", "fd00:199:61::1")),
    "fixed without a subnet": (("--ipv6",), ("--ip6", "fd00:199:61::99")),
}


@pytest.fixture(scope="module")
def docker() -> Iterator[Run]:
    def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], input=stdin, capture_output=True, check=False, timeout=60
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    assert run("import", "-", IMAGE, stdin=busybox_tar()).returncode == 0
    yield run
    run("rmi", IMAGE)


def plain(text: str) -> str:
    """Without which automatic network was the first free one. Ours begin with fd00."""
    text = re.sub(r"\bfd(?!00:)[0-9a-f]{2}:[0-9a-f]{1,4}:[0-9a-f]{1,4}:[0-9a-f:]*", "fdOWN", text)
    return re.sub(r"172\.\d+\.|192\.168\.\d+\.", "172.N.", text)


def failure(text: str) -> str:
    """The engine's words alone: our hint and both clients' advice follow them."""
    _, _, words = text.partition("Error response from daemon: ")
    lines = (words or text).splitlines()
    count = 1 + sum(line.startswith(("* ", "invalid ", "no ", "user ")) for line in lines[1:])
    return "\n".join(lines[:count]).removesuffix(".")


def network(run: Run, options: tuple[str, ...]) -> tuple[int, str]:
    done = run("network", "create", *options, "sampan-addresses")
    try:
        if done.returncode:
            return done.returncode, failure(done.stderr)
        return 0, plain(run("network", "inspect", "sampan-addresses", "--format", _INSPECT).stdout)
    finally:
        run("network", "rm", "sampan-addresses")


def container(run: Run, options: tuple[str, ...], flags: tuple[str, ...]) -> tuple[int, str]:
    assert run("network", "create", *options, "sampan-addresses").returncode == 0
    run_it = ("run", "-d", "--name", "sampan-addresses", "--hostname", "h1", "--network", "sampan-addresses")
    try:
        done = run(*run_it, *flags, IMAGE, "sleep", "60")
        if done.returncode:
            return done.returncode, failure(done.stderr)
        seen = run("exec", "sampan-addresses", "sh", "-c", _LOOK).stdout
        shown = run("inspect", "sampan-addresses", "--format", _ENDPOINT).stdout
        return 0, plain(seen + shown + run("port", "sampan-addresses").stdout)
    finally:
        run("rm", "-f", "sampan-addresses")
        run("network", "rm", "sampan-addresses")


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_is_the_same_or_refused_in_the_same_words(case: str, docker: Run, sampan: Any) -> None:
    assert network(sampan.run, NETWORKS[case]) == network(docker, NETWORKS[case])


@pytest.mark.parametrize("case", CONTAINERS)
def test_a_container_has_the_same_addresses_routes_and_ports(case: str, docker: Run, sampan: Any) -> None:
    sampan.ok("tag", "busybox:latest", IMAGE)
    assert container(sampan.run, *CONTAINERS[case]) == container(docker, *CONTAINERS[case])
