"""An etcd of three members, and one behind TLS with users: engines go on as long as it does, or say why not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.etcd import make_certificates, make_user

pytestmark = pytest.mark.root


def test_engines_go_on_while_members_of_etcd_are_killed_stopped_and_come_back(
    new_lan: Any, tools: Any
) -> None:
    members = [new_lan.member(number, 3) for number in range(3)]
    for member in members:
        member.launch()
    for member in members:
        member.wait()
    urls = [member.url.removeprefix("etcd://") for member in members]
    one, two = (new_lan.host() for _ in range(2))
    # Each asks, and listens to, another one first.
    one.start("etcd://" + ",".join(urls))
    two.start("etcd://" + ",".join([urls[1], urls[2], urls[0]]))

    def state(host: Any) -> str:
        return str(host.info()["ClusterState"]["State"])

    def meet(name: str) -> None:
        """What one host says arrives at the other, both ways."""

        def made() -> bool:
            """Hosts whose leases are over, as nobody answered for seconds, have to get new ones first."""
            done = one.engine.cli("network", "create", "-d", "overlay", name, check=False)
            return done.returncode == 0 or "already exists" in done.stderr

        tools.until(made, f"network {name} is made")
        tools.until(lambda: name in two.sampan("network", "ls"), f"network {name}")
        for host, kind in ((one, "web"), (two, "db")):
            tools.until(lambda host=host: state(host) == "connected", "the host is connected")
            host.run(f"{kind}-{name}", "--network", name)
        tools.reaches(two, f"db-{name}", f"web-{name}")
        tools.reaches(one, f"web-{name}", f"db-{name}")

    meet("all")
    members[0].kill()
    meet("killed")
    members[0].start()
    # It answers nothing, but its connections stay.
    members[1].send(signal.SIGSTOP)
    meet("stopped")
    members[1].send(signal.SIGCONT)
    members[1].wait()
    meet("returned")

    for member in members[:2]:
        member.kill()
    for host in (one, two):
        tools.until(lambda host=host: state(host) == "unreachable", "the host says so")
    assert one.pings("web-all", "db-all") and two.pings("db-returned", "web-returned")
    said = one.refused("network", "create", "-d", "overlay", "more")
    assert "the cluster store" in said and "does not answer" in said
    for member in members[:2]:
        member.launch()
    for host in (one, two):
        tools.until(lambda host=host: state(host) == "connected", "the host is connected again", 60)
    meet("again")
    for host in (one, two):
        assert b"Traceback" not in host.engine.log.read_bytes()


def test_an_engine_shows_etcd_its_certificate_and_its_password(
    new_lan: Any, tools: Any, tmp_path: Path
) -> None:
    make_certificates(tmp_path, new_lan.address)
    etcd = new_lan.member(certificates=tmp_path)
    etcd.start()
    make_user(etcd, "sampan", "of sampan", "sampan/")
    certificates = {"kv.cacertfile": "ca.pem", "kv.certfile": "cert.pem", "kv.keyfile": "key.pem"}
    files = {**certificates, "kv.passwordfile": "password"}

    def start(host: Any, password: str) -> None:
        (tmp_path / "password").write_text(f"{password}\n")
        options = [f"{name}={tmp_path / file}" for name, file in files.items()]
        options += ["kv.username=sampan"]
        host.start(etcd.url, *(word for option in options for word in ("--cluster-store-opt", option)))

    one, two = (new_lan.host() for _ in range(2))
    start(one, "of sampan")
    one.sampan("network", "create", "-d", "overlay", "backend")
    one.run("web", "--network", "backend")
    assert one.info()["ClusterState"]["State"] == "connected"
    start(two, "of somebody")
    state = two.info()["ClusterState"]
    assert state["State"] == "unreachable" and "invalid user ID or password" in state["Error"]
    assert "of somebody" not in str(two.info()) + two.engine.log.read_text()
    two.engine.terminate()
    start(two, "of sampan")
    tools.until(lambda: "backend" in two.sampan("network", "ls"), "the network is known")
    two.run("db", "--network", "backend")
    tools.reaches(two, "db", "web")
