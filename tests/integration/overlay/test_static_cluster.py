"""A cluster without etcd: the first engine of the list keeps the store for the others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Unsupported
from sampan.network.overlay.encryption import check_kernel

pytestmark = pytest.mark.root

STORE = "static:198.18.0.1,198.18.0.2"


def test_the_first_of_a_list_keeps_the_store_and_only_who_knows_the_secret_is_answered(
    new_lan: Any, tools: Any, tmp_path: Path
) -> None:
    for name in ("secret", "other"):
        (tmp_path / name).write_text(f"{name} of sixteen characters and more\n")

    def start(host: Any, name: str) -> Any:
        return host.start(STORE, "--cluster-store-opt", f"secret-file={tmp_path / name}")

    one, two, stranger = (new_lan.host() for _ in range(3))
    start(one, "secret")
    start(two, "secret")
    start(stranger, "other")
    one.sampan("network", "create", "-d", "overlay", "backend")
    tools.until(lambda: "backend" in two.sampan("network", "ls"), "the network is known")
    address = one.run("web", "--network", "backend")
    two.run("db", "--network", "backend")
    tools.reaches(two, "db", "web")
    tools.reaches(one, "web", "db")

    assert "backend" not in stranger.sampan("network", "ls")
    state = stranger.info()["ClusterState"]
    assert state["State"] == "unreachable" and "not signed with the cluster's secret" in state["Error"]
    request = b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    ask = [*stranger.prefix, "busybox", "nc", "-w", "5", one.address, "7946"]
    answer = subprocess.run(ask, input=request, capture_output=True, timeout=20).stdout
    assert answer.startswith(b"HTTP/1.1 403 ") and b"sampan/" not in answer

    # The keeper's engine is gone: traffic is not, and its data is on disk.
    one.engine.kill()
    tools.until(lambda: two.info()["ClusterState"]["State"] == "unreachable", "it is noticed")
    assert two.pings("db", "web") and two.pings("db", address)
    one.engine.start()
    tools.until(lambda: two.info()["ClusterState"]["State"] == "connected", "the store is back")
    assert two.pings("db", "web")
    one.run("late", "--network", "backend")
    tools.reaches(two, "db", "late")
    stranger.engine.stop()
    stranger.engine = None


def test_hosts_go_on_without_the_one_that_keeps_the_store_and_tell_the_next_one_what_they_know(
    new_lan: Any, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of sixteen characters and more\n")
    hosts = [new_lan.host() for _ in range(3)]
    for host in hosts:
        host.start("static:198.18.0.1", "--cluster-store-opt", f"secret-file={tmp_path / 'secret'}")
    keeper, two, three = hosts
    tools.have_network(new_lan, "backend")
    tools.have_network(new_lan, "unused", "--label", "tier=1")
    tools.addresses(new_lan, "web", "backend")
    for host in hosts:
        tools.reaches(host, f"web{host.number}", f"web{host.number % 3 + 1}")

    def state(host: Any) -> str:
        return str(host.info()["ClusterState"]["State"])

    keeper.cut_off()
    for host in (two, three):
        tools.until(lambda host=host: state(host) == "unreachable", "the host says so")
    assert two.pings("web2", "web3") and three.pings("web3", "web2")
    two.run("late", "--network", "backend")  # with an address that the host has kept
    assert two.pings("late", "web3")
    assert "does not answer" in three.refused("network", "create", "-d", "overlay", "more")
    keeper.cut_off(cut=False)
    for host in (two, three):
        tools.until(lambda host=host: state(host) == "connected", "the host is connected again")
    tools.reaches(three, "web3", "late")
    tools.reaches(keeper, "web1", "web2")

    # Another machine with the keeper's address: it knows nothing, also not which cluster this was.
    keeper.engine.kill()
    shutil.rmtree(keeper.engine.root / "cluster")
    keeper.engine.start()
    for host in hosts:
        tools.until(lambda host=host: state(host) == "connected", "the host is connected to the new store")
    tools.each(hosts, lambda host: len(host.inspect("backend")["Containers"]) == 4, "all containers")
    tools.each(
        hosts,
        lambda host: "unused" in host.sampan("network", "ls", "--filter", "label=tier=1"),
        "its network",
    )
    for host in hosts:
        tools.reaches(host, f"web{host.number}", "late")
        host.run(f"new{host.number}", "--network", "unused")
    tools.reaches(keeper, "new1", "new3")
    for host in hosts:
        assert b"Traceback" not in host.engine.log.read_bytes()


def encryption_fault() -> str:
    """Why this kernel can not encrypt; "" when it can."""
    try:
        check_kernel()
    except Unsupported as error:
        return error.message
    return ""


def test_containers_of_an_encrypted_network_talk_by_keys_that_engines_renew(
    new_lan: Any, tools: Any, tmp_path: Path
) -> None:
    """Needs a kernel with ESP: tools/vm-test boots one."""
    if fault := encryption_fault():
        pytest.skip(fault)
    (tmp_path / "secret").write_text("of sixteen characters and more\n")
    one, two = (new_lan.host() for _ in range(2))
    for host in (one, two):
        host.start(STORE, "--cluster-store-opt", f"secret-file={tmp_path / 'secret'}")
    one.sampan("network", "create", "-d", "overlay", "--opt", "encrypted", "backend")
    tools.until(lambda: "backend" in two.sampan("network", "ls"), "the network is known", 120)
    one.run("web", "--network", "backend")
    two.run("db", "--network", "backend")
    tools.until(lambda: two.pings("db", "web"), "the first packet", 120)
    assert "mtu 1416" in one.inside("web", "ip", "link", "show", "eth0").stdout
    assert one.inside("web", "ping", "-c", "1", "-w", "20", "-s", "1388", "db").returncode == 0
    # That nothing goes in the clear is seen on the wire by network/test_overlay_encryption.py.
    assert "rfc4106(gcm(aes))" in one.ip("xfrm", "state") and "dport 4788" in one.ip("xfrm", "policy")
    before = {line for line in one.ip("xfrm", "state").splitlines() if "spi" in line}
    one.engine.kill()
    one.engine.start()
    tools.until(lambda: one.pings("web", "db"), "the restarted engine's traffic", 120)
    after = {line for line in one.ip("xfrm", "state").splitlines() if "spi" in line}
    assert after == before, "the keys of before are used on"
    two.engine.kill()
    two.ip("xfrm", "state", "deleteall")
    two.engine.start()
    tools.until(lambda: two.pings("db", "web"), "keys that were lost have successors", 120)
    new_lan.clean()
    one.engine.terminate()
    assert one.ip("xfrm", "state") == one.ip("xfrm", "policy") == ""


def test_hosts_that_reach_each_other_by_ipv6_share_networks_too(
    new_lan: Any, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of sixteen characters and more\n")
    one, two = (new_lan.host() for _ in range(2))
    for host in (one, two):
        host.address = f"fd00:18::{host.number}"
        host.ip("address", "add", f"{host.address}/64", "dev", "eth0", "nodad")
    for host in (one, two):
        secret = f"secret-file={tmp_path / 'secret'}"
        host.start("static:[fd00:18::1],[fd00:18::2]", "--cluster-store-opt", secret)
    one.sampan("network", "create", "-d", "overlay", "backend")
    tools.until(lambda: "backend" in two.sampan("network", "ls"), "the network is known")
    one.run("web", "--network", "backend")
    two.run("db", "--network", "backend")
    tools.reaches(two, "db", "web")
    assert "mtu 1430" in one.inside("web", "ip", "link", "show", "eth0").stdout
    assert one.inside("web", "ping", "-c", "1", "-w", "5", "-s", "1402", "db").returncode == 0

    # A network without any IPv4: its ports are published, and its way outside is through its host.
    new_lan.ip("address", "add", "fd00:18::fe/64", "dev", "lan", "nodad")
    tools.have_network(new_lan, "six", "--ipv4=false", "--ipv6")
    one.sampan("run", "-d", "--name", "far", "--network", "six", "busybox:latest", "sleep", "1000000")
    two.sampan("run", "-d", "--name", "www", "--network", "six", "-p", "8080:80", "busybox:latest",
               "nc", "-ll", "-p", "80", "-e", "echo", "from two")  # fmt: skip
    ask = ("busybox", "nc", "-w", "2", two.address, "8080")
    tools.until(
        lambda: (
            subprocess.run([*new_lan.prefix, *ask], capture_output=True, stdin=subprocess.DEVNULL).stdout
            == b"from two\n"
        ),
        "the published port",
    )
    tools.until(lambda: one.inside("far", "nc", "-w", "2", "www", "80", check=False).stdout == "from two\n",
                "the port itself from another host")  # fmt: skip
    assert two.pings("www", "fd00:18::fe") and one.pings("far", "fd00:18::fe")


def test_a_static_list_without_a_secret_is_refused(new_lan: Any) -> None:
    host = new_lan.host()
    with pytest.raises(RuntimeError, match="a static cluster needs a secret that its hosts know"):
        host.start(STORE)
    host.engine = None
