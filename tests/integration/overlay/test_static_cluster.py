"""A cluster without etcd: the first engine of the list keeps the store for the others."""

from __future__ import annotations

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


def test_a_static_list_without_a_secret_is_refused(new_lan: Any) -> None:
    host = new_lan.host()
    with pytest.raises(RuntimeError, match="a static cluster needs a secret that its hosts know"):
        host.start(STORE)
    host.engine = None
