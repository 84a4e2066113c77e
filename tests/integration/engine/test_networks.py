"""Networks and ports of containers, end to end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sampan.engine.config import EndpointSettings
from sampan.errors import Unavailable
from sampan.storage.metadata import Metadata

pytestmark = pytest.mark.root


async def fetch(address: str, port: int) -> str:
    """What a server there says; retried until it listens."""
    for _ in range(400):
        try:
            reader, writer = await asyncio.open_connection(address, port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        answer = (await reader.read()).decode()
        writer.close()
        if answer:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"nobody answers at {address}:{port}")


_SERVER = "while :; do echo served | nc -l -p 80; done"


def test_a_published_port_leads_to_the_container_until_it_ends(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "box:1", "sh", "-c", _SERVER)
        body = await engine.containers.inspect("web")
        port = int(body["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
        assert await fetch("127.0.0.1", port) == "served\n"
        code, _, err = await engine.docker(
            "run", "-p", f"127.0.0.1:{port}:80", "--name", "late", "box:1", "true"
        )
        assert code == 125
        assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in err
        await engine.containers.stop("web", 0)
        assert await engine.containers.start("late")

    place.run(test)


def test_containers_of_a_network_find_each_other_by_name_and_alias(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("network", "create", "front")
        await engine.docker(
            "run",
            "-d",
            "--name",
            "db",
            "--network",
            "front",
            "--network-alias",
            "store",
            "box:1",
            "sleep",
            "1000",
        )
        address = engine.containers.record("db").endpoints["front"].spec.address.partition("/")[0]
        for name in ("db", "store", engine.containers.record("db").id[:12]):
            code, out, _ = await engine.docker(
                "run", "--rm", "--network", "front", "box:1", "ping", "-c1", "-W2", name
            )
            assert code == 0 and address in out
        await engine.docker("rename", "db", "renamed")
        code, out, _ = await engine.docker(
            "run", "--rm", "--network", "front", "box:1", "ping", "-c1", "-W2", "renamed"
        )
        assert code == 0 and address in out

    place.run(test)


def test_a_fixed_address_needs_a_subnet_of_ones_own(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("network", "create", "auto")
        await engine.docker("network", "create", "--subnet", "10.217.0.0/24", "fixed")
        code, _, err = await engine.docker(
            "run", "--rm", "--network", "auto", "--ip", "1.2.3.4", "box:1", "true"
        )
        assert code == 125 and "user configured subnets" in err
        code, out, _ = await engine.docker(
            "run", "--rm", "--network", "fixed", "--ip", "10.217.0.77", "box:1", "ip", "-o", "-4", "addr"
        )
        assert "10.217.0.77/24" in out

    place.run(test)


def test_a_running_container_is_connected_and_disconnected(place: Any) -> None:
    async def test(engine: Any) -> None:
        async def sandbox() -> Any:
            body = await engine.containers.inspect("moves")
            return body["NetworkSettings"]["SandboxID"]

        await engine.docker("network", "create", "extra")
        await engine.docker("run", "-d", "--name", "moves", "box:1", "sleep", "1000")
        assert (await engine.docker("network", "connect", "extra", "moves"))[0] == 0
        code, _, err = await engine.docker("network", "connect", "extra", "moves")
        assert code == 1 and "endpoint with name moves already exists in network extra" in err
        assert "eth1" in (await engine.docker("exec", "moves", "ip", "addr"))[1]
        assert "moves" in (await engine.docker("network", "inspect", "extra"))[1]
        code, _, err = await engine.docker("network", "rm", "extra")
        assert code == 1 and "has active endpoints" in err
        await engine.docker("network", "disconnect", "extra", "moves")
        assert "eth1" not in (await engine.docker("exec", "moves", "ip", "addr"))[1]
        known = await sandbox()
        await engine.docker("network", "disconnect", "bridge", "moves")
        assert known and await sandbox() == known, "the same also without a network"
        assert (await engine.docker("network", "rm", "extra"))[0] == 0

    place.run(test)


def test_modes_host_none_and_container_are_what_they_say(place: Any) -> None:
    async def test(engine: Any) -> None:
        await engine.docker("run", "-d", "--name", "donor", "box:1", "sleep", "1000")
        address = engine.containers.record("donor").endpoints["bridge"].spec.address
        run = ("run", "--rm", "--network")
        assert address in (await engine.docker(*run, "container:donor", "box:1", "ip", "addr"))[1]
        assert "eth0" not in (await engine.docker(*run, "none", "box:1", "ip", "addr"))[1]
        assert engine.settings.instance in (await engine.docker(*run, "host", "box:1", "ip", "addr"))[1]
        await engine.containers.stop("donor", 0)
        code, _, err = await engine.docker(*run, "container:donor", "box:1", "true")
        assert code == 125 and "cannot join network of a non running container" in err

    place.run(test)


def test_predefined_networks_stay(place: Any) -> None:
    async def test(engine: Any) -> None:
        code, _, err = await engine.docker("network", "rm", "bridge")
        assert code == 1 and "bridge is a pre-defined network and cannot be removed" in err
        _, out, _ = await engine.docker("network", "ls", "--format", "{{.Name}} {{.Driver}}")
        assert sorted(out.splitlines()) == ["bridge bridge", "host host", "none null"]
        code, _, err = await engine.docker("network", "create", "bridge")
        assert code == 1 and "operation is not permitted on predefined bridge network" in err

    place.run(test)


def test_a_connection_that_can_not_be_written_down_is_none(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at that instant, while the container runs and when it does not."""

    async def test(engine: Any) -> None:
        await engine.docker("network", "create", "second")
        await engine.docker("run", "-d", "--name", "it", "box:1", "sleep", "1000")
        for running in (True, False):
            before = engine.containers.record("it")
            with monkeypatch.context() as patched:
                patched.setattr(Metadata, "put", full)
                with pytest.raises(Unavailable, match="disk is full"):
                    await engine.containers.connect("second", "it", EndpointSettings())
            assert engine.containers.record("it").endpoints == before.endpoints
            if running:
                links = (await engine.docker("exec", "it", "ls", "/sys/class/net"))[1].split()
                assert sorted(links) == ["eth0", "lo"]
                await engine.containers.connect("second", "it", EndpointSettings())
                links = (await engine.docker("exec", "it", "ls", "/sys/class/net"))[1].split()
                assert sorted(links) == ["eth0", "eth1", "lo"]
                await engine.containers.disconnect("second", "it")
                await engine.containers.stop("it", 0)
        await engine.containers.connect("second", "it", EndpointSettings())
        with monkeypatch.context() as patched:
            patched.setattr(Metadata, "put", full)
            with pytest.raises(Unavailable, match="disk is full"):
                await engine.containers.disconnect("second", "it")
        assert "second" in engine.containers.record("it").endpoints

    def full(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full")

    place.run(test)
