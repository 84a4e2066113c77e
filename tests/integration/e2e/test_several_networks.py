"""Containers in several networks: default routes and ports that move, interfaces with options of their own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import docker
import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
ENDPOINT = "com.docker.network.endpoint"
BRIDGE = "com.docker.network.bridge"


def default_route(sampan: Any, container: str) -> str:
    """The interface and the gateway of the container's default route; "" without one."""
    found = re.search(r"default via (\S+) dev (\S+)", sampan.ok("exec", container, "ip", "route"))
    return f"{found[2]} {found[1]}" if found else ""


def test_the_default_route_goes_where_the_priority_is_and_moves_when_networks_come_and_go(
    sampan: Any,
) -> None:
    gateways = {}
    for name, options in (("b1", []), ("b2", []), ("a3", []), ("closed", ["--internal"])):
        sampan.ok("network", "create", *options, name)
        gateways[name] = sampan.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name)
    sampan.ok(
        "run", "-d", "--name", "one", "--network", "b1", "--network", "name=b2,gw-priority=1",
        BUSYBOX, "sleep", "1000",
    )  # fmt: skip
    assert default_route(sampan, "one") == f"eth1 {gateways['b2']}"
    sampan.ok("network", "connect", "--gw-priority", "2", "a3", "one")
    assert default_route(sampan, "one") == f"eth2 {gateways['a3']}"
    sampan.ok("network", "connect", "--gw-priority", "9", "closed", "one")
    assert default_route(sampan, "one") == f"eth2 {gateways['a3']}", "an internal network leads nowhere"
    sampan.ok("network", "disconnect", "a3", "one")
    assert default_route(sampan, "one") == f"eth1 {gateways['b2']}"
    sampan.ok("network", "connect", "a3", "one")
    assert default_route(sampan, "one") == f"eth1 {gateways['b2']}"
    sampan.ok("network", "disconnect", "b2", "one")
    assert default_route(sampan, "one") == f"eth2 {gateways['a3']}", "then by name"
    sampan.ok("network", "disconnect", "a3", "one")
    assert default_route(sampan, "one") == f"eth0 {gateways['b1']}"
    sampan.ok("network", "disconnect", "b1", "one")
    assert default_route(sampan, "one") == ""
    sampan.ok("network", "connect", "b2", "one")
    assert default_route(sampan, "one") == f"eth0 {gateways['b2']}"
    sampan.ok("restart", "-t", "0", "one")
    assert default_route(sampan, "one").endswith(gateways["b2"])


def test_a_container_that_has_broken_its_other_interface_can_leave_a_network_all_the_same(
    sampan: Any,
) -> None:
    for name in ("b1", "b2"):
        sampan.ok("network", "create", name)
    sampan.ok(
        "run", "-d", "--name", "one", "--cap-add", "NET_ADMIN", "--network", "b1", "--network", "b2",
        BUSYBOX, "sleep", "1000",
    )  # fmt: skip
    sampan.ok("exec", "one", "ip", "link", "set", "eth1", "down")
    sampan.ok("network", "disconnect", "b1", "one")
    assert list(json.loads(sampan.ok("inspect", "one"))[0]["NetworkSettings"]["Networks"]) == ["b2"]
    sampan.ok("network", "rm", "b1")


def test_published_ports_follow_the_default_route(sampan: Any, wait_until: Callable[..., None]) -> None:
    for name in ("b1", "a2"):
        sampan.ok("network", "create", name)
    sampan.ok(
        "run", "-d", "--name", "web", "--network", "b1", "-p", "127.0.0.1::80",
        BUSYBOX, "httpd", "-f", "-p", "80", "-h", "/etc",
    )  # fmt: skip
    places = [sampan.ok("port", "web", "80")]

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{places[-1]}/passwd", timeout=10) as answer:
                return b"root" in answer.read()
        except OSError:
            return False

    wait_until(answers, "the server")
    sampan.ok("network", "connect", "a2", "web")
    assert answers()
    sampan.ok("network", "disconnect", "b1", "web")
    assert answers() and sampan.ok("port", "web", "80") == places[0]
    sampan.ok("network", "disconnect", "a2", "web")
    assert not answers() and sampan.ok("port", "web") == ""
    sampan.ok("network", "connect", "b1", "web")
    places.append(sampan.ok("port", "web", "80"))
    assert answers()


def test_interfaces_and_bridges_have_the_options_that_were_asked_for(sampan: Any) -> None:
    sampan.ok(
        "network", "create", "--subnet", "10.199.20.0/24",
        "-o", "com.docker.network.container_iface_prefix=lan", "-o", "com.docker.network.driver.mtu=1400",
        "-o", f"{BRIDGE}.name=smpopt0", "-o", f"{BRIDGE}.inhibit_ipv4=true",
        "-o", f"{BRIDGE}.host_binding_ipv4=127.0.0.2", "opted",
    )  # fmt: skip
    # While no container is there whose interface the bridge would follow.
    assert Path("/sys/class/net/smpopt0/mtu").read_text() == "1400\n"
    sampan.ok("network", "create", "plain")
    sysctl = f'"driver-opt={ENDPOINT}.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"'
    sampan.ok(
        "run", "-d", "--name", "one", "-p", "80", "--network", "opted",
        "--network", f"name=plain,driver-opt={ENDPOINT}.ifname=wan,{sysctl},mac-address=02:00:00:00:00:77",
        BUSYBOX, "sleep", "1000",
    )  # fmt: skip
    links = sampan.ok("exec", "one", "ip", "-o", "link")
    assert re.search(r"lan0@.* mtu 1400 ", links) and re.search(r"wan@.* mtu 1500 .*02:00:00:00:00:77", links)
    read = [
        "exec",
        "one",
        "cat",
        *(f"/proc/sys/net/ipv4/conf/{name}/log_martians" for name in ("wan", "lan0")),
    ]
    assert sampan.ok(*read).split() == ["1", "0"]
    assert sampan.ok("port", "one", "80").startswith("127.0.0.2:")
    shown = json.loads(
        subprocess.run(["ip", "-j", "addr", "show", "smpopt0"], capture_output=True, check=True).stdout
    )
    assert [one for one in shown[0]["addr_info"] if one["family"] == "inet"] == []
    sampan.ok("network", "create", "second")
    option = f"{ENDPOINT}.sysctls=net.ipv4.conf.IFNAME.absent=1"
    done = sampan.run("network", "connect", "--driver-opt", option, "second", "one")
    assert done.returncode == 1 and "net.ipv4.conf.eth0.absent" in done.stderr
    assert "eth0" not in sampan.ok("exec", "one", "ip", "link"), "nothing half-made is left"
    done = sampan.run("network", "connect", "--driver-opt", f"{ENDPOINT}.ifname=wan", "second", "one")
    assert done.returncode == 1 and "wan" in done.stderr


def test_a_configuration_is_what_networks_are_made_from(sampan: Any) -> None:
    sampan.ok("network", "create", "--config-only", "--subnet", "10.199.21.0/24", "--label", "a=b", "conf")
    sampan.ok("network", "create", "--config-from", "conf", "real")
    (shown,) = json.loads(sampan.ok("network", "inspect", "real"))
    assert shown["IPAM"]["Config"][0]["Subnet"] == "10.199.21.0/24" and shown["Labels"] == {"a": "b"}
    assert shown["ConfigFrom"] == {"Network": "conf"} and not shown["ConfigOnly"]
    assert sampan.ok("run", "--rm", "--network", "real", BUSYBOX, "ip", "-o", "-4", "addr", "show", "eth0")
    assert 'configuration network "conf" is in use' in sampan.run("network", "rm", "conf").stderr
    done = sampan.run("run", "--rm", "--network", "conf", BUSYBOX, "true")
    assert done.returncode == 125 and "cannot create endpoint on configuration-only network" in done.stderr
    sampan.ok("network", "prune", "-f")
    assert "conf" in sampan.ok("network", "ls", "--format", "{{.Name}}").split()
    assert sampan.ok("network", "rm", "conf") == "conf"


def test_links_are_hosts_entries_and_variables_on_the_default_bridge_and_names_elsewhere(sampan: Any) -> None:
    sampan.ok("network", "create", "linked")
    sampan.ok("run", "-d", "--name", "old", "-e", "FOO=bar", "--expose", "80", BUSYBOX, "sleep", "1000")
    sampan.ok("run", "-d", "--name", "new", "--network", "linked", BUSYBOX, "sleep", "1000")
    script = "env | sort; ping -c1 -W2 my-peer"
    told = sampan.ok("run", "--rm", "--name", "asks", "--link", "old:my-peer", BUSYBOX, "sh", "-c", script)
    assert (
        "MY_PEER_ENV_FOO=bar" in told
        and "MY_PEER_NAME=/asks/my-peer" in told
        and "1 packets received" in told
    )
    assert re.search(r"^MY_PEER_PORT_80_TCP_ADDR=\d", told, re.MULTILINE)
    told = sampan.ok(
        "run", "--rm", "--network", "linked", "--link", "new:my-peer", BUSYBOX, "sh", "-c", script
    )
    assert "1 packets received" in told and "MY_PEER" not in told
    done = sampan.run("run", "--rm", "--link", "new:my-peer", BUSYBOX, "true")
    assert done.returncode == 125 and "not attached to default bridge network" in done.stderr


@pytest.mark.parametrize("name", ["my net", "team/web", 'a"b\\', "-d", "größe'; }"])
def test_a_network_may_have_any_name_that_can_be_seen(sampan: Any, name: str) -> None:
    """As with Docker, 20.10 and 28.5."""
    sampan.ok("network", "create", "--internal", "--", name)
    assert sampan.ok("network", "inspect", "-f", "{{.Name}}", "--", name) == name
    run = ("run", "-d", f"--network={name}")
    sampan.ok(*run, "--name", "one", BUSYBOX, "sleep", "1000")
    sampan.ok("run", "-d", "--name", "two", "--network", "none", BUSYBOX, "sleep", "1000")
    sampan.ok("network", "disconnect", "none", "two")
    sampan.ok("network", "connect", "--alias", "second", "--", name, "two")
    sampan.ok("exec", "one", "ping", "-c1", "-W2", "second")
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    own = [part for part in listed.split("\ntable ") if "sampan-" in part.partition("{")[0]]
    table = "\ntable ".join(["", *own])
    subprocess.run(["nft", "-c", "-f", "-"], input=table, text=True, check=True)  # it can be read back
    sampan.ok("network", "disconnect", "--", name, "two")
    sampan.ok("rm", "-f", "one", "two")
    sampan.ok("network", "rm", "--", name)
    assert name not in sampan.ok("network", "ls", "--format", "{{.Name}}").splitlines()


def test_a_container_that_ends_while_it_is_connected_and_disconnected_leaves_nothing(
    sampan: Any, wait_until: Callable[..., None]
) -> None:
    api = sampan.api.api
    nets = [
        api.create_network(name, ipam={"Config": [{"Subnet": f"10.97.{number}.0/28"}]})["Id"]
        for number, name in enumerate(("b1", "b2"))
    ]
    api.create_container(
        BUSYBOX,
        ["sleep", "1000"],
        name="one",
        ports=[80],
        host_config=api.create_host_config(network_mode="b1", port_bindings={80: 18977}),
    )

    def ask(call: Callable[..., Any], *arguments: str) -> None:
        with contextlib.suppress(docker.errors.APIError):  # it has ended, or is not in the network
            call(*arguments)

    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            api.start("one")
            leaves = number % 4 == 3
            change = api.disconnect_container_from_network if leaves else api.connect_container_to_network
            wait([pool.submit(ask, change, "one", nets[not leaves]), pool.submit(ask, api.kill, "one")])
            ask(api.disconnect_container_from_network, "one", nets[1])
            ask(api.connect_container_to_network, "one", nets[0])
            ask(api.kill, "one")
            api.wait("one")
    api.remove_container("one", force=True)

    def claimed() -> set[str]:
        table = f"sampan-{sampan.engine.bridge}"
        done = subprocess.run(
            ["nft", "list", "table", "bridge", table], capture_output=True, text=True, check=True
        )
        return set(re.findall(r"10\.97\.\d\.\d+", done.stdout))

    # Interfaces of an ended container go by themselves; the gateways' claims alone stay.
    wait_until(lambda: claimed() == {"10.97.0.1", "10.97.1.1"})
    with socket.create_server(("127.0.0.1", 18977)):
        pass
    for network in nets:
        api.remove_network(network)
