"""Three engines and etcd: containers on them find each other, whatever becomes of a host, an engine or etcd."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import Any

import pytest

from sampan.errors import Unsupported
from sampan.network.overlay.encryption import check_kernel

pytestmark = pytest.mark.root

SEND = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto({packet!r}, ({host!r}, 4789))"


def test_containers_of_three_hosts_reach_each_other_by_name_and_address(cluster: Any, tools: Any) -> None:
    tools.have_network(cluster, "backend", "--label", "tier=1")
    found = tools.addresses(cluster, "web", "backend")
    assert len(set(found)) == 3
    for host in cluster.hosts:
        me = f"web{host.number}"
        for other, address in zip(cluster.hosts, found, strict=True):
            tools.reaches(host, me, f"web{other.number}")
            assert host.pings(me, address)
            assert host.pings(me, f"web{other.number}.backend")
            named = host.inside(me, "nslookup", address).stdout
            assert f"web{other.number}.backend" in named
        assert "mtu 1450" in host.inside(me, "ip", "link", "show", "eth0").stdout
        # As much as fits: 1450 bytes less the headers of IP and ICMP.
        target = found[host.number % 3]
        assert host.inside(me, "ping", "-c", "1", "-w", "2", "-s", "1422", target).returncode == 0
        shown = host.inspect("backend")
        assert (
            shown["Scope"] == "global" and shown["Driver"] == "overlay" and shown["Labels"] == {"tier": "1"}
        )
        assert sorted(one["IPv4Address"] for one in shown["Containers"].values()) == sorted(
            f"{address}/24" for address in found
        )
        assert [one["IP"] for one in shown["Peers"]] == [one.address for one in cluster.hosts]
        assert shown["Cluster"]["State"] == "connected"
    ids = {host.sampan("network", "inspect", "-f", "{{.Id}}", "backend") for host in cluster.hosts}
    assert len(ids) == 1
    one, two, _ = cluster.hosts
    assert "active endpoints" in one.refused("network", "rm", "backend")
    # A shared name is everybody's who has it.
    one.run("aa", "--network", "backend", "--network-alias", "service")
    two.run("bb", "--network", "backend", "--network-alias", "service")
    tools.until(
        lambda: cluster.hosts[2].inside("web3", "nslookup", "service.").stdout.count("Address") == 3,
        "both addresses of the shared name",
    )
    two.sampan("rename", "bb", "cc")
    tools.until(lambda: one.pings("aa", "cc"), "the new name")
    assert not one.pings("aa", "bb")


def test_connecting_and_disconnecting_a_running_container_is_seen_by_the_other_hosts(
    cluster: Any, tools: Any
) -> None:
    tools.have_network(cluster, "live", "--subnet", "10.66.0.0/24", "--internal")
    one, two, _ = cluster.hosts
    one.run("roaming")
    two.run("still", "--network", "live", "--ip", "10.66.0.77")
    one.sampan("network", "connect", "--alias", "guest", "live", "roaming")
    tools.until(lambda: two.pings("still", "guest"), "the connected container is reached")
    assert one.pings("roaming", "10.66.0.77")
    assert "Address already in use" in one.refused(
        "run", "--network", "live", "--ip", "10.66.0.77", "busybox:latest", "true"
    )
    one.sampan("network", "disconnect", "live", "roaming")
    tools.until(lambda: not two.pings("still", "guest"), "the disconnected container is not")
    two.sampan("rm", "-f", "still")
    tools.until(
        lambda: one.engine.cli("network", "rm", "live", check=False).returncode == 0, "the network goes"
    )
    tools.each(cluster.hosts, lambda host: "live" not in host.sampan("network", "ls"), "no network")
    # Its devices go with it.
    assert "vx-" not in two.ip("link") and "ov-" not in two.ip("link")


def test_devices_of_an_overlay_network_that_somebody_deleted_are_made_again_with_all_that_they_knew(
    cluster: Any, tools: Any
) -> None:
    tools.have_network(cluster, "mended", "--subnet", "10.67.0.0/24")
    one, two, _ = cluster.hosts
    address = one.run("here", "--network", "mended")
    other = two.run("there", "--network", "mended")
    tools.until(lambda: one.pings("here", other), "a container on another host")
    number = one.inspect("mended")["Id"][:12]
    for device in (f"ov-{number}", f"vx-{number}"):
        one.command("ip", "link", "delete", device)
        tools.until(lambda: one.pings("here", other), f"the way out after {device} was deleted")
        assert two.pings("there", address)


def test_a_network_of_both_families_has_both_between_hosts(cluster: Any, tools: Any) -> None:
    tools.have_network(cluster, "both", "--ipv6", "--subnet", "10.67.0.0/24", "--subnet", "fd00:67::/64")
    tools.addresses(cluster, "web", "both")
    one, two, _ = cluster.hosts
    found = {}
    for host in cluster.hosts:
        shown = json.loads(
            host.sampan("inspect", "-f", "{{json .NetworkSettings.Networks.both}}", f"web{host.number}")
        )
        # The same place in both subnets.
        place = int(shown["IPAddress"].rsplit(".", 1)[1])
        assert shown["GlobalIPv6Address"] == f"fd00:67::{place:x}" and shown["IPv6Gateway"] == "fd00:67::1"
        found[host.number] = shown["GlobalIPv6Address"]
    for host in cluster.hosts:
        for address in found.values():
            tools.reaches(host, f"web{host.number}", address)
    assert found[2] in one.inside("web1", "nslookup", "-type=aaaa", "web2.").stdout
    members = two.inspect("both")["Containers"].values()
    assert {one["IPv6Address"] for one in members} == {f"{address}/64" for address in found.values()}
    one.sampan("network", "create", "-d", "overlay", "--ipv6", "own")
    assert one.inspect("own")["IPAM"]["Config"][1]["Subnet"].startswith("fd")


def six(host: Any, name: str) -> str:
    """The IPv6 address of a container in its only network."""
    form = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
    return str(host.sampan("inspect", "-f", form, name))


def test_an_ipv6_address_that_a_person_chooses_is_one_containers_among_all_hosts(
    cluster: Any, tools: Any
) -> None:
    one, two, three = cluster.hosts
    tools.have_network(cluster, "both", "--ipv6", "--subnet", "10.67.0.0/24", "--subnet", "fd00:67::/64")
    tools.addresses(cluster, "web", "both")

    def start(host: Any, name: str, address6: str, *options: str) -> None:
        host.run(name, "--network", "both", "--ip6", address6, *options)
        assert six(host, name) == address6

    start(one, "alone", "fd00:67::50")
    start(two, "decimal", "fd00:67::60", "--ip", "10.67.0.60")
    start(three, "far", "fd00:67::beef", "--ip", "10.67.0.70")
    start(two, "further", "fd00:67::1:0:0:2")
    chosen = {name: six(host, name) for host, name in ((one, "alone"), (two, "decimal"), (three, "far"))}
    chosen["further"] = six(two, "further")

    def all_reach_all() -> None:
        for host in cluster.hosts:
            for name, address in chosen.items():
                tools.reaches(host, f"web{host.number}", address)
                named = host.inside(f"web{host.number}", "nslookup", "-type=aaaa", f"{name}.").stdout
                assert address in named

    all_reach_all()
    shown = {one["Name"]: one["IPv6Address"] for one in three.inspect("both")["Containers"].values()}
    assert shown["decimal"] == "fd00:67::60/64"
    for host, words in (
        (two, ("--ip6", "fd00:67::50")),
        (three, ("--ip6", "fd00:67::60")),
        (three, ("--ip6", "fd00:67::60", "--ip", "10.67.0.90")),
        (one, ("--ip", "10.67.0.96")),  # that of the place that fd00:67::60 belongs to
        (one, ("--ip6", "fd00:67::beef")),
        (one, ("--ip6", "fd00:67::1")),  # the gateway's
    ):
        said = host.refused("run", "--rm", "--network", "both", *words, "busybox:latest", "true")
        assert "ddress already in use" in said, (words, said)
    outside = two.refused("run", "--network", "both", "--ip6", "fd00:68::5", "busybox:latest", "true")
    assert "no configured subnet" in outside
    two.engine.kill()
    two.engine.start()
    all_reach_all()
    assert two.pings("decimal", six(three, "far"))
    # What is given back can be another host's, in time.
    two.sampan("rm", "-f", "decimal", "further")
    tools.until(lambda: "decimal" not in str(three.inspect("both")["Containers"]), "it is known")
    again = (
        "run",
        "--rm",
        "--network",
        "both",
        "--ip6",
        "fd00:67::60",
        "--ip",
        "10.67.0.61",
        "busybox:latest",
    )
    tools.until(lambda: three.engine.cli(*again, "true", check=False).returncode == 0, "the same address")


def test_a_network_without_ipv4_joins_containers_of_three_hosts(cluster: Any, tools: Any) -> None:
    one, two, _ = cluster.hosts
    tools.have_network(cluster, "six", "--ipv4=false", "--ipv6", "--subnet", "fd00:68::/64")
    for host in cluster.hosts:
        name = f"web{host.number}"
        host.sampan("run", "-d", "--name", name, "--network", "six", "busybox:latest", "sleep", "1000000")
    two.sampan("run", "-d", "--name", "fixed", "--network", "six", "--ip6", "fd00:68::77", "busybox:latest",
               "sleep", "1000000")  # fmt: skip
    found = {f"web{host.number}": six(host, f"web{host.number}") for host in cluster.hosts}
    found["fixed"] = six(two, "fixed")
    assert found["fixed"] == "fd00:68::77" and len(set(found.values())) == 4
    for host in cluster.hosts:
        me = f"web{host.number}"
        for name, address in found.items():
            tools.reaches(host, me, address)
            assert host.inside(me, "ping", "-6", "-c", "1", "-w", "5", name).returncode == 0
        assert " inet " not in host.inside(me, "ip", "address", "show", "eth0").stdout
        shown = host.inspect("six")
        assert not shown["EnableIPv4"] and shown["EnableIPv6"]
        assert shown["IPAM"]["Config"] == [{"Subnet": "fd00:68::/64", "Gateway": "fd00:68::1"}]
        members = {
            one["Name"]: (one["IPv4Address"], one["IPv6Address"]) for one in shown["Containers"].values()
        }
        assert members == {name: ("", f"{address}/64") for name, address in found.items()}
    use = ("run", "--rm", "--network", "six", "--ip6")
    assert "ddress already in use" in one.refused(*use, "fd00:68::77", "busybox:latest", "true")
    assert "Addresses up to fd00:68::ff:fffe can be chosen" in one.refused(
        *use, "fd00:68::1:0:0", "busybox:latest", "true"
    )
    # Networks without IPv4 have no IPv4 subnets that could overlap; their own may not.
    create = ("network", "create", "-d", "overlay", "--ipv4=false", "--ipv6")
    one.sampan(*create, "second")
    assert "Pool overlaps" in two.refused(*create, "--subnet", "fd00:68::/80", "third")
    two.engine.kill()
    two.engine.start()
    tools.reaches(one, "web1", "fd00:68::77")
    tools.until(lambda: one.inside("web1", "ping", "-6", "-c", "1", "-w", "2", "fixed", check=False).returncode == 0,
                "its name is there again")  # fmt: skip


def test_published_ports_and_the_way_outside_are_those_of_the_containers_own_host(
    cluster: Any, tools: Any
) -> None:
    tools.have_network(cluster, "front")
    _, two, _ = cluster.hosts
    two.sampan("run", "-d", "--name", "www", "--network", "front", "-p", "8080:80", "busybox:latest",
               "nc", "-ll", "-p", "80", "-e", "echo", "from two")  # fmt: skip
    ask = [
        "nsenter",
        f"--net=/run/netns/{cluster.namespace}",
        "busybox",
        "nc",
        "-w",
        "2",
        two.address,
        "8080",
    ]
    tools.until(
        lambda: subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL).stdout == b"from two\n",
        "the published port",
    )
    assert two.pings("www", cluster.address)


def test_nobody_but_the_clusters_hosts_puts_frames_into_a_network_and_nothing_is_flooded(
    cluster: Any, tools: Any
) -> None:
    tools.have_network(cluster, "quiet")
    one, two, _ = cluster.hosts
    address = one.run("target", "--network", "quiet")
    two.run("other", "--network", "quiet")
    tools.until(lambda: two.pings("other", address), "the hosts' own traffic")
    shown = one.inspect("quiet")
    device = f"vx-{shown['Id'][:12]}"
    number = int(shown["Options"]["com.docker.network.driver.overlay.vxlanid_list"])

    def figures(host: Any) -> tuple[int, int]:
        found = json.loads(tools.run("ip", "-n", host.namespace, "-s", "-j", "link", "show", device))[0]
        return found["stats64"]["rx"]["packets"], found["stats64"]["tx"]["packets"]

    before = figures(one)
    # VXLAN (RFC 7348): flag "there is a number", the number; inside it an Ethernet frame for everybody.
    frame = b"\xff" * 6 + bytes.fromhex("02420a000099") + b"\x08\x06" + bytes(46)
    packet = struct.pack("!II", 0x08000000, number << 8) + frame
    send = [sys.executable, "-c", SEND.format(packet=packet, host=one.address)]
    tools.run("nsenter", f"--net=/run/netns/{cluster.namespace}", *send)
    tools.until(
        lambda: "counter packets 1 " in one.command("nft", "list", "ruleset"), "the foreign packet is dropped"
    )
    assert figures(one)[0] == before[0]
    tools.run(*two.prefix, *send)  # one of the cluster's hosts: it comes through
    tools.until(lambda: figures(one)[0] == before[0] + 1, "the peer's packet comes through")
    # Asking for an address that nobody has stays on this host, as do broadcasts.
    sent = figures(one)[1]
    assert not one.pings("target", address.rsplit(".", 1)[0] + ".200")
    assert figures(one)[1] == sent


def test_a_host_that_is_cut_off_goes_on_by_itself_and_is_there_again_when_it_is_back(
    cluster: Any, tools: Any
) -> None:
    tools.have_network(cluster, "backend")
    tools.addresses(cluster, "web", "backend")
    one, _, three = cluster.hosts
    three.run("local", "--network", "backend")
    tools.until(lambda: one.pings("web1", "local"), "all are there")
    three.cut_off()
    try:
        tools.until(lambda: "Name" in str(one.inside("web1", "nslookup", "web2").stdout), "the others' names")
        tools.until(
            lambda: one.inside("web1", "nslookup", "web3", check=False).returncode != 0,
            "the lost host's name goes",
        )
        tools.until(lambda: three.inspect("backend")["Cluster"]["State"] == "unreachable", "it knows")
        assert one.pings("web1", "web2")
        # On the host itself nothing has changed, but that it can agree on nothing.
        assert three.pings("local", "web3")
        assert "does not answer" in three.refused("network", "create", "-d", "overlay", "more")
        warnings = three.info()["Warnings"]
        assert any("the cluster store" in one for one in warnings), warnings
    finally:
        three.cut_off(cut=False)
    tools.until(lambda: three.inspect("backend")["Cluster"]["State"] == "connected", "it is back")
    tools.until(lambda: one.pings("web1", "web3") and one.pings("web1", "local"), "its names are back")
    assert three.pings("web3", "web1")


def test_without_etcd_traffic_and_names_go_on_also_through_a_killed_engine(cluster: Any, tools: Any) -> None:
    tools.have_network(cluster, "backend")
    found = tools.addresses(cluster, "web", "backend")
    one, two, three = cluster.hosts
    tools.until(lambda: two.pings("web2", "web1") and one.pings("web1", "web2"), "all are there")
    tools.until(lambda: _noted_names(two) == 3, "the engine has noted all names on disk")
    cluster.etcd.kill()
    try:
        tools.each(
            (one, two),
            lambda host: host.inspect("backend")["Cluster"]["State"] == "unreachable",
            "it is noticed",
        )
        assert one.pings("web1", "web3")
        two.engine.kill()
        assert one.pings("web1", found[1]) and three.pings("web3", found[1])
        two.engine.start()
        assert two.pings("web2", "web1") and one.pings("web1", "web2")
        assert two.inspect("backend")["Cluster"]["State"] == "unreachable"
        # An address that the host has kept is enough for a new container.
        two.run("late", "--network", "backend")
        assert two.pings("late", "web1")
        assert "does not answer" in one.refused("network", "create", "-d", "overlay", "more")
    finally:
        cluster.etcd.start()
    tools.each(
        cluster.hosts,
        lambda host: host.inspect("backend")["Cluster"]["State"] == "connected",
        "connected again",
    )
    tools.until(lambda: one.pings("web1", "late"), "what has begun meanwhile is known")
    assert not any("cluster store" in warning for warning in two.info()["Warnings"] or ())


def _noted_names(host: Any) -> int:
    """How many containers' names are in the engine's file; their addresses come before them."""
    text: str = (host.engine.root / "cluster" / "view.json").read_text()
    return text.count('"sampan/endpoints/')


def test_an_etcd_that_has_lost_its_data_gets_it_back_from_the_engines(cluster: Any, tools: Any) -> None:
    tools.have_network(cluster, "backend")
    tools.addresses(cluster, "web", "backend")
    one, _, three = cluster.hosts
    tools.until(lambda: three.pings("web3", "web1"), "all are there")
    cluster.etcd.kill()
    cluster.etcd.lose_data()
    cluster.etcd.start()
    tools.each(
        cluster.hosts,
        lambda host: host.inspect("backend")["Cluster"]["State"] == "connected",
        "connected again",
    )
    tools.each(cluster.hosts, lambda host: len(host.inspect("backend")["Containers"]) == 3, "all containers")
    assert one.pings("web1", "web3")
    assert "backend" in cluster.etcd.control("get", "--prefix", "--keys-only", "sampan/names/")


def test_rubbish_in_etcd_is_not_believed_and_hurts_nobody(cluster: Any, tools: Any) -> None:
    tools.have_network(cluster, "backend")
    one, two, _ = cluster.hosts
    one.run("web", "--network", "backend")
    network = one.inspect("backend")["Id"]
    put = cluster.etcd.control
    evil = json.dumps({"host": "e" * 32, "at": "127.0.0.1", "mac": "02:42:0a:00:00:63", "endpoint": "e" * 64})
    put("put", f"sampan/addresses/{network}/10.0.0.99", evil)
    put("put", f"sampan/hosts/{'e' * 32}", "{")
    route = {
        "id": "f" * 64,
        "name": "x",
        "created": "2026-01-01T00:00:00Z",
        "vni": 9999,
        "gateway": "1.0.0.1",
    }
    two.sampan("network", "create", "x")
    put("put", f"sampan/networks/{'f' * 64}", json.dumps({**route, "subnet": "0.0.0.0/0"}))
    put("put", f"sampan/networks/{'0' * 64}", json.dumps({**route, "id": "0" * 64, "subnet": "1.0.0.0/24"}))
    try:
        tools.until(lambda: one.inspect("backend")["Cluster"]["RejectedEntries"] == 3, "three are refused")
        # The last one is a network like another: it is shown, and has nothing on a host where nobody uses it.
        tools.until(
            lambda: "x" in two.sampan("network", "ls", "--format", "{{.Name}}").split(), "the network"
        )
        assert "1.0.0" not in two.ip("route")
        tools.until(lambda: "0" * 12 in two.sampan("network", "ls"), "it is known")
        two.engine.kill()
        two.engine.start()
        # It takes nobody's name away on a host that has a network called so.
        assert two.inspect("x")["Driver"] == "bridge" and one.inspect("x")["Driver"] == "overlay"
        two.run("db", "--network", "backend")
        tools.until(lambda: two.pings("db", "web"), "the rest works")
        # Somebody makes another network of it: those who are in it stay among themselves.
        was = put("get", "--print-value-only", f"sampan/networks/{network}").strip()
        try:
            put("put", f"sampan/networks/{network}", json.dumps({**json.loads(was), "vni": 9998}))
            use = ("run", "--rm", "--network", "backend", "busybox:latest", "true")
            tools.until(
                lambda: "has been changed in the cluster's store" in two.engine.cli(*use, check=False).stderr,
                "the change is seen",
            )
            assert two.pings("db", "web")
        finally:
            put("put", f"sampan/networks/{network}", was)
        tools.until(lambda: two.engine.cli(*use, check=False).returncode == 0, "it is as it was")
    finally:
        two.sampan("network", "rm", two.inspect("x")["Id"])
        for key in (f"addresses/{network}/10.0.0.99", f"hosts/{'e' * 32}", f"networks/{'f' * 64}"):
            put("del", f"sampan/{key}")


def encryption_fault() -> str:
    """Why this kernel can not encrypt; "" when it can."""
    try:
        check_kernel()
    except Unsupported as error:
        return error.message
    return ""


def test_what_can_not_be_is_refused_with_the_reason(cluster: Any, tools: Any) -> None:
    one, two, _ = cluster.hosts
    create = ("network", "create", "-d", "overlay")
    tools.have_network(cluster, "taken", "--subnet", "10.77.0.0/24")
    assert "network with name taken already exists" in two.refused(*create, "taken")
    assert "Pool overlaps" in two.refused(*create, "--subnet", "10.77.0.0/16", "wider")
    assert "is no subnet for an overlay network" in two.refused(*create, "--subnet", "10.78.0.0/31", "small")
    if fault := encryption_fault():
        said = two.refused(*create, "--opt", "encrypted", "private")
        assert "network private can not be encrypted" in said and fault in said
        assert "private" not in one.sampan("network", "ls")
    assert "follow the IPv4 ones" in two.refused(
        *create, "--ipv6", "--subnet", "fd00:66::/64", "--gateway", "fd00:66::99", "six"
    )
    two.ip("route", "add", "blackhole", "10.79.0.0/24")
    one.sampan(*create, "--subnet", "10.79.0.0/24", "elsewhere")
    tools.each(cluster.hosts, lambda host: "elsewhere" in host.sampan("network", "ls"), "the network")
    said = two.refused("run", "--network", "elsewhere", "busybox:latest", "true")
    assert "can not be used on this host: its subnet overlaps 10.79.0.0/24" in said
    two.ip("route", "delete", "blackhole", "10.79.0.0/24")
    two.sampan("run", "--rm", "--network", "elsewhere", "busybox:latest", "true")
