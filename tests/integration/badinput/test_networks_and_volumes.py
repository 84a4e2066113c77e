"""Bad input about networks and volumes: Docker's messages where it has one, and nothing half-made is left.

What a message has to hold is what dockerd 28.5.2 says; of what only sampan has, what it says itself.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

NET = "10.249"
# Command lines, and a part of what each says.
REFUSED = (
    (f"network create --subnet {NET}.1.0/24 n", "Pool overlaps with other one on this address space"),
    (f"network create --subnet {NET}.0.0/16 n", "Pool overlaps with other one on this address space"),
    ("network create --ipv6 --subnet fd00:249::/65 n", "Pool overlaps with other one on this address space"),
    (f"network create --subnet {NET}.2.0/24 --gateway {NET}.3.1 n", f"no matching subnet for gateway {NET}.3.1"),
    (f"network create --subnet {NET}.2.0/24 --ip-range {NET}.3.0/25 n", f"no matching subnet for range {NET}.3.0/25"),
    (f"network create --gateway {NET}.3.1 n", "every ip-range or gateway must have a corresponding subnet"),
    (f"network create --subnet {NET}.2.9/24 n", f"invalid subnet {NET}.2.9/24: it should be {NET}.2.0/24"),
    (f"network create --subnet {NET}.2.0/33 n", f"invalid subnet {NET}.2.0/33: invalid CIDR block notation"),
    (
        f"network create --subnet {NET}.2.0/24 --gateway {NET}.2.1 --aux-address a={NET}.2.1 n",
        f"failed to allocate secondary ip address (a:{NET}.2.1): Address already in use",
    ),
    ("network create -d nosuch n", 'plugin "nosuch" not found'),
    ("network create --ipam-driver nosuch n", 'plugin "nosuch" not found'),
    ("network create -d host n", 'only one instance of "host" network is allowed'),
    ("network create there", "network with name there already exists"),
    ("network create -o com.docker.network.driver.mtu=x n", "failed to parse com.docker.network.driver.mtu value: x"),
    ("network create -o com.docker.network.driver.mtu=-1 n", "invalid MTU number: -1"),
    (
        "network create -o com.docker.network.bridge.enable_icc=maybe n",
        "failed to parse com.docker.network.bridge.enable_icc value: maybe",
    ),
    (
        "network create -o com.docker.network.bridge.host_binding_ipv4=x n",
        "failed to parse com.docker.network.bridge.host_binding_ipv4 value: x",
    ),
    ("network create -o com.docker.network.bridge.name={bridge} n", "networks have same bridge name"),
    ("network create -o com.docker.network.bridge.name=lo n", "existing interface lo is not a bridge"),
    ("network create -d macvlan -o parent=nosuch0 n", "invalid subinterface vlan name nosuch0"),
    ("network create -d overlay n", "--cluster-store"),
    ("network rm bridge", "bridge is a pre-defined network and cannot be removed"),
    ("network rm there", 'network there has active endpoints (name:"user"'),
    ("network rm nosuch", "No such network: nosuch"),
    ("network connect nosuch user", "network nosuch not found"),
    ("network connect there nosuch", "No such container: nosuch"),
    ("network connect there user", "endpoint with name user already exists in network there"),
    ("network connect none user", "with one of the networks in private (none) mode"),
    ("network connect host user", "cannot connect container to host network"),
    ("network disconnect bridge user", "is not connected to network bridge"),
    (f"run --rm --network there --ip {NET}.1.9 busybox true", "Address already in use"),
    (f"run --rm --network there --ip {NET}.9.9 busybox true", f"ip-range contain the IP address {NET}.9.9"),
    ("run --rm --network there --ip6 fd00:249::1 busybox true", "Address already in use"),
    ("run --rm --network small busybox true", "no available IPv4 addresses on this network's address pools: small"),
    ("run --rm --network nosuch busybox true", "network nosuch not found"),
    ("run --rm -p 127.0.0.1:{mine}:80 busybox true", "port is already allocated"),
    ("run --rm -p 127.0.0.1:{others}:80 busybox true", "address already in use"),
    ("run --rm -p 203.0.113.7::80 busybox true", "cannot assign requested address"),
    ("run --rm -v data:relative busybox true", "mount path must be absolute"),
    ("run --rm -v data:/x:nosuch busybox true", "invalid mode: nosuch"),
    ("run --rm -v /x:/ busybox true", "destination can't be '/'"),
    ("run --rm -v new1:/a -v new2:/a busybox true", "Duplicate mount point: /a"),
    ("run --rm --mount type=nosuch,dst=/a busybox true", "mount type unknown"),
    ("run --rm --mount type=bind,src=/no/such,dst=/a busybox true", "bind source path does not exist: /no/such"),
    ("run --rm -v new3:/a --mount type=bind,src=/no/such,dst=/b busybox true", "bind source path does not exist"),
    ("run --rm --mount type=volume,src=data,dst=/a,volume-subpath=no/such busybox true", "no/such"),
    ("run --rm --mount type=volume,src=data,dst=/a,volume-subpath=../.. busybox true", "subpath"),
    ("run --rm --mount type=image,src=nosuch:1,dst=/a busybox true", "nosuch:1"),
    ("run --rm --mount type=tmpfs,dst=/a,tmpfs-size=x busybox true", "invalid"),
    ("run --rm --volume-driver nosuch -v new4:/a busybox true", 'plugin "nosuch" not found'),
    ("run --rm --volumes-from nosuch busybox true", "No such container: nosuch"),
    ("volume create -d nosuch new5", 'plugin "nosuch" not found'),
    ("volume create -o nosuch=1 new6", 'invalid option: "nosuch"'),
    ("volume create -o type=tmpfs new7", 'missing required option: "device"'),
    ("volume create a/b", "includes invalid characters for a local volume name"),
    ("volume rm data", "volume is in use"),
    ("volume rm -f data", "volume is in use"),
    ("volume rm nosuch", "No such volume: nosuch"),
    ("volume inspect nosuch", "No such volume: nosuch"),
    ("volume restore new8 {damaged}", "corrupt"),
    ("volume restore new9 {empty}", "empty"),
    ("volume restore new10 /no/such/file", "/no/such/file"),
    ("volume backup nosuch {directory}/b.tar.zst", "no such volume"),
    ("volume clone nosuch new11", "no such volume"),
    ("volume clone data data", "a volume with this name exists already"),
    ("volume rename data nosuch/x", "includes invalid characters for a local volume name"),
    ("volume rename data data2", "a volume with the name data2 exists already"),
)  # fmt: skip


class Place:
    """What the commands are about: a network and a volume in use, a small network that is full, ports in use."""

    def __init__(self, sampan: Any, directory: Path) -> None:
        self.sampan = sampan
        sampan.ok(
            "network", "create", "--ipv6", "--subnet", f"{NET}.1.0/24", "--subnet", "fd00:249::/64", "there"
        )
        sampan.ok("network", "create", "--subnet", f"{NET}.8.0/30", "small")
        run = ("run", "-d", "--name")
        more = ("--ip", f"{NET}.1.9", "-v", "data:/data", "-p", "127.0.0.1::80")
        sampan.ok(*run, "user", "--network", "there", *more, "busybox", "sleep", "1000")
        sampan.ok(*run, "full", "--network", "small", "busybox", "sleep", "1000")
        sampan.ok("volume", "create", "data2")
        backup = directory / "backup.tar.zst"
        sampan.ok("volume", "backup", "data", str(backup))
        content = bytearray(backup.read_bytes())
        content[len(content) // 2] ^= 0xFF
        (directory / "damaged").write_bytes(content)
        (directory / "empty").touch()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.values = {
            "bridge": "br-" + sampan.ok("network", "inspect", "-f", "{{.Id}}", "there")[:12],
            "mine": sampan.ok("port", "user", "80").rpartition(":")[2],
            "others": str(self._listener.getsockname()[1]),
            "damaged": str(directory / "damaged"),
            "empty": str(directory / "empty"),
            "directory": str(directory),
        }

    def close(self) -> None:
        self._listener.close()

    def state(self) -> dict[str, Any]:
        """Everything that a half-made network or volume would show in."""
        alias = self.sampan.engine.bridge
        api, root = self.sampan.api.api, self.sampan.engine.root
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        rules = subprocess.run(
            ["nft", "-s", "list", "table", "inet", f"sampan-{alias}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return {
            "networks": sorted(network["Name"] for network in api.networks()),
            "volumes": sorted(volume["Name"] for volume in api.volumes()["Volumes"]),
            "containers": sorted(container["Names"][0] for container in api.containers(all=True)),
            "links": sorted(line.split()[1] for line in links.splitlines() if f"sampan:{alias}" in line),
            "rules": rules,
            "directories": {
                name: sorted(os.listdir(root / name)) for name in ("volumes", "snapshots", "containers")
            },
        }


@pytest.fixture(scope="module")
def place(shared_sampan: Any) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="sampan-badinput-") as directory:
        made = Place(shared_sampan, Path(directory))
        yield made
        made.close()
        shared_sampan.clean()


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[line for line, _ in REFUSED])
def test_it_is_refused_with_a_reason_and_leaves_nothing(
    place: Place, line: str, message: str, wait_until: Callable[..., None]
) -> None:
    before = place.state()
    done = place.sampan.run(*shlex.split(line.format(**place.values)))
    assert done.returncode in (1, 125, 127), done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.strip() and "internal error" not in done.stderr and "Traceback" not in done.stderr
    wait_until(lambda: place.state() == before, f"nothing left of it: {before} {place.state()}")


def test_when_all_pools_are_in_use_no_network_is_made(
    make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--default-address-pool", f"base={NET}.16.0/23,size=24")
    sampan = make_sampan(tmp_path / "engine", options=options)
    try:
        for name in ("one", "two"):
            sampan.ok("network", "create", name)
        done = sampan.run("network", "create", "three")
        assert done.returncode == 1
        assert "all predefined address pools have been fully subnetted" in done.stderr
        assert len(sampan.ok("network", "ls", "-q", "--filter", "type=custom").split()) == 2
        sampan.ok("network", "rm", "one")
        sampan.ok("network", "create", "three")
    finally:
        sampan.close()
        sampan.engine.stop()
